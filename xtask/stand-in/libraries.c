// cuBLAS and cuRAND without what they do: handles can be made, as candle does for every device.

int cublasCreate_v2(void** handle) {
    *handle = handle;
    return 0;
}

int cublasSetStream_v2(void* handle, void* stream) {
    return 0;
}

int cublasDestroy_v2(void* handle) {
    return 0;
}

int curandCreateGenerator(void** generator, int kind) {
    *generator = generator;
    return 0;
}

int curandSetPseudoRandomGeneratorSeed(void* generator, unsigned long long seed) {
    return 0;
}

int curandSetStream(void* generator, void* stream) {
    return 0;
}

int curandDestroyGenerator(void* generator) {
    return 0;
}
