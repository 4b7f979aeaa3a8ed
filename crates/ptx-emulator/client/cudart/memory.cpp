// Memory: allocations, copies and fills.
#include <cstring>

#include "driver.h"

using cudart::device;
using cudart::run;

namespace {

CUmemorytype kind_of(cudaMemcpyKind kind, bool is_source) {
    switch (kind) {
        case cudaMemcpyHostToHost:
            return CU_MEMORYTYPE_HOST;
        case cudaMemcpyHostToDevice:
            return is_source ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        case cudaMemcpyDeviceToHost:
            return is_source ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
        case cudaMemcpyDeviceToDevice:
            return CU_MEMORYTYPE_DEVICE;
        default:
            return CU_MEMORYTYPE_UNIFIED;
    }
}

CUDA_MEMCPY2D rows(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                   size_t height, cudaMemcpyKind kind) {
    CUDA_MEMCPY2D copy = {};
    copy.srcMemoryType = kind_of(kind, true);
    copy.srcHost = from;
    copy.srcDevice = device(from);
    copy.srcPitch = from_pitch;
    copy.dstMemoryType = kind_of(kind, false);
    copy.dstHost = to;
    copy.dstDevice = device(to);
    copy.dstPitch = to_pitch;
    copy.WidthInBytes = width;
    copy.Height = height;
    return copy;
}

// Places in memory without arrays are counted in bytes.
CUDA_MEMCPY3D layers(const cudaMemcpy3DParms& given) {
    CUDA_MEMCPY3D copy = {};
    copy.srcXInBytes = given.srcPos.x;
    copy.srcY = given.srcPos.y;
    copy.srcZ = given.srcPos.z;
    copy.srcMemoryType = given.srcArray ? CU_MEMORYTYPE_ARRAY : kind_of(given.kind, true);
    copy.srcHost = given.srcPtr.ptr;
    copy.srcDevice = device(given.srcPtr.ptr);
    copy.srcPitch = given.srcPtr.pitch;
    copy.srcHeight = given.srcPtr.ysize;
    copy.dstXInBytes = given.dstPos.x;
    copy.dstY = given.dstPos.y;
    copy.dstZ = given.dstPos.z;
    copy.dstMemoryType = given.dstArray ? CU_MEMORYTYPE_ARRAY : kind_of(given.kind, false);
    copy.dstHost = given.dstPtr.ptr;
    copy.dstDevice = device(given.dstPtr.ptr);
    copy.dstPitch = given.dstPtr.pitch;
    copy.dstHeight = given.dstPtr.ysize;
    copy.WidthInBytes = given.extent.width;
    copy.Height = given.extent.height;
    copy.Depth = given.extent.depth;
    return copy;
}

CUresult copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    switch (kind) {
        case cudaMemcpyHostToDevice:
            return CU(cuMemcpyHtoD, device(to), from, bytes);
        case cudaMemcpyDeviceToHost:
            return CU(cuMemcpyDtoH, to, device(from), bytes);
        case cudaMemcpyDeviceToDevice:
            return CU(cuMemcpyDtoD, device(to), device(from), bytes);
        case cudaMemcpyHostToHost:
        case cudaMemcpyDefault:
            return CU(cuMemcpy, device(to), device(from), bytes);
        default:
            return static_cast<CUresult>(cudaErrorInvalidMemcpyDirection);
    }
}

CUresult copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, CUstream stream) {
    switch (kind) {
        case cudaMemcpyHostToDevice:
            return CU(cuMemcpyHtoDAsync, device(to), from, bytes, stream);
        case cudaMemcpyDeviceToHost:
            return CU(cuMemcpyDtoHAsync, to, device(from), bytes, stream);
        case cudaMemcpyDeviceToDevice:
            return CU(cuMemcpyDtoDAsync, device(to), device(from), bytes, stream);
        case cudaMemcpyHostToHost:
        case cudaMemcpyDefault:
            return CU(cuMemcpyAsync, device(to), device(from), bytes, stream);
        default:
            return static_cast<CUresult>(cudaErrorInvalidMemcpyDirection);
    }
}

