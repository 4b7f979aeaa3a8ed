// The tile shapes that are built. src/plan/variant.rs lists the same, and a test compares the two.
#pragma once
#include "gemm.cuh"

// <BMajor: which index of the weight is contiguous, as the product sees it; Vectorised: 16 bytes at
// a time>. One block on a multiprocessor keeps Large's accumulators; two of Wide and three of Small
// fit.
template <typename T>
struct GemmTiles {
    template <Major BMajor, bool Vectorised = true>
    using Large = Gemm<T, 128, 256, 64, 64, 64, 3, BMajor, Vectorised>;
    template <Major BMajor, bool Vectorised = true>
    using Wide = Gemm<T, 128, 128, 32, 64, 64, 4, BMajor, Vectorised>;
    template <Major BMajor, bool Vectorised = true>
    using Small = Gemm<T, 64, 64, 64, 32, 32, 3, BMajor, Vectorised>;
};

template <>
struct GemmTiles<float> {
    template <Major BMajor, bool Vectorised = true>
    using Wide = Gemm<float, 128, 128, 16, 64, 32, 3, BMajor, Vectorised>;
    template <Major BMajor, bool Vectorised = true>
    using Small = Gemm<float, 64, 64, 32, 32, 32, 3, BMajor, Vectorised>;
};
