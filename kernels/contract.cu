// Writes what the host must know of the kernels, so that a test can compare it with what the host believes: the layout of every parameter
// struct (src/raw/params.rs), then block rows, block columns, threads and shared bytes of every tile (src/plan/variant.rs).
#include <cstddef>

#include "grad_a.cuh"
#include "grad_b.cuh"
#include "shrink.cuh"
#include "tiles.cuh"

namespace {

struct Writer {
    uint32_t* out;

    __device__ void words(uint32_t a, uint32_t b, uint32_t c) {
        *out++ = a;
        *out++ = b;
        *out++ = c;
    }
    __device__ void tile(int rows, int columns, int threads, int shared_bytes) {
        words(rows, columns, threads);
        *out++ = shared_bytes;
    }
    template <typename K>
    __device__ void shrink(int ranks) {
        tile(K::kRows, ranks, K::kThreads, K::kSharedBytes);
    }
    template <typename G>
    __device__ void gemm() {
        tile(G::kBlockM, G::kBlockN, G::kThreads, G::kSharedBytes);
    }
    template <typename K>
    __device__ void columns() {
        tile(K::kRows, K::kGroupColumns, K::kThreads, K::kSharedBytes);
    }
};

// One call per dtype, in the order of DType.
template <typename F>
__device__ void for_each_dtype(F&& f) {
    f(__half());
    f(__nv_bfloat16());
    f(float());
}

}  // namespace

extern "C" __global__ void lora_contract(uint32_t* out) {
    Writer write{out};
    write.words(sizeof(ShrinkParams), offsetof(ShrinkParams, m), offsetof(ShrinkParams, dropout));
    write.words(sizeof(ForwardParams), offsetof(ForwardParams, m), offsetof(ForwardParams, out_paired));
    write.words(sizeof(GradBParams), offsetof(GradBParams, m), offsetof(GradBParams, lora_vectorised));
    write.words(sizeof(ReduceParams), offsetof(ReduceParams, splits), offsetof(ReduceParams, blocks));
    write.words(sizeof(GradAParams), offsetof(GradAParams, m), offsetof(GradAParams, reduce_b));
    write.words(sizeof(GradXParams), offsetof(GradXParams, m), offsetof(GradXParams, reduce_a));
    for_each_dtype([&](auto t) {
        write.shrink<Shrink<decltype(t), 16>>(16);
        write.shrink<Shrink<decltype(t), 64>>(64);
    });
    const auto gemms = [&](auto t) {
        write.gemm<typename GemmTiles<decltype(t)>::Wide>();
        write.gemm<typename GemmTiles<decltype(t)>::Small>();
    };
    for_each_dtype(gemms);  // forward
    for_each_dtype([&](auto t) {
        write.columns<GradB<decltype(t), 16>>();
        write.columns<GradB<decltype(t), 64>>();
    });
    for_each_dtype([&](auto t) {
        write.columns<GradA<decltype(t), 16>>();
        write.columns<GradA<decltype(t), 64>>();
    });
    for_each_dtype(gemms);  // grad_x
}
