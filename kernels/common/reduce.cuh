// Sums partial matrices in the order of their index, so that the result does not depend on which
// block finished first.
#pragma once
#include "common/element.cuh"
#include "common/params.cuh"

// Width neighbours of a row at once: out = sum of partials, or added to what is there. Sums are in
// f32 and rounded once to Out.
template <typename Out, int Width>
__device__ __forceinline__ void sum_partials(const ReduceJob& job, bool accumulate, int64_t row,
                                             int64_t column) {
    const float* from = job.partial + row * job.partial_stride + column;
    Out* const to = static_cast<Out*>(job.out) + row * job.out_stride + column;
    float sum[Width];
#pragma unroll
    for (int i = 0; i < Width; ++i) {
        sum[i] = 0.0f;
    }
#pragma unroll 4
    for (int split = 0; split < job.splits; ++split) {
        if constexpr (Width == 4) {
            const float4 value = *reinterpret_cast<const float4*>(from);
            sum[0] += value.x, sum[1] += value.y, sum[2] += value.z, sum[3] += value.w;
        } else {
            sum[0] += *from;
        }
        from += job.split_stride;
    }
    struct alignas(Width * sizeof(Out)) Group {
        Out value[Width];
    };
    Group group;
    if (accumulate) {
        group = *reinterpret_cast<const Group*>(to);
#pragma unroll
        for (int i = 0; i < Width; ++i) {
            sum[i] = to_float(group.value[i]) + sum[i];
        }
    }
#pragma unroll
    for (int i = 0; i < Width; ++i) {
        group.value[i] = from_float<Out>(sum[i]);
    }
    *reinterpret_cast<Group*>(to) = group;
}

// Every thread of a job's blocks takes Width neighbours, then those that lie as many further on as
// all threads take at once.
template <typename Out, int Threads, int Width>
__device__ __forceinline__ void reduce_job(const ReduceJob& job, bool accumulate, int block,
                                           int blocks) {
    const int columns = job.columns / Width;
    const int64_t first = static_cast<int64_t>(block) * Threads + threadIdx.x;
    const int64_t round = static_cast<int64_t>(blocks) * Threads;
    const int64_t round_rows = round / columns;
    const int round_columns = static_cast<int>(round % columns);
    int64_t row = first / columns;
    int column = static_cast<int>(first % columns);
    while (row < job.rows) {
        sum_partials<Out, Width>(job, accumulate, row, column * Width);
        row += round_rows;
        column += round_columns;
        if (column >= columns) {
            column -= columns;
            ++row;
        }
    }
}

// Four neighbours at once where rows and addresses allow it
template <typename Out, int Threads>
__device__ __forceinline__ void reduce_job(const ReduceJob& job, bool accumulate, int block,
                                           int blocks) {
    const int64_t strides = job.columns | job.out_stride | job.partial_stride | job.split_stride;
    const bool aligned = reinterpret_cast<uintptr_t>(job.out) % (4 * sizeof(Out)) == 0 &&
                         reinterpret_cast<uintptr_t>(job.partial) % 16 == 0;
    if (strides % 4 == 0 && aligned) {
        reduce_job<Out, Threads, 4>(job, accumulate, block, blocks);
    } else {
        reduce_job<Out, Threads, 1>(job, accumulate, block, blocks);
    }
}

// `block` of the `p.blocks` blocks that reduce
template <typename T, int Threads>
__device__ __forceinline__ void reduce_partials(const ReduceParams& p, int block) {
    int found = 0;
    for (int i = 1; i < p.jobs; ++i) {
        found = block >= p.job[i].first_block ? i : found;
    }
    const ReduceJob& job = p.job[found];
    const int end = found + 1 < p.jobs ? p.job[found + 1].first_block : p.blocks;
    if (p.out_f32 != 0) {
        reduce_job<float, Threads>(job, p.accumulate != 0, block - job.first_block,
                                   end - job.first_block);
    } else {
        reduce_job<T, Threads>(job, p.accumulate != 0, block - job.first_block,
                               end - job.first_block);
    }
}
