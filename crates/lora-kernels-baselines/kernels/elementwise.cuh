// The element-wise kernels that a framework launches. A thread processes 16 bytes: eight elements
// of bf16.
#pragma once
#include "tile.cuh"

namespace peers {

inline constexpr int kElementwiseThreads = 256;

struct Eight {
    bf16 value[kChunk];
};

// Calls f(chunk) with this thread's chunk of a tensor with `chunks` chunks of eight elements.
template <typename F>
__device__ __forceinline__ void for_my_chunk(int64_t chunks, F&& f) {
    const int64_t chunk = static_cast<int64_t>(blockIdx.x) * kElementwiseThreads + threadIdx.x;
    if (chunk < chunks) {
        f(chunk);
    }
}

__device__ __forceinline__ Eight load_eight(const bf16* from, int64_t chunk) {
    const uint4 bits = reinterpret_cast<const uint4*>(from)[chunk];
    return *reinterpret_cast<const Eight*>(&bits);
}

__device__ __forceinline__ void store_eight(bf16* to, int64_t chunk, const Eight& eight) {
    reinterpret_cast<uint4*>(to)[chunk] = *reinterpret_cast<const uint4*>(&eight);
}

// out[i] = f(i, in[i]) for the eight elements of a chunk.
template <typename F>
__device__ __forceinline__ Eight map(const Eight& in, F&& f) {
    alignas(16) Eight out;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
        out.value[i] = __float2bfloat16_rn(f(i, __bfloat162float(in.value[i])));
    }
    return out;
}

__device__ __forceinline__ uint4 philox4x32_10(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint32_t low0 = 0xD2511F53u * counter.x, high0 = __umulhi(0xD2511F53u, counter.x);
        const uint32_t low1 = 0xCD9E8D57u * counter.z, high1 = __umulhi(0xCD9E8D57u, counter.z);
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// x_hat = x * keep / (1 - p) and a mask of one byte per element, both (m, columns). It draws the
// same mask as lora-kernels' reference.
__device__ __forceinline__ void dropout(const bf16* x, bf16* x_hat, uint8_t* mask, int64_t chunks,
                                        int columns, uint64_t seed, uint64_t offset,
                                        uint32_t threshold, float keep_scale) {
    for_my_chunk(chunks, [&](int64_t chunk) {
        const int chunks_per_row = columns / kChunk;
        const uint4 random = philox4x32_10(
            make_uint4(static_cast<uint32_t>(chunk % chunks_per_row),
                       static_cast<uint32_t>(chunk / chunks_per_row), static_cast<uint32_t>(offset),
                       static_cast<uint32_t>(offset >> 32)),
            make_uint2(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)));
        const uint32_t words[4] = {random.x, random.y, random.z, random.w};
        uint32_t kept[2] = {0, 0};
        const Eight out = map(load_eight(x, chunk), [&](int i, float value) {
            const bool keep = (words[i / 2] >> (i % 2 * 16) & 0xFFFFu) >= threshold;
            kept[i / 4] |= (keep ? 1u : 0u) << (i % 4 * 8);
            return keep ? value * keep_scale : 0.0f;
        });
        store_eight(x_hat, chunk, out);
        reinterpret_cast<uint2*>(mask)[chunk] = make_uint2(kept[0], kept[1]);
    });
}

// dx = dx_hat * mask / (1 - p)
__device__ __forceinline__ void dropout_backward(const bf16* dx_hat, const uint8_t* mask, bf16* dx,
                                                 int64_t chunks, float keep_scale) {
    for_my_chunk(chunks, [&](int64_t chunk) {
        const uint2 bytes = reinterpret_cast<const uint2*>(mask)[chunk];
        const uint32_t words[2] = {bytes.x, bytes.y};
        store_eight(dx, chunk, map(load_eight(dx_hat, chunk), [&](int i, float value) {
            return (words[i / 4] >> (i % 4 * 8) & 0xFFu) != 0 ? value * keep_scale : 0.0f;
        }));
    });
}

__device__ __forceinline__ void scale(const bf16* in, bf16* out, int64_t chunks, float factor) {
    for_my_chunk(chunks, [&](int64_t chunk) {
        store_eight(out, chunk,
                    map(load_eight(in, chunk), [&](int, float value) { return value * factor; }));
    });
}

__device__ __forceinline__ void add(const bf16* first, const bf16* second, bf16* out,
                                    int64_t chunks) {
    for_my_chunk(chunks, [&](int64_t chunk) {
        const Eight more = load_eight(second, chunk);
        store_eight(out, chunk, map(load_eight(first, chunk), [&](int i, float value) {
            return value + __bfloat162float(more.value[i]);
        }));
    });
}

// A thread writes 16 bytes: four elements of f32.
__device__ __forceinline__ void fill_zero(float* out, int64_t chunks) {
    for_my_chunk(chunks, [&](int64_t chunk) {
        reinterpret_cast<float4*>(out)[chunk] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    });
}

// Rounds f32 to bf16, four elements per thread.
__device__ __forceinline__ void cast(const float* in, bf16* out, int64_t chunks) {
    for_my_chunk(chunks, [&](int64_t chunk) {
        const float4 from = reinterpret_cast<const float4*>(in)[chunk];
        auto* const to = reinterpret_cast<__nv_bfloat162*>(out) + 2 * chunk;
        const __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(from.x, from.y),
                                         __floats2bfloat162_rn(from.z, from.w)};
        *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(pairs);
    });
}

}  // namespace peers
