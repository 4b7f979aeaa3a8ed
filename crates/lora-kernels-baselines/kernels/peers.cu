// The symbols of the peers' kernels, which src/ of this crate launches.
#include "elementwise.cuh"
#include "lorafusion.cuh"
#include "serving.cuh"
#include "tiles.cuh"

using namespace peers;

// <add or not>__<how the operands are stored: n as written, t transposed>__<tile>
#define PEER_MATMUL(NAME, SHORT, ADD, ...)                                                  \
    extern "C" __global__ void __launch_bounds__((__VA_ARGS__::kThreads), 1)                \
        NAME(const bf16* a, const bf16* b, bf16* c, int m, int n, int depth, float alpha) { \
        matmul<__VA_ARGS__, SHORT, ADD>(a, b, c, m, n, depth, alpha);                       \
    }

PEER_MATMUL(peer_mm__nt__m128n256k64, false, false, Large<Major::kK>)
PEER_MATMUL(peer_mm__nt__m128n128k32, false, false, Medium<Major::kK>)
PEER_MATMUL(peer_mm__nn__m128n256k64, false, false, Large<Major::kMn>)
PEER_MATMUL(peer_mm__nn__m128n128k32, false, false, Medium<Major::kMn>)

PEER_MATMUL(peer_mm__nt__expand, true, false, Expand<Major::kK>)
PEER_MATMUL(peer_mm__nn__expand, true, false, Expand<Major::kMn>)
PEER_MATMUL(peer_addmm__nt__expand, true, true, Expand<Major::kK>)
PEER_MATMUL(peer_addmm__nn__expand, true, true, Expand<Major::kMn>)

#define PEER_MATMULS_OF_RANK(RANK)                                                               \
    PEER_MATMUL(peer_mm__nt__shrink_r##RANK, false, false, Shrink<RANK, Major::kK>)              \
    PEER_MATMUL(peer_mm__nn__shrink_r##RANK, false, false, Shrink<RANK, Major::kMn>)             \
    PEER_MATMUL(peer_mm__tn__columns_r##RANK, false, false, Columns<RANK>)                       \
    PEER_MATMUL(peer_mm__tn__rows_r##RANK, false, false, Rows<RANK>)                             \
    extern "C" __global__ void __launch_bounds__(LoraFusionGradB<RANK>::kThreads, 1)             \
        peer_lorafusion_grad_b__r##RANK(const bf16* dy, const bf16* lora_b, const bf16* s,       \
                                        float* d_lora_b, float* ds, int m, int n, float alpha) { \
        LoraFusionGradB<RANK>::run(dy, lora_b, s, d_lora_b, ds, m, n, alpha);                    \
    }

PEER_MATMULS_OF_RANK(16)
PEER_MATMULS_OF_RANK(32)
PEER_MATMULS_OF_RANK(64)
PEER_MATMULS_OF_RANK(128)

#define PEER_LORAFUSION(TILE, NAME)                                                              \
    extern "C" __global__ void __launch_bounds__(TILE<Major::kK>::kThreads, 1)                   \
        peer_lorafusion_forward__##NAME(const bf16* x, const bf16* weight, const bf16* s,        \
                                        const bf16* lora_b, bf16* y, int m, int n, int k,        \
                                        int rank, float alpha) {                                 \
        lorafusion_forward<TILE<Major::kK>>(x, weight, s, lora_b, y, m, n, k, rank, alpha);      \
    }                                                                                            \
    extern "C" __global__ void __launch_bounds__(TILE<Major::kMn>::kThreads, 1)                  \
        peer_lorafusion_grad_x__##NAME(const bf16* dy, const bf16* weight, const bf16* ds,       \
                                       const bf16* lora_a, const uint8_t* mask, bf16* dx, int m, \
                                       int n, int k, int rank, float keep_scale) {               \
        lorafusion_grad_x<TILE<Major::kMn>>(dy, weight, ds, lora_a, mask, dx, m, n, k, rank,     \
                                            keep_scale);                                         \
    }

PEER_LORAFUSION(Large, m128n256k64)
PEER_LORAFUSION(Medium, m128n128k32)

extern "C" __global__ void peer_dropout(const bf16* x, bf16* x_hat, uint8_t* mask, int64_t chunks,
                                        int columns, uint64_t seed, uint64_t offset,
                                        uint32_t threshold, float keep_scale) {
    dropout(x, x_hat, mask, chunks, columns, seed, offset, threshold, keep_scale);
}

extern "C" __global__ void peer_dropout_backward(const bf16* dx_hat, const uint8_t* mask, bf16* dx,
                                                 int64_t chunks, float keep_scale) {
    dropout_backward(dx_hat, mask, dx, chunks, keep_scale);
}

extern "C" __global__ void peer_scale(const bf16* in, bf16* out, int64_t chunks, float factor) {
    scale(in, out, chunks, factor);
}

extern "C" __global__ void peer_add(const bf16* first, const bf16* second, bf16* out,
                                    int64_t chunks) {
    add(first, second, out, chunks);
}

extern "C" __global__ void peer_fill_zero(float* out, int64_t chunks) { fill_zero(out, chunks); }

extern "C" __global__ void peer_cast(const float* in, bf16* out, int64_t chunks) {
    cast(in, out, chunks);
}

extern "C" __global__ void __launch_bounds__(kServingThreads)
    peer_bgmv_shrink(const bf16* x, const bf16* lora_a, const int* slots, float* s, int k, int rank,
                     float scale) {
    bgmv_shrink(x, lora_a, slots, s, k, rank, scale);
}

extern "C" __global__ void __launch_bounds__(kServingThreads)
    peer_vllm_shrink(const bf16* x, const bf16* lora_a, const int* order, const int* starts,
                     float* s, int m, int k, int rank, float scale) {
    vllm_shrink(x, lora_a, order, starts, s, m, k, rank, scale);
}

extern "C" __global__ void __launch_bounds__(kServingThreads)
    peer_vllm_expand(const float* s, const bf16* lora_b, const int* order, const int* starts,
                     bf16* y, int m, int n, int rank) {
    vllm_expand(s, lora_b, order, starts, y, m, n, rank);
}

#define PEER_BGMV_EXPAND(RANK)                                                               \
    extern "C" __global__ void __launch_bounds__(kServingThreads) peer_bgmv_expand__r##RANK( \
        const float* s, const bf16* lora_b, const int* slots, bf16* y, int n) {              \
        bgmv_expand<RANK>(s, lora_b, slots, y, n);                                           \
    }

PEER_BGMV_EXPAND(16)
PEER_BGMV_EXPAND(32)
PEER_BGMV_EXPAND(64)
PEER_BGMV_EXPAND(128)
