// dx = keep_scale * mask o (T * A) + dy * W: the low-rank step first, masked in the accumulator, then the main loop on top.
// The last blocks of the grid sum dA, whose partials grad_a left.
#pragma once
#include "gemm.cuh"
#include "reduce.cuh"

template <typename T, typename G, bool Vectorised>
__device__ __forceinline__ void grad_x(const GradXParams& p) {
    const int blocks = static_cast<int>(gridDim.x) - p.reduce_a.blocks;
    if (static_cast<int>(blockIdx.x) >= blocks) {
        reduce_partials<T, G::kThreads>(p.reduce_a, static_cast<int>(blockIdx.x) - blocks);
        return;
    }
    const Source<T> dy{static_cast<const T*>(p.dy), p.dy_stride, p.m, p.n};              // (m, n)
    const Source<T> weight{static_cast<const T*>(p.weight), p.weight_stride, p.n, p.k};  // (n, k)
    const Source<T> t{static_cast<const T*>(p.t), p.r_pad, p.m, p.r_pad};                // (m, r_pad)
    const Source<T> lora_a{static_cast<const T*>(p.lora_a), p.lora_a_stride, p.r, p.k};  // (r, k)
    const auto at = G::position(blockIdx.x, p.m, p.k);

    typename G::Acc acc;
    acc.clear();
    G::template accumulate<Major::kOuter, true>(acc, t, lora_a, at, p.r, true, p.lora_vectorised != 0);
    if (p.mask != nullptr) {
        acc.for_each_pair([&](int row, int column, float& first, float& second) {
            row += at.row0 + G::warp_row();
            column += at.column0 + G::warp_column();
            const uint32_t bits =
                row < p.m && column < p.k ? p.mask[row * p.mask_row_bytes + column / 8] >> column % 8 : 0u;
            first = (bits & 1u) != 0 ? p.keep_scale * first : 0.0f;
            second = (bits & 2u) != 0 ? p.keep_scale * second : 0.0f;
        });
    }
    G::template accumulate<Major::kOuter, false>(acc, dy, weight, at, p.n, Vectorised, Vectorised);
    G::store(acc, static_cast<T*>(p.dx), p.dx_stride, at, p.m, p.k, p.out_paired != 0,
             [](int, float value) { return value; });
}
