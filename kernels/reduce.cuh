// Sums partial matrices in the order of their index, so that the result does not depend on which block finished first.
#pragma once
#include "element.cuh"
#include "params.cuh"

// `block` of `p.blocks` blocks: every thread sums whole elements of out (rows, columns).
template <typename T, int Threads>
__device__ __forceinline__ void reduce_partials(const ReduceParams& p, int block) {
    const int64_t elements = static_cast<int64_t>(p.rows) * p.columns;
    for (int64_t index = static_cast<int64_t>(block) * Threads + threadIdx.x; index < elements;
         index += static_cast<int64_t>(p.blocks) * Threads) {
        const int64_t row = index / p.columns;
        const int64_t column = index % p.columns;
        const float* const partial = p.partial + row * p.partial_stride + column;
        float sum = 0.0f;
        for (int split = 0; split < p.splits; ++split) {
            sum += partial[split * p.split_stride];
        }
        static_cast<T*>(p.out)[row * p.out_stride + column] = from_float<T>(sum);
    }
}
