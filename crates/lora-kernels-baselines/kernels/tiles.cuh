// The tiles of the peers' products. benches/peers/matmul.rs and lorafusion.rs know the same
// numbers.
#pragma once
#include "gemm.cuh"

namespace peers {

// x * W^T and dy * W. Triton's and cuBLAS's usual tile, and one for devices without the shared
// memory for it.
template <Major BMajor>
using Large = Gemm<128, 256, 64, 2, 4, 3, Major::kDepth, BMajor>;
template <Major BMajor>
using Medium = Gemm<128, 128, 32, 2, 2, 4, Major::kDepth, BMajor>;

// Products whose depth is the rank: S * B^T and dS * A.
template <Major BMajor>
using Expand = Gemm<128, 128, 32, 2, 2, 2, Major::kDepth, BMajor>;

// Products with as many columns as the rank: x * A^T, dy * B; dy^T * S.
template <int Rank, Major BMajor>
using Shrink = Gemm<128, Rank, 64, 4, 1, 3, Major::kDepth, BMajor>;
template <int Rank>
using Columns = Gemm<128, Rank, 64, 4, 1, 3, Major::kOuter, Major::kOuter>;

// A product with as many rows as the rank: dS^T * x.
template <int Rank>
using Rows = Gemm<Rank, 128, 64, 1, 4, 3, Major::kOuter, Major::kOuter>;

}  // namespace peers
