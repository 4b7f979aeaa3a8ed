// The tile shapes that are built. src/plan/variant.rs lists the same, and a test compares the two.
#pragma once
#include "gemm.cuh"

// A wide tile for problems that fill the device, a small one for the others.
template <typename T>
struct GemmTiles;

template <typename T>
struct GemmTiles16 {
    using Wide = Gemm<T, 128, 128, 32, 64, 64, 4>;
    using Small = Gemm<T, 64, 64, 64, 32, 32, 3>;
};

template <>
struct GemmTiles<__half> : GemmTiles16<__half> {};
template <>
struct GemmTiles<__nv_bfloat16> : GemmTiles16<__nv_bfloat16> {};
template <>
struct GemmTiles<float> {
    using Wide = Gemm<float, 128, 128, 16, 64, 32, 3>;
    using Small = Gemm<float, 64, 64, 32, 32, 32, 3>;
};
