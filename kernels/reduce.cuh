// Sums partial matrices in the order of their index, so that the result does not depend on which block finished first.
#pragma once
#include "element.cuh"
#include "params.cuh"

// `block` of the `p.blocks` blocks that reduce: every thread sums whole elements of its job's out (rows, columns).
template <typename T, int Threads>
__device__ __forceinline__ void reduce_partials(const ReduceParams& p, int block) {
    int index = 0;
    while (index + 1 < p.jobs && block >= p.job[index + 1].first_block) {
        ++index;
    }
    const ReduceJob& job = p.job[index];
    const int blocks = (index + 1 < p.jobs ? p.job[index + 1].first_block : p.blocks) - job.first_block;
    const int64_t elements = static_cast<int64_t>(job.rows) * job.columns;
    for (int64_t element = static_cast<int64_t>(block - job.first_block) * Threads + threadIdx.x; element < elements;
         element += static_cast<int64_t>(blocks) * Threads) {
        const int64_t row = element / job.columns;
        const int64_t column = element % job.columns;
        const float* const partial = job.partial + row * job.partial_stride + column;
        float sum = 0.0f;
        for (int split = 0; split < job.splits; ++split) {
            sum += partial[split * job.split_stride];
        }
        const int64_t at = row * job.out_stride + column;
        if (p.out_f32 != 0) {
            float* const out = static_cast<float*>(job.out);
            out[at] = p.accumulate != 0 ? out[at] + sum : sum;
        } else {
            T* const out = static_cast<T*>(job.out);
            out[at] = from_float<T>(p.accumulate != 0 ? to_float(out[at]) + sum : sum);
        }
    }
}
