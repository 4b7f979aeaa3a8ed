// The element types: conversions with one rounding, and how many fit a 16-byte chunk.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

template <typename T>
inline constexpr int kChunk = 16 / static_cast<int>(sizeof(T));  // elements per 16-byte chunk

template <typename T>
inline constexpr int kSize = static_cast<int>(sizeof(T));  // bytes of an element

template <typename T>
inline constexpr bool kTensorCore = !std::is_same_v<T, float>;

// Makes the compiler keep a value in a register instead of computing it again in every iteration of
// a loop.
__device__ __forceinline__ void pin(uint32_t& value) { asm volatile("" : "+r"(value)); }

// A value that all lanes of a warp have alike, as the compiler then knows: it keeps what follows
// from it in the registers that a warp has in common, and branches on it as a whole.
__device__ __forceinline__ uint32_t warp_uniform(uint32_t value) {
    return __shfl_sync(~0u, value, 0);
}

template <typename T>
__device__ __forceinline__ T from_float(float value) {
    if constexpr (std::is_same_v<T, float>) {
        return value;
    } else if constexpr (std::is_same_v<T, __half>) {
        return __float2half_rn(value);
    } else {
        return __float2bfloat16_rn(value);
    }
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

// Stores two neighbours in one access. The address must be aligned to both.
template <typename T>
__device__ __forceinline__ void store_pair(T* out, float first, float second) {
    if constexpr (std::is_same_v<T, float>) {
        *reinterpret_cast<float2*>(out) = make_float2(first, second);
    } else if constexpr (std::is_same_v<T, __half>) {
        *reinterpret_cast<__half2*>(out) = __floats2half2_rn(first, second);
    } else {
        *reinterpret_cast<__nv_bfloat162*>(out) = __floats2bfloat162_rn(first, second);
    }
}

// Two neighbours in one register
template <typename T>
__device__ __forceinline__ uint32_t pack_pair(float first, float second) {
    uint32_t packed;
    store_pair(reinterpret_cast<T*>(&packed), first, second);
    return packed;
}

// Stores four neighbours in one access. The address must be aligned to all four.
template <typename T>
__device__ __forceinline__ void store_quad(T* out, float4 value) {
    if constexpr (std::is_same_v<T, float>) {
        *reinterpret_cast<float4*>(out) = value;
    } else {
        *reinterpret_cast<uint2*>(out) =
            make_uint2(pack_pair<T>(value.x, value.y), pack_pair<T>(value.z, value.w));
    }
}
