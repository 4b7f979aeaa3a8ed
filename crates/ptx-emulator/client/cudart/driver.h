// The runtime API over the driver API: what its parts share. The driver is found when it is first
// needed, so that programs link without one.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

namespace cudart {

// Address of one of the driver's entry points; ends the program where the driver has none.
void* entry(const char* name);

#define CUDART_TEXT_(name) #name
#define CUDART_TEXT(name) CUDART_TEXT_(name)
// Calls the driver's entry point in the form that cuda.h chooses for the program.
#define CU(name, ...) \
    (reinterpret_cast<decltype(&name)>(::cudart::entry(CUDART_TEXT(name)))(__VA_ARGS__))

// Makes the device's primary context current unless the program has another one.
cudaError_t ready();

// Remembers an error for cudaGetLastError.
cudaError_t keep(cudaError_t error);

// The driver's codes are the runtime's, but for those that only the runtime has.
inline cudaError_t code(CUresult result) { return static_cast<cudaError_t>(result); }

// Runs a call of the driver when all is ready, and keeps its error.
template <class Call>
cudaError_t run(Call call) {
    cudaError_t error = ready();
    return keep(error != cudaSuccess ? error : code(call()));
}

// The kernel, or the variable, that a host address stands for.
cudaError_t find_kernel(CUkernel* kernel, const void* host);
cudaError_t find_function(CUfunction* function, const void* host);
cudaError_t find_variable(CUdeviceptr* address, size_t* bytes, const void* host);

inline CUdeviceptr device(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

}  // namespace cudart
