// The part of a batch that a block works on.
#pragma once
#include "decode/params.cuh"

namespace decode {

// Up to `Tokens` rows of x, which p.blocks blocks have in common, and the memory that is theirs
// alone. A batch of up to 64 tokens is one part.
struct Part {
    int64_t row0;  // of x
    int rows;
    int block;         // among those of the part
    uint32_t* flags;   // p.flag_words
    float* s_partial;  // (slices, rows, s_stride)
    float* partial;    // (blocks, 2, rows, rows of a tile)

    __device__ __forceinline__ Part(const DecodeParams& p, int tokens, int tile_rows) {
        const int index = blockIdx.x / p.blocks;
        row0 = static_cast<int64_t>(index) * tokens;
        rows = static_cast<int>(min(static_cast<int64_t>(tokens), p.m - row0));
        block = blockIdx.x % p.blocks;
        flags = p.flags + static_cast<int64_t>(index) * p.flag_words;
        s_partial = p.s_partial + row0 * p.slices * p.rows.s_stride;
        partial = p.partial + row0 * p.blocks * 2 * tile_rows;
    }
};

}  // namespace decode
