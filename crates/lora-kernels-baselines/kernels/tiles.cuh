// The tiles of the peers' products. src/matmul.rs and src/lorafusion.rs must agree with them.
#pragma once
#include "gemm.cuh"

namespace peers {

// x * W^T and dy * W: the usual tile of Triton and cuBLAS, and one for devices with too little
// shared memory for it.
template <Major BMajor>
using Large = Gemm<128, 256, 64, 2, 4, 3, Major::kK, BMajor>;
template <Major BMajor>
using Medium = Gemm<128, 128, 32, 2, 2, 4, Major::kK, BMajor>;

// Products whose K is the rank: S * B^T and dS * A.
template <Major BMajor>
using Expand = Gemm<128, 128, 32, 2, 2, 2, Major::kK, BMajor>;

// Products whose N is the rank: x * A^T, dy * B and dy^T * S.
template <int Rank, Major BMajor>
using Shrink = Gemm<128, Rank, 64, 4, 1, 3, Major::kK, BMajor>;
template <int Rank>
using Columns = Gemm<128, Rank, 64, 4, 1, 3, Major::kMn, Major::kMn>;

// A product whose M is the rank: dS^T * x.
template <int Rank>
using Rows = Gemm<Rank, 128, 64, 1, 4, 3, Major::kMn, Major::kMn>;

}  // namespace peers
