// A program of the CUDA runtime, as `cargo xtask client` compiles and runs it on the emulated
// device.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

namespace cg = cooperative_groups;

static int failures = 0;

#define CHECK(condition)                                        \
    do {                                                        \
        if (!(condition)) {                                     \
            std::printf("line %d: %s\n", __LINE__, #condition); \
            ++failures;                                         \
        }                                                       \
    } while (0)
#define SUCCEEDS(call) CHECK((call) == cudaSuccess)

constexpr int N = 256;

__device__ int counter;
__constant__ float factors[2];

__global__ void scale(float* values, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) values[i] = values[i] * factors[0] + factors[1];
}

__global__ void count() { atomicAdd(&counter, 1); }

__global__ void shared_sum(const int* values, int* sum, int n) {
    extern __shared__ int tile[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) tile[i] = values[i];
    __syncthreads();
    if (threadIdx.x == 0) {
        int total = 0;
        for (int i = 0; i < n; ++i) total += tile[i];
        *sum = total;
    }
}

// Each block adds what all blocks had before.
__global__ void rounds(int* values, int* sums) {
    auto grid = cg::this_grid();
    if (threadIdx.x == 0) values[blockIdx.x] = blockIdx.x + 1;
    grid.sync();
    if (threadIdx.x == 0) {
        int sum = 0;
        for (unsigned block = 0; block < gridDim.x; ++block) sum += values[block];
        sums[blockIdx.x] = sum;
    }
}

template <class T>
T* device_memory(size_t count) {
    void* address = nullptr;
    SUCCEEDS(cudaMalloc(&address, count * sizeof(T)));
    return static_cast<T*>(address);
}

static void CUDART_CB raise(void* flag) { ++*static_cast<int*>(flag); }

static void device() {
    int devices = 0;
    SUCCEEDS(cudaGetDeviceCount(&devices));
    CHECK(devices == 1);
    cudaDeviceProp properties;
    SUCCEEDS(cudaGetDeviceProperties(&properties, 0));
    CHECK(!std::strncmp(properties.name, "Emulated ", 9) && properties.warpSize == 32);
    CHECK(properties.maxThreadsPerBlock == 1024 && properties.major >= 8);
    CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
    CHECK(cudaGetLastError() == cudaErrorInvalidDevice && cudaGetLastError() == cudaSuccess);
    CHECK(!std::strcmp(cudaGetErrorString(cudaErrorInvalidValue), "invalid argument"));
}

static void memory_and_launches() {
    float host[N], given[2] = {2, 1};
    for (int i = 0; i < N; ++i) host[i] = i;
    float* values = device_memory<float>(N);
    SUCCEEDS(cudaMemcpy(values, host, sizeof host, cudaMemcpyHostToDevice));
    SUCCEEDS(cudaMemcpyToSymbol(factors, given, sizeof given));
    scale<<<N / 64, 64>>>(values, N);
    SUCCEEDS(cudaGetLastError());
    SUCCEEDS(cudaDeviceSynchronize());
    SUCCEEDS(cudaMemcpy(host, values, sizeof host, cudaMemcpyDefault));
    CHECK(host[0] == 1 && host[N - 1] == 2 * (N - 1) + 1);
    scale<<<1, 2000>>>(values, N);
    CHECK(cudaPeekAtLastError() == cudaErrorInvalidConfiguration);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
    int zero = 0, counted = 0;
    SUCCEEDS(cudaMemcpyToSymbol(counter, &zero, sizeof zero));
    count<<<3, 32>>>();
    SUCCEEDS(cudaMemcpyFromSymbol(&counted, counter, sizeof counted));
    CHECK(counted == 96);
    void* pitched;
    size_t pitch;
    SUCCEEDS(cudaMallocPitch(&pitched, &pitch, 20, 4));
    SUCCEEDS(cudaMemcpy2D(pitched, pitch, host, 20, 20, 4, cudaMemcpyHostToDevice));
    char back[80];
    SUCCEEDS(cudaMemcpy2D(back, 20, pitched, pitch, 20, 4, cudaMemcpyDeviceToHost));
    CHECK(!std::memcmp(back, host, 80));
    SUCCEEDS(cudaFree(pitched));
    SUCCEEDS(cudaFree(values));
    SUCCEEDS(cudaFree(nullptr));
}

