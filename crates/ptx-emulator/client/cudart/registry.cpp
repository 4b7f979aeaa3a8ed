// What nvcc's host code calls before main: fat binaries, kernels and variables; and launches.
#include <fatbinary_section.h>

#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "driver.h"

namespace {

struct Binary {
    const void* image;
    CUlibrary library;
    cudaError_t error;
    bool is_loaded;
};

struct Symbol {
    Binary* binary;
    std::string name;
};

struct Registry {
    std::mutex lock;
    std::unordered_map<const void*, Symbol> kernels;
    std::unordered_map<const void*, Symbol> variables;
};

// Never destroyed: programs launch from destructors of static objects.
Registry& registry() {
    static Registry* all = new Registry;
    return *all;
}

struct Configuration {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
};

thread_local std::vector<Configuration> configurations;
// Why the last kernel that a launch asked for is not there.
thread_local cudaError_t missing_kernel = cudaErrorInvalidDeviceFunction;

cudaError_t load(Binary* binary) {
    cudaError_t error = cudart::ready();
    if (error != cudaSuccess || binary->is_loaded)
        return error != cudaSuccess ? error : binary->error;
    binary->is_loaded = true;
    binary->error = cudart::code(CU(cuLibraryLoadData, &binary->library, binary->image, nullptr,
                                    nullptr, 0, nullptr, nullptr, 0));
    return binary->error;
}

cudaError_t locate(std::unordered_map<const void*, Symbol>& table, const void* host,
                   cudaError_t unknown, Symbol* found) {
    std::lock_guard<std::mutex> guard(registry().lock);
    auto entry = table.find(host);
    if (entry == table.end()) return unknown;
    *found = entry->second;
    return load(found->binary);
}

bool fits(dim3 size, const int (&most)[3]) {
    unsigned sizes[3] = {size.x, size.y, size.z};
    for (int axis = 0; axis < 3; ++axis)
        if (sizes[axis] == 0 || sizes[axis] > static_cast<unsigned>(most[axis])) return false;
    return true;
}

int attribute(CUdevice_attribute which) {
    int value = 0;
    CU(cuDeviceGetAttribute, &value, which, 0);
    return value;
}

// The runtime has a code of its own for a shape that no launch can have.
bool is_possible(dim3 grid, dim3 block) {
    static const int grids[3] = {attribute(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X),
                                 attribute(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y),
                                 attribute(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z)};
    static const int blocks[3] = {attribute(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X),
                                  attribute(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y),
                                  attribute(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z)};
    static const unsigned long long threads = attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    return fits(grid, grids) && fits(block, blocks) &&
           1ull * block.x * block.y * block.z <= threads;
}

cudaError_t launch(CUkernel kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                   CUstream stream, bool is_cooperative) {
    cudaError_t error = cudart::ready();
    if (error == cudaSuccess && !is_possible(grid, block)) error = cudaErrorInvalidConfiguration;
    if (error == cudaSuccess && shared > 0xffffffffu) error = cudaErrorInvalidValue;
    if (error != cudaSuccess) return cudart::keep(error);
    auto function = reinterpret_cast<CUfunction>(kernel);
    auto bytes = static_cast<unsigned>(shared);
    CUresult result = is_cooperative
                          ? CU(cuLaunchCooperativeKernel, function, grid.x, grid.y, grid.z, block.x,
                               block.y, block.z, bytes, stream, arguments)
                          : CU(cuLaunchKernel, function, grid.x, grid.y, grid.z, block.x, block.y,
                               block.z, bytes, stream, arguments, nullptr);
    return cudart::keep(cudart::code(result));
}

cudaError_t launch(const void* host, dim3 grid, dim3 block, void** arguments, size_t shared,
                   CUstream stream, bool is_cooperative) {
    CUkernel kernel;
    cudaError_t error = cudart::find_kernel(&kernel, host);
    if (error != cudaSuccess) return cudart::keep(error);
    return launch(kernel, grid, block, arguments, shared, stream, is_cooperative);
}

CUstream own_stream(cudaStream_t stream) { return stream ? stream : CU_STREAM_PER_THREAD; }

}  // namespace

namespace cudart {

cudaError_t find_kernel(CUkernel* kernel, const void* host) {
    Symbol symbol;
    cudaError_t error = locate(registry().kernels, host, cudaErrorInvalidDeviceFunction, &symbol);
    if (error != cudaSuccess) return error;
    error = code(CU(cuLibraryGetKernel, kernel, symbol.binary->library, symbol.name.c_str()));
    return error == cudaErrorSymbolNotFound ? cudaErrorInvalidDeviceFunction : error;
}

cudaError_t find_function(CUfunction* function, const void* host) {
    CUkernel kernel;
    cudaError_t error = find_kernel(&kernel, host);
    return error != cudaSuccess ? error : code(CU(cuKernelGetFunction, function, kernel));
}

cudaError_t find_variable(CUdeviceptr* address, size_t* bytes, const void* host) {
    Symbol symbol;
    cudaError_t error = locate(registry().variables, host, cudaErrorInvalidSymbol, &symbol);
    if (error != cudaSuccess) return error;
    error =
        code(CU(cuLibraryGetGlobal, address, bytes, symbol.binary->library, symbol.name.c_str()));
    return error == cudaErrorSymbolNotFound ? cudaErrorInvalidSymbol : error;
}

}  // namespace cudart