// Part of a variable.
cudaError_t part(char** address, const void* symbol, size_t offset, size_t bytes) {
    CUdeviceptr start;
    size_t size;
    cudaError_t error = cudart::find_variable(&start, &size, symbol);
    if (error != cudaSuccess) return error;
    if (offset > size || bytes > size - offset) return cudaErrorInvalidValue;
    *address = reinterpret_cast<char*>(start) + offset;
    return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t CUDARTAPI cudaMalloc(void** address, size_t bytes) {
    *address = nullptr;
    return run([&] {
        return bytes ? CU(cuMemAlloc, reinterpret_cast<CUdeviceptr*>(address), bytes)
                     : CUDA_SUCCESS;
    });
}

cudaError_t CUDARTAPI cudaMallocPitch(void** address, size_t* pitch, size_t width, size_t height) {
    return run([&] {
        return CU(cuMemAllocPitch, reinterpret_cast<CUdeviceptr*>(address), pitch, width, height,
                  4);
    });
}

cudaError_t CUDARTAPI cudaFree(void* address) {
    return run([&] { return address ? CU(cuMemFree, device(address)) : CUDA_SUCCESS; });
}

cudaError_t CUDARTAPI cudaMallocManaged(void** address, size_t bytes, unsigned flags) {
    return run([&] {
        return CU(cuMemAllocManaged, reinterpret_cast<CUdeviceptr*>(address), bytes, flags);
    });
}

cudaError_t CUDARTAPI cudaMallocHost(void** address, size_t bytes) {
    return run([&] { return CU(cuMemAllocHost, address, bytes); });
}

cudaError_t CUDARTAPI cudaHostAlloc(void** address, size_t bytes, unsigned flags) {
    return run([&] { return CU(cuMemHostAlloc, address, bytes, flags); });
}

cudaError_t CUDARTAPI cudaFreeHost(void* address) {
    return run([&] { return address ? CU(cuMemFreeHost, address) : CUDA_SUCCESS; });
}

cudaError_t CUDARTAPI cudaHostRegister(void* address, size_t bytes, unsigned flags) {
    return run([&] { return CU(cuMemHostRegister, address, bytes, flags); });
}

cudaError_t CUDARTAPI cudaHostUnregister(void* address) {
    return run([&] { return CU(cuMemHostUnregister, address); });
}

cudaError_t CUDARTAPI cudaMallocAsync(void** address, size_t bytes, cudaStream_t stream) {
    return run([&] {
        return CU(cuMemAllocAsync, reinterpret_cast<CUdeviceptr*>(address), bytes, stream);
    });
}

cudaError_t CUDARTAPI cudaMallocFromPoolAsync(void** address, size_t bytes, cudaMemPool_t pool,
                                              cudaStream_t stream) {
    return run([&] {
        return CU(cuMemAllocFromPoolAsync, reinterpret_cast<CUdeviceptr*>(address), bytes, pool,
                  stream);
    });
}

cudaError_t CUDARTAPI cudaFreeAsync(void* address, cudaStream_t stream) {
    return run([&] { return CU(cuMemFreeAsync, device(address), stream); });
}

cudaError_t CUDARTAPI cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int of) {
    return run([&] { return CU(cuDeviceGetDefaultMemPool, pool, of); });
}

cudaError_t CUDARTAPI cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute,
                                              void* value) {
    return run([&] {
        return CU(cuMemPoolSetAttribute, pool, static_cast<CUmemPool_attribute>(attribute), value);
    });
}

cudaError_t CUDARTAPI cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute,
                                              void* value) {
    return run([&] {
        return CU(cuMemPoolGetAttribute, pool, static_cast<CUmemPool_attribute>(attribute), value);
    });
}

cudaError_t CUDARTAPI cudaMemPoolTrimTo(cudaMemPool_t pool, size_t keep) {
    return run([&] { return CU(cuMemPoolTrimTo, pool, keep); });
}

cudaError_t CUDARTAPI cudaMemGetInfo(size_t* left, size_t* all) {
    return run([&] { return CU(cuMemGetInfo, left, all); });
}

cudaError_t CUDARTAPI cudaPointerGetAttributes(cudaPointerAttributes* attributes,
                                               const void* pointer) {
    return run([&] {
        CUmemorytype kind = static_cast<CUmemorytype>(0);
        std::memset(attributes, 0, sizeof *attributes);
        CUresult result =
            CU(cuPointerGetAttribute, &kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, device(pointer));
        // Memory that the driver doesn't know is the program's own.
        bool is_device = result == CUDA_SUCCESS && kind == CU_MEMORYTYPE_DEVICE;
        bool is_host = result == CUDA_SUCCESS && kind == CU_MEMORYTYPE_HOST;
        attributes->type = is_device ? cudaMemoryTypeDevice
                           : is_host ? cudaMemoryTypeHost
                                     : cudaMemoryTypeUnregistered;
        attributes->device = is_device || is_host ? 0 : cudaInvalidDeviceId;
        attributes->devicePointer = is_device ? const_cast<void*>(pointer) : nullptr;
        attributes->hostPointer = is_device ? nullptr : const_cast<void*>(pointer);
        return result == CUDA_ERROR_INVALID_VALUE ? CUDA_SUCCESS : result;
    });
}

