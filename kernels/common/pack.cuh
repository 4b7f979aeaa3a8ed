// 16-bit copies of adapters' matrices for kernels whose tensor maps can't describe what the caller
// gave: f32 elements, or rows that don't begin at multiples of 16 bytes.
#pragma once
#include "common/adapter.cuh"

// `block` of the `p.blocks` blocks that pack. An f32 element is rounded once to T. A thread takes
// eight neighbours of a row of the copy, then those that lie as many further on as all threads of
// the job take at once.
template <typename T, int Threads>
__device__ __forceinline__ void pack_adapters(const PackParams& p, int block) {
    static_assert(sizeof(T) == 2, "a copy has 16-bit elements");
    int found = 0;
    for (int i = 1; i < p.jobs; ++i) {
        found = block >= p.job[i].first_block ? i : found;
    }
    const PackJob& job = p.job[found];
    const int end = found + 1 < p.jobs ? p.job[found + 1].first_block : p.blocks;
    const bool f32 = p.from_f32 != 0;
    const int size = f32 ? static_cast<int>(sizeof(float)) : kSize<T>;
    const bool vectorised =
        f32 && ((reinterpret_cast<uintptr_t>(job.from) | job.from_stride * size) & 15) == 0;
    const int chunks = static_cast<int>(job.to_stride) / kChunk<T>;  // of a row
    const int64_t count = static_cast<int64_t>(job.rows) * chunks;
    const int64_t round = static_cast<int64_t>(end - job.first_block) * Threads;
    int64_t at = static_cast<int64_t>(block - job.first_block) * Threads + threadIdx.x;
#pragma unroll 1
    for (; at < count; at += round) {
        const int64_t row = at / chunks;
        const int column = static_cast<int>(at % chunks) * kChunk<T>;
        const uint8_t* const from =
            static_cast<const uint8_t*>(job.from) + row * job.from_stride * size;
        uint2 half[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float4 quad = load_adapter_quad<T>(from, column + 4 * i,
                                                     job.columns - column - 4 * i, f32, vectorised);
            half[i] = make_uint2(pack_pair<T>(quad.x, quad.y), pack_pair<T>(quad.z, quad.w));
        }
        *reinterpret_cast<uint4*>(static_cast<T*>(job.to) + row * job.to_stride + column) =
            make_uint4(half[0].x, half[0].y, half[1].x, half[1].y);
    }
}
