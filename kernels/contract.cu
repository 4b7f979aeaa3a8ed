// Writes what the host must know of the kernels, so that a test can compare it with what the host believes: of every parameter struct its size
// and the offset of each field (src/raw/params.rs), then block rows, block columns, threads and shared bytes of every tile (src/plan/variant.rs).
#include <cstddef>

#include "grad_a.cuh"
#include "grad_b.cuh"
#include "shrink.cuh"
#include "tiles.cuh"

namespace {

struct Writer {
    uint32_t* out;

    template <int Count>
    __device__ void words(const uint32_t (&values)[Count]) {
        for (const uint32_t value : values) {
            *out++ = value;
        }
    }
    __device__ void tile(uint32_t rows, uint32_t columns, uint32_t threads, uint32_t shared_bytes) {
        words({rows, columns, threads, shared_bytes});
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
    write.words({sizeof(DropoutParams), offsetof(DropoutParams, seed), offsetof(DropoutParams, offset),
                 offsetof(DropoutParams, threshold), offsetof(DropoutParams, keep_scale)});
    write.words({sizeof(ShrinkParams), offsetof(ShrinkParams, x), offsetof(ShrinkParams, lora_a),
                 offsetof(ShrinkParams, s), offsetof(ShrinkParams, mask), offsetof(ShrinkParams, x_stride),
                 offsetof(ShrinkParams, lora_a_stride), offsetof(ShrinkParams, mask_row_bytes),
                 offsetof(ShrinkParams, m), offsetof(ShrinkParams, k), offsetof(ShrinkParams, r),
                 offsetof(ShrinkParams, r_pad), offsetof(ShrinkParams, scaling),
                 offsetof(ShrinkParams, lora_vectorised), offsetof(ShrinkParams, dropout)});
    write.words({sizeof(ForwardParams), offsetof(ForwardParams, x), offsetof(ForwardParams, weight),
                 offsetof(ForwardParams, bias), offsetof(ForwardParams, s), offsetof(ForwardParams, lora_b),
                 offsetof(ForwardParams, y), offsetof(ForwardParams, x_stride), offsetof(ForwardParams, weight_stride),
                 offsetof(ForwardParams, lora_b_stride), offsetof(ForwardParams, y_stride), offsetof(ForwardParams, m),
                 offsetof(ForwardParams, n), offsetof(ForwardParams, k), offsetof(ForwardParams, r),
                 offsetof(ForwardParams, r_pad), offsetof(ForwardParams, lora_vectorised),
                 offsetof(ForwardParams, out_paired), offsetof(ForwardParams, pad)});
    write.words({sizeof(GradBParams), offsetof(GradBParams, dy), offsetof(GradBParams, lora_b),
                 offsetof(GradBParams, s), offsetof(GradBParams, t_partial), offsetof(GradBParams, lora_b_partial),
                 offsetof(GradBParams, dy_stride), offsetof(GradBParams, lora_b_stride), offsetof(GradBParams, m),
                 offsetof(GradBParams, n), offsetof(GradBParams, r), offsetof(GradBParams, r_pad),
                 offsetof(GradBParams, rows_per_split), offsetof(GradBParams, column_groups),
                 offsetof(GradBParams, m_splits), offsetof(GradBParams, scaling),
                 offsetof(GradBParams, lora_vectorised), offsetof(GradBParams, pad)});
    write.words({sizeof(ReduceParams), offsetof(ReduceParams, partial), offsetof(ReduceParams, out),
                 offsetof(ReduceParams, out_stride), offsetof(ReduceParams, partial_stride),
                 offsetof(ReduceParams, split_stride), offsetof(ReduceParams, splits), offsetof(ReduceParams, rows),
                 offsetof(ReduceParams, columns), offsetof(ReduceParams, blocks)});
    write.words({sizeof(GradAParams), offsetof(GradAParams, x), offsetof(GradAParams, mask),
                 offsetof(GradAParams, t_partial), offsetof(GradAParams, t), offsetof(GradAParams, lora_a_partial),
                 offsetof(GradAParams, x_stride), offsetof(GradAParams, mask_row_bytes), offsetof(GradAParams, m),
                 offsetof(GradAParams, k), offsetof(GradAParams, r), offsetof(GradAParams, r_pad),
                 offsetof(GradAParams, t_partials), offsetof(GradAParams, rows_per_split),
                 offsetof(GradAParams, column_groups), offsetof(GradAParams, m_splits),
                 offsetof(GradAParams, keep_scale), offsetof(GradAParams, pad), offsetof(GradAParams, reduce_b)});
    write.words({sizeof(GradXParams),
                 offsetof(GradXParams, dy),
                 offsetof(GradXParams, weight),
                 offsetof(GradXParams, t),
                 offsetof(GradXParams, lora_a),
                 offsetof(GradXParams, mask),
                 offsetof(GradXParams, dx),
                 offsetof(GradXParams, dy_stride),
                 offsetof(GradXParams, weight_stride),
                 offsetof(GradXParams, lora_a_stride),
                 offsetof(GradXParams, dx_stride),
                 offsetof(GradXParams, mask_row_bytes),
                 offsetof(GradXParams, m),
                 offsetof(GradXParams, n),
                 offsetof(GradXParams, k),
                 offsetof(GradXParams, r),
                 offsetof(GradXParams, r_pad),
                 offsetof(GradXParams, keep_scale),
                 offsetof(GradXParams, lora_vectorised),
                 offsetof(GradXParams, out_paired),
                 offsetof(GradXParams, reduce_a)});
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
