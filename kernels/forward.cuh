// y = x * W^T + bias + S * B^T: one GEMM over [x | S] * [W | B]^T, the low-rank step last.
#pragma once
#include "gemm.cuh"
#include "params.cuh"

template <typename T, typename G, bool Vectorised>
__device__ __forceinline__ void forward(const ForwardParams& p) {
    const Source<T> x{static_cast<const T*>(p.x), p.x_stride, p.m, p.k};                 // (m, k)
    const Source<T> weight{static_cast<const T*>(p.weight), p.weight_stride, p.n, p.k};  // (n, k)
    const Source<T> s{static_cast<const T*>(p.s), p.r_pad, p.m, p.r_pad};                // (m, r_pad)
    const Source<T> lora_b{static_cast<const T*>(p.lora_b), p.lora_b_stride, p.n, p.r};  // (n, r)
    const auto at = G::position(blockIdx.x, p.m, p.n);

    typename G::Acc acc;
    acc.clear();
    G::template accumulate<Major::kDepth, false>(acc, x, weight, at, p.k, Vectorised, Vectorised);
    G::template accumulate<Major::kDepth, true>(acc, s, lora_b, at, p.r, true, p.lora_vectorised != 0);

    const T* const bias = static_cast<const T*>(p.bias);  // (n)
    G::store(acc, static_cast<T*>(p.y), p.y_stride, at, p.m, p.n, p.out_paired != 0,
             [&](int column, float value) { return bias != nullptr ? value + to_float(bias[column]) : value; });
}
