// The rows of lora_A, or columns of S and T, that a block works on: they belong to several
// adapters, each padded to 16.
#pragma once
#include "common/element.cuh"
#include "common/params.cuh"

// The adapter that column `rank` of S belongs to, or the last where it belongs to none.
__device__ __forceinline__ const AdapterParams& adapter_at(const AdapterParams* adapters, int count,
                                                           int rank) {
    int found = 0;
    for (int i = 1; i < count; ++i) {
        found = rank >= adapters[i].rank0 ? i : found;
    }
    return adapters[found];
}

// An adapter's matrix of f32 whose rows may be read 16 bytes at a time.
__device__ __forceinline__ bool f32_vectorised(const AdapterParams& adapter) {
    return ((reinterpret_cast<uintptr_t>(adapter.data) |
             static_cast<uintptr_t>(adapter.stride) * 4) &
            15) == 0;
}

// Four neighbours of an adapter's row, each rounded once to T later; those from `valid` on are
// zero.
template <typename T>
__device__ __forceinline__ float4 load_adapter_quad(const void* row, int column, int valid,
                                                    bool f32, bool vectorised) {
    float value[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (f32) {
        const float* const from = static_cast<const float*>(row) + column;
        if (vectorised && valid >= 4) {
            return __ldg(reinterpret_cast<const float4*>(from));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            value[i] = i < valid ? __ldg(from + i) : 0.0f;
        }
    } else {
        const T* const from = static_cast<const T*>(row) + column;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            value[i] = i < valid ? to_float(__ldg(from + i)) : 0.0f;
        }
    }
    return make_float4(value[0], value[1], value[2], value[3]);
}