extern "C" {

void** CUDARTAPI __cudaRegisterFatBinary(void* wrapper) {
    auto data = static_cast<const __fatBinC_Wrapper_t*>(wrapper)->data;
    return reinterpret_cast<void**>(new Binary{data, nullptr, cudaSuccess, false});
}

void CUDARTAPI __cudaRegisterFatBinaryEnd(void**) {}

// The program ends, and its libraries with it.
void CUDARTAPI __cudaUnregisterFatBinary(void**) {}

char CUDARTAPI __cudaInitModule(void** binary) {
    std::lock_guard<std::mutex> guard(registry().lock);
    return load(reinterpret_cast<Binary*>(binary)) == cudaSuccess;
}

void CUDARTAPI __cudaRegisterFunction(void** binary, const char* host, char*, const char* name, int,
                                      uint3*, uint3*, dim3*, dim3*, int*) {
    std::lock_guard<std::mutex> guard(registry().lock);
    registry().kernels[host] = {reinterpret_cast<Binary*>(binary), name};
}

void CUDARTAPI __cudaRegisterVar(void** binary, char* host, char*, const char* name, int, size_t,
                                 int, int) {
    std::lock_guard<std::mutex> guard(registry().lock);
    registry().variables[host] = {reinterpret_cast<Binary*>(binary), name};
}

// The driver refuses managed memory when it loads such a module.
void CUDARTAPI __cudaRegisterManagedVar(void** binary, void** host, char*, const char* name, int,
                                        size_t, int, int) {
    std::lock_guard<std::mutex> guard(registry().lock);
    registry().variables[host] = {reinterpret_cast<Binary*>(binary), name};
}

unsigned CUDARTAPI __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared,
                                               struct CUstream_st* stream) {
    configurations.push_back({grid, block, shared, stream});
    return 0;
}

cudaError_t CUDARTAPI __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared,
                                                 void* stream) {
    if (configurations.empty()) return cudaErrorMissingConfiguration;
    Configuration last = configurations.back();
    configurations.pop_back();
    *grid = last.grid;
    *block = last.block;
    *shared = last.shared;
    *static_cast<cudaStream_t*>(stream) = last.stream;
    return cudaSuccess;
}

cudaError_t CUDARTAPI __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
    cudaError_t error = cudart::find_kernel(kernel, host);
    if (error != cudaSuccess) {
        *kernel = nullptr;
        missing_kernel = error;
    }
    return error;
}

cudaError_t CUDARTAPI __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block,
                                         void** arguments, size_t shared, cudaStream_t stream) {
    if (!kernel) return cudart::keep(missing_kernel);
    return launch(kernel, grid, block, arguments, shared, stream, false);
}

cudaError_t CUDARTAPI __cudaLaunchKernel_ptsz(cudaKernel_t kernel, dim3 grid, dim3 block,
                                              void** arguments, size_t shared,
                                              cudaStream_t stream) {
    if (!kernel) return cudart::keep(missing_kernel);
    return launch(kernel, grid, block, arguments, shared, own_stream(stream), false);
}

cudaError_t CUDARTAPI cudaLaunchKernel(const void* host, dim3 grid, dim3 block, void** arguments,
                                       size_t shared, cudaStream_t stream) {
    return launch(host, grid, block, arguments, shared, stream, false);
}

cudaError_t CUDARTAPI cudaLaunchCooperativeKernel(const void* host, dim3 grid, dim3 block,
                                                  void** arguments, size_t shared,
                                                  cudaStream_t stream) {
    return launch(host, grid, block, arguments, shared, stream, true);
}

cudaError_t CUDARTAPI cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* host,
                                          void** arguments) {
    static_assert(sizeof(cudaLaunchAttribute) == sizeof(CUlaunchAttribute),
                  "the driver's attributes");
    CUkernel kernel;
    cudaError_t error = cudart::find_kernel(&kernel, host);
    if (error == cudaSuccess && !is_possible(config->gridDim, config->blockDim))
        error = cudaErrorInvalidConfiguration;
    if (error != cudaSuccess) return cudart::keep(error);
    CUlaunchConfig driver = {};
    driver.gridDimX = config->gridDim.x;
    driver.gridDimY = config->gridDim.y;
    driver.gridDimZ = config->gridDim.z;
    driver.blockDimX = config->blockDim.x;
    driver.blockDimY = config->blockDim.y;
    driver.blockDimZ = config->blockDim.z;
    driver.sharedMemBytes = static_cast<unsigned>(config->dynamicSmemBytes);
    driver.hStream = config->stream;
    driver.attrs = reinterpret_cast<CUlaunchAttribute*>(config->attrs);
    driver.numAttrs = config->numAttrs;
    auto function = reinterpret_cast<CUfunction>(kernel);
    return cudart::keep(cudart::code(CU(cuLaunchKernelEx, &driver, function, arguments, nullptr)));
}

cudaError_t CUDARTAPI cudaGetKernel(cudaKernel_t* kernel, const void* host) {
    return cudart::keep(cudart::find_kernel(kernel, host));
}

cudaError_t CUDARTAPI cudaGetFuncBySymbol(cudaFunction_t* function, const void* host) {
    return cudart::keep(cudart::find_function(function, host));
}

cudaError_t CUDARTAPI cudaGetSymbolAddress(void** address, const void* host) {
    size_t bytes;
    return cudart::keep(
        cudart::find_variable(reinterpret_cast<CUdeviceptr*>(address), &bytes, host));
}

cudaError_t CUDARTAPI cudaGetSymbolSize(size_t* bytes, const void* host) {
    CUdeviceptr address;
    return cudart::keep(cudart::find_variable(&address, bytes, host));
}

}  // extern "C"