static void functions() {
    cudaFuncAttributes attributes;
    SUCCEEDS(cudaFuncGetAttributes(&attributes, scale));
    CHECK(attributes.maxThreadsPerBlock == 1024);
    constexpr int count = 16 << 10;
    int *values = device_memory<int>(count), *sum = device_memory<int>(1), found = 0;
    SUCCEEDS(cudaMemset(values, 0, count * sizeof(int)));
    SUCCEEDS(cudaMemset(values, 1, sizeof(int)));
    shared_sum<<<1, 64, count * sizeof(int)>>>(values, sum, count);
    CHECK(cudaGetLastError() == cudaErrorInvalidValue);
    SUCCEEDS(cudaFuncSetAttribute(shared_sum, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  count * sizeof(int)));
    shared_sum<<<1, 64, count * sizeof(int)>>>(values, sum, count);
    SUCCEEDS(cudaGetLastError());
    SUCCEEDS(cudaMemcpy(&found, sum, sizeof found, cudaMemcpyDeviceToHost));
    CHECK(found == 0x01010101);
    int blocks = 0, grid = 0, block = 0;
    SUCCEEDS(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, scale, 256, 0));
    CHECK(blocks >= 4);
    SUCCEEDS(cudaOccupancyMaxPotentialBlockSize(&grid, &block, scale));
    CHECK(grid > 0 && block >= 32);
    SUCCEEDS(cudaFree(values));
    SUCCEEDS(cudaFree(sum));
}

static void cooperative() {
    int *values = device_memory<int>(8), *sums = device_memory<int>(8), found[8];
    void* arguments[] = {&values, &sums};
    SUCCEEDS(cudaLaunchCooperativeKernel(rounds, dim3(8), dim3(32), arguments));
    SUCCEEDS(cudaMemcpy(found, sums, sizeof found, cudaMemcpyDeviceToHost));
    CHECK(found[0] == 36 && found[7] == 36);
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    config.gridDim = 4;
    config.blockDim = 32;
    config.attrs = &attribute;
    config.numAttrs = 1;
    SUCCEEDS(cudaLaunchKernelEx(&config, rounds, values, sums));
    SUCCEEDS(cudaMemcpy(found, sums, sizeof found, cudaMemcpyDeviceToHost));
    CHECK(found[0] == 10 && found[7] == 36);
    SUCCEEDS(cudaFree(values));
    SUCCEEDS(cudaFree(sums));
}