cudaError_t CUDARTAPI cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    return run([&] { return copy(to, from, bytes, kind); });
}

cudaError_t CUDARTAPI cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                      cudaStream_t stream) {
    return run([&] { return copy(to, from, bytes, kind, stream); });
}

cudaError_t CUDARTAPI cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                   size_t width, size_t height, cudaMemcpyKind kind) {
    CUDA_MEMCPY2D copy = rows(to, to_pitch, from, from_pitch, width, height, kind);
    return run([&] { return CU(cuMemcpy2DUnaligned, &copy); });
}

cudaError_t CUDARTAPI cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from,
                                        size_t from_pitch, size_t width, size_t height,
                                        cudaMemcpyKind kind, cudaStream_t stream) {
    CUDA_MEMCPY2D copy = rows(to, to_pitch, from, from_pitch, width, height, kind);
    return run([&] { return CU(cuMemcpy2DAsync, &copy, stream); });
}

cudaError_t CUDARTAPI cudaMemcpy3D(const cudaMemcpy3DParms* given) {
    CUDA_MEMCPY3D copy = layers(*given);
    return run([&] { return CU(cuMemcpy3D, &copy); });
}

cudaError_t CUDARTAPI cudaMemcpy3DAsync(const cudaMemcpy3DParms* given, cudaStream_t stream) {
    CUDA_MEMCPY3D copy = layers(*given);
    return run([&] { return CU(cuMemcpy3DAsync, &copy, stream); });
}

cudaError_t CUDARTAPI cudaMemcpyToSymbol(const void* symbol, const void* from, size_t bytes,
                                         size_t offset, cudaMemcpyKind kind) {
    char* to;
    cudaError_t error = part(&to, symbol, offset, bytes);
    return error != cudaSuccess ? cudart::keep(error) : cudaMemcpy(to, from, bytes, kind);
}

cudaError_t CUDARTAPI cudaMemcpyFromSymbol(void* to, const void* symbol, size_t bytes,
                                           size_t offset, cudaMemcpyKind kind) {
    char* from;
    cudaError_t error = part(&from, symbol, offset, bytes);
    return error != cudaSuccess ? cudart::keep(error) : cudaMemcpy(to, from, bytes, kind);
}

cudaError_t CUDARTAPI cudaMemcpyToSymbolAsync(const void* symbol, const void* from, size_t bytes,
                                              size_t offset, cudaMemcpyKind kind,
                                              cudaStream_t stream) {
    char* to;
    cudaError_t error = part(&to, symbol, offset, bytes);
    return error != cudaSuccess ? cudart::keep(error)
                                : cudaMemcpyAsync(to, from, bytes, kind, stream);
}

cudaError_t CUDARTAPI cudaMemcpyFromSymbolAsync(void* to, const void* symbol, size_t bytes,
                                                size_t offset, cudaMemcpyKind kind,
                                                cudaStream_t stream) {
    char* from;
    cudaError_t error = part(&from, symbol, offset, bytes);
    return error != cudaSuccess ? cudart::keep(error)
                                : cudaMemcpyAsync(to, from, bytes, kind, stream);
}

cudaError_t CUDARTAPI cudaMemset(void* to, int value, size_t bytes) {
    return run(
        [&] { return CU(cuMemsetD8, device(to), static_cast<unsigned char>(value), bytes); });
}

cudaError_t CUDARTAPI cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
    return run([&] {
        return CU(cuMemsetD8Async, device(to), static_cast<unsigned char>(value), bytes, stream);
    });
}

cudaError_t CUDARTAPI cudaMemset2D(void* to, size_t pitch, int value, size_t width, size_t height) {
    return run([&] {
        return CU(cuMemsetD2D8, device(to), pitch, static_cast<unsigned char>(value), width,
                  height);
    });
}

}  // extern "C"
