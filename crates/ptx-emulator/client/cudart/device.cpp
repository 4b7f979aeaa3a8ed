// The device, its errors and limits, and attributes and occupancy of kernels.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "driver.h"

namespace {

thread_local cudaError_t last_error = cudaSuccess;

void* driver() {
    static void* library = [] {
        void* found = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
        return found ? found : dlopen("libcuda.so", RTLD_NOW | RTLD_GLOBAL);
    }();
    return library;
}

// Whether the driver works, and the primary context.
struct Start {
    cudaError_t error;
    CUcontext context;
};

const Start& start() {
    static Start once = [] {
        Start made = {cudaErrorInsufficientDriver, nullptr};
        if (!driver()) return made;
        made.error = cudart::code(CU(cuInit, 0));
        if (made.error == cudaSuccess)
            made.error = cudart::code(CU(cuDevicePrimaryCtxRetain, &made.context, 0));
        return made;
    }();
    return once;
}

int attribute(CUdevice_attribute which) {
    int value = 0;
    CU(cuDeviceGetAttribute, &value, which, 0);
    return value;
}

// Attributes of a kernel that the driver can't tell are 0.
int attribute(CUfunction function, CUfunction_attribute which) {
    int value = 0;
    CU(cuFuncGetAttribute, &value, which, function);
    return value;
}

template <class Call>
cudaError_t of_function(const void* host, Call call) {
    CUfunction function;
    cudaError_t error = cudart::find_function(&function, host);
    return cudart::keep(error != cudaSuccess ? error : cudart::code(call(function)));
}

cudaError_t check(int device) {
    cudaError_t error = cudart::ready();
    if (error != cudaSuccess) return error;
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

const char* text(cudaError_t error, bool is_name) {
    switch (error) {
        case cudaErrorInvalidConfiguration:
            return is_name ? "cudaErrorInvalidConfiguration" : "invalid configuration argument";
        case cudaErrorInvalidSymbol:
            return is_name ? "cudaErrorInvalidSymbol" : "invalid device symbol";
        case cudaErrorInsufficientDriver:
            return is_name ? "cudaErrorInsufficientDriver"
                           : "CUDA driver version is insufficient for CUDA runtime version";
        case cudaErrorMissingConfiguration:
            return is_name ? "cudaErrorMissingConfiguration" : "missing configuration";
        case cudaErrorInvalidDeviceFunction:
            return is_name ? "cudaErrorInvalidDeviceFunction" : "invalid device function";
        default:
            break;
    }
    const char* found = nullptr;
    if (driver()) {
        auto result = static_cast<CUresult>(error);
        if (is_name)
            CU(cuGetErrorName, result, &found);
        else
            CU(cuGetErrorString, result, &found);
    }
    return found ? found : "unrecognized error code";
}

}  // namespace

namespace cudart {

void* entry(const char* name) {
    void* address = driver() ? dlsym(driver(), name) : nullptr;
    if (!address) {
        std::fprintf(stderr, "cudart: the CUDA driver has no %s\n", name);
        std::abort();
    }
    return address;
}

cudaError_t ready() {
    const Start& made = start();
    if (made.error != cudaSuccess) return made.error;
    CUcontext current = nullptr;
    CUresult result = CU(cuCtxGetCurrent, &current);
    if (result == CUDA_SUCCESS && !current) result = CU(cuCtxSetCurrent, made.context);
    return code(result);
}

cudaError_t keep(cudaError_t error) {
    // That work is not done yet is no error to remember.
    if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
    return error;
}

}  // namespace cudart

extern "C" {

cudaError_t CUDARTAPI cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t CUDARTAPI cudaPeekAtLastError(void) { return last_error; }

const char* CUDARTAPI cudaGetErrorString(cudaError_t error) { return text(error, false); }

// The driver's names differ from the runtime's in their form.
const char* CUDARTAPI cudaGetErrorName(cudaError_t error) {
    return error == cudaSuccess ? "cudaSuccess" : text(error, true);
}

cudaError_t CUDARTAPI cudaGetDeviceCount(int* count) {
    return cudart::run([&] { return CU(cuDeviceGetCount, count); });
}

cudaError_t CUDARTAPI cudaGetDevice(int* device) {
    *device = 0;
    return cudart::keep(cudart::ready());
}

cudaError_t CUDARTAPI cudaSetDevice(int device) { return cudart::keep(check(device)); }

cudaError_t CUDARTAPI cudaInitDevice(int device, unsigned, unsigned) {
    return cudart::keep(check(device));
}

cudaError_t CUDARTAPI cudaSetDeviceFlags(unsigned flags) {
    return cudart::run([&] { return CU(cuCtxSetFlags, flags); });
}

cudaError_t CUDARTAPI cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    return cudart::run([&] {
        return CU(cuDeviceGetAttribute, value, static_cast<CUdevice_attribute>(attribute), device);
    });
}

cudaError_t CUDARTAPI cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    cudaError_t error = check(device);
    if (error != cudaSuccess) return cudart::keep(error);
    cudaDeviceProp& p = *properties;
    std::memset(&p, 0, sizeof p);
    CU(cuDeviceGetName, p.name, sizeof p.name, device);
    CU(cuDeviceGetUuid, &p.uuid, device);
    CU(cuDeviceTotalMem, &p.totalGlobalMem, device);
#define FILL(field, name) p.field = attribute(CU_DEVICE_ATTRIBUTE_##name)
    FILL(sharedMemPerBlock, MAX_SHARED_MEMORY_PER_BLOCK);
    FILL(regsPerBlock, MAX_REGISTERS_PER_BLOCK);
    FILL(warpSize, WARP_SIZE);
    FILL(memPitch, MAX_PITCH);
    FILL(maxThreadsPerBlock, MAX_THREADS_PER_BLOCK);
    FILL(maxThreadsDim[0], MAX_BLOCK_DIM_X);
    FILL(maxThreadsDim[1], MAX_BLOCK_DIM_Y);
    FILL(maxThreadsDim[2], MAX_BLOCK_DIM_Z);
    FILL(maxGridSize[0], MAX_GRID_DIM_X);
    FILL(maxGridSize[1], MAX_GRID_DIM_Y);
    FILL(maxGridSize[2], MAX_GRID_DIM_Z);
    FILL(totalConstMem, TOTAL_CONSTANT_MEMORY);
    FILL(major, COMPUTE_CAPABILITY_MAJOR);
    FILL(minor, COMPUTE_CAPABILITY_MINOR);
    FILL(textureAlignment, TEXTURE_ALIGNMENT);
    FILL(texturePitchAlignment, TEXTURE_PITCH_ALIGNMENT);
    FILL(multiProcessorCount, MULTIPROCESSOR_COUNT);
    FILL(integrated, INTEGRATED);
    FILL(canMapHostMemory, CAN_MAP_HOST_MEMORY);
    FILL(concurrentKernels, CONCURRENT_KERNELS);
    FILL(ECCEnabled, ECC_ENABLED);
    FILL(pciBusID, PCI_BUS_ID);
    FILL(pciDeviceID, PCI_DEVICE_ID);
    FILL(pciDomainID, PCI_DOMAIN_ID);
    FILL(asyncEngineCount, ASYNC_ENGINE_COUNT);
    FILL(unifiedAddressing, UNIFIED_ADDRESSING);
    FILL(memoryBusWidth, GLOBAL_MEMORY_BUS_WIDTH);
    FILL(l2CacheSize, L2_CACHE_SIZE);
    FILL(maxThreadsPerMultiProcessor, MAX_THREADS_PER_MULTIPROCESSOR);
    FILL(streamPrioritiesSupported, STREAM_PRIORITIES_SUPPORTED);
    FILL(globalL1CacheSupported, GLOBAL_L1_CACHE_SUPPORTED);
    FILL(localL1CacheSupported, LOCAL_L1_CACHE_SUPPORTED);
    FILL(sharedMemPerMultiprocessor, MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
    FILL(regsPerMultiprocessor, MAX_REGISTERS_PER_MULTIPROCESSOR);
    FILL(managedMemory, MANAGED_MEMORY);
    FILL(cooperativeLaunch, COOPERATIVE_LAUNCH);
    FILL(sharedMemPerBlockOptin, MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    FILL(maxBlocksPerMultiProcessor, MAX_BLOCKS_PER_MULTIPROCESSOR);
    FILL(reservedSharedMemPerBlock, RESERVED_SHARED_MEMORY_PER_BLOCK);
    FILL(memoryPoolsSupported, MEMORY_POOLS_SUPPORTED);
    FILL(clusterLaunch, CLUSTER_LAUNCH);
#undef FILL
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaDeviceSynchronize(void) {
    return cudart::run(
        [] { return reinterpret_cast<CUresult (*)()>(cudart::entry("cuCtxSynchronize"))(); });
}

cudaError_t CUDARTAPI cudaDeviceReset(void) {
    return cudart::run([] { return CU(cuDevicePrimaryCtxReset, 0); });
}

cudaError_t CUDARTAPI cudaDriverGetVersion(int* version) {
    return cudart::run([&] { return CU(cuDriverGetVersion, version); });
}

cudaError_t CUDARTAPI cudaRuntimeGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaDeviceGetLimit(size_t* value, cudaLimit limit) {
    return cudart::run([&] { return CU(cuCtxGetLimit, value, static_cast<CUlimit>(limit)); });
}

cudaError_t CUDARTAPI cudaDeviceSetLimit(cudaLimit limit, size_t value) {
    return cudart::run([&] { return CU(cuCtxSetLimit, static_cast<CUlimit>(limit), value); });
}

cudaError_t CUDARTAPI cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    return cudart::run([&] { return CU(cuCtxGetStreamPriorityRange, least, greatest); });
}

cudaError_t CUDARTAPI cudaDeviceCanAccessPeer(int* can, int device, int peer) {
    return cudart::run([&] { return CU(cuDeviceCanAccessPeer, can, device, peer); });
}

cudaError_t CUDARTAPI cudaGetDriverEntryPointByVersion(const char* symbol, void** address,
                                                       unsigned version, unsigned long long flags,
                                                       cudaDriverEntryPointQueryResult* status) {
    return cudart::run([&] {
        CUdriverProcAddressQueryResult found = CU_GET_PROC_ADDRESS_SUCCESS;
        CUresult result =
            CU(cuGetProcAddress, symbol, address, static_cast<int>(version), flags, &found);
        if (status) *status = static_cast<cudaDriverEntryPointQueryResult>(found);
        return result;
    });
}

cudaError_t CUDARTAPI cudaGetDriverEntryPoint(const char* symbol, void** address,
                                              unsigned long long flags,
                                              cudaDriverEntryPointQueryResult* status) {
    return cudaGetDriverEntryPointByVersion(symbol, address, CUDART_VERSION, flags, status);
}

cudaError_t CUDARTAPI cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* host) {
    return of_function(host, [&](CUfunction function) {
        std::memset(attributes, 0, sizeof *attributes);
        attributes->maxThreadsPerBlock =
            attribute(function, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
        attributes->sharedSizeBytes = attribute(function, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
        attributes->constSizeBytes = attribute(function, CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES);
        attributes->localSizeBytes = attribute(function, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES);
        attributes->numRegs = attribute(function, CU_FUNC_ATTRIBUTE_NUM_REGS);
        attributes->ptxVersion = attribute(function, CU_FUNC_ATTRIBUTE_PTX_VERSION);
        attributes->binaryVersion = attribute(function, CU_FUNC_ATTRIBUTE_BINARY_VERSION);
        attributes->maxDynamicSharedSizeBytes =
            attribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
        attributes->preferredShmemCarveout =
            attribute(function, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT);
        return CUDA_SUCCESS;
    });
}

cudaError_t CUDARTAPI cudaFuncSetAttribute(const void* host, cudaFuncAttribute attribute,
                                           int value) {
    return of_function(host, [&](CUfunction function) {
        return CU(cuFuncSetAttribute, function, static_cast<CUfunction_attribute>(attribute),
                  value);
    });
}

cudaError_t CUDARTAPI cudaFuncSetCacheConfig(const void* host, cudaFuncCache config) {
    return of_function(host, [&](CUfunction function) {
        return CU(cuFuncSetCacheConfig, function, static_cast<CUfunc_cache>(config));
    });
}

cudaError_t CUDARTAPI cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* blocks, const void* host, int threads, size_t shared, unsigned flags) {
    return of_function(host, [&](CUfunction function) {
        return CU(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, blocks, function, threads,
                  shared, flags);
    });
}

cudaError_t CUDARTAPI cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* host,
                                                                    int threads, size_t shared) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, host, threads, shared, 0);
}

cudaError_t CUDARTAPI cudaOccupancyAvailableDynamicSMemPerBlock(size_t* shared, const void* host,
                                                                int blocks, int threads) {
    return of_function(host, [&](CUfunction function) {
        return CU(cuOccupancyAvailableDynamicSMemPerBlock, shared, function, blocks, threads);
    });
}

}  // extern "C"