static void streams_and_events() {
    cudaStream_t first, second;
    cudaEvent_t begin, end;
    SUCCEEDS(cudaStreamCreate(&first));
    SUCCEEDS(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
    SUCCEEDS(cudaEventCreate(&begin));
    SUCCEEDS(cudaEventCreate(&end));
    int *values, host[2] = {3, 4}, found[2] = {0, 0}, called = 0;
    void* memory = nullptr;
    SUCCEEDS(cudaMallocAsync(&memory, sizeof host, first));
    values = static_cast<int*>(memory);
    SUCCEEDS(cudaEventRecord(begin, first));
    SUCCEEDS(cudaMemcpyAsync(values, host, sizeof host, cudaMemcpyHostToDevice, first));
    SUCCEEDS(cudaEventRecord(end, first));
    SUCCEEDS(cudaStreamWaitEvent(second, end));
    SUCCEEDS(cudaMemcpyAsync(found, values, sizeof found, cudaMemcpyDeviceToHost, second));
    SUCCEEDS(cudaLaunchHostFunc(second, raise, &called));
    SUCCEEDS(cudaStreamSynchronize(second));
    CHECK(found[0] == 3 && found[1] == 4 && called == 1);
    SUCCEEDS(cudaEventQuery(end));
    float milliseconds = -1;
    SUCCEEDS(cudaEventElapsedTime(&milliseconds, begin, end));
    CHECK(milliseconds >= 0);
    SUCCEEDS(cudaFreeAsync(values, first));
    SUCCEEDS(cudaStreamDestroy(first));
    CHECK(cudaStreamSynchronize(first) == cudaErrorInvalidResourceHandle);
    cudaGetLastError();
    SUCCEEDS(cudaStreamDestroy(second));
    SUCCEEDS(cudaEventDestroy(begin));
    SUCCEEDS(cudaEventDestroy(end));
}

static void graphs() {
    cudaStream_t stream;
    cudaGraph_t captured, built;
    cudaGraphExec_t executable;
    float *values = device_memory<float>(N), given[2] = {1, 5}, found[N];
    SUCCEEDS(cudaMemcpyToSymbol(factors, given, sizeof given));
    SUCCEEDS(cudaStreamCreate(&stream));
    SUCCEEDS(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    SUCCEEDS(cudaMemsetAsync(values, 0, N * sizeof(float), stream));
    scale<<<1, N, 0, stream>>>(values, N);
    SUCCEEDS(cudaStreamEndCapture(stream, &captured));
    SUCCEEDS(cudaGraphInstantiate(&executable, captured, 0));
    SUCCEEDS(cudaGraphLaunch(executable, stream));
    SUCCEEDS(cudaStreamSynchronize(stream));
    SUCCEEDS(cudaMemcpy(found, values, sizeof found, cudaMemcpyDeviceToHost));
    CHECK(found[0] == 5 && found[N - 1] == 5);
    SUCCEEDS(cudaGraphExecDestroy(executable));

    cudaGraphNode_t filled, scaled, copied;
    SUCCEEDS(cudaGraphCreate(&built, 0));
    cudaMemsetParams fill = {};
    fill.dst = values;
    fill.elementSize = 4;
    fill.width = N;
    fill.height = 1;
    int n = N;
    void* arguments[] = {&values, &n};
    cudaKernelNodeParams kernel = {};
    kernel.func = reinterpret_cast<void*>(scale);
    kernel.gridDim = 1;
    kernel.blockDim = N;
    kernel.kernelParams = arguments;
    SUCCEEDS(cudaGraphAddMemsetNode(&filled, built, nullptr, 0, &fill));
    SUCCEEDS(cudaGraphAddKernelNode(&scaled, built, &filled, 1, &kernel));
    SUCCEEDS(cudaGraphAddMemcpyNode1D(&copied, built, &scaled, 1, found, values, sizeof found,
                                      cudaMemcpyDeviceToHost));
    std::memset(found, 0, sizeof found);
    SUCCEEDS(cudaGraphInstantiate(&executable, built, 0));
    SUCCEEDS(cudaGraphLaunch(executable, stream));
    SUCCEEDS(cudaStreamSynchronize(stream));
    CHECK(found[0] == 5 && found[N - 1] == 5);
    SUCCEEDS(cudaGraphExecDestroy(executable));
    SUCCEEDS(cudaGraphDestroy(built));
    SUCCEEDS(cudaGraphDestroy(captured));
    SUCCEEDS(cudaStreamDestroy(stream));
    SUCCEEDS(cudaFree(values));
}

// A fault stays, as on hardware: the last thing that a program can do.
static void fault() {
    scale<<<1, 32>>>(reinterpret_cast<float*>(0x10), 32);
    CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
    CHECK(cudaGetLastError() == cudaErrorIllegalAddress);
    CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
}

int main() {
    device();
    memory_and_launches();
    functions();
    cooperative();
    streams_and_events();
    graphs();
    fault();
    std::printf("%d checks of the CUDA runtime failed\n", failures);
    return failures ? 1 : 0;
}
