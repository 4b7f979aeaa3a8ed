// An adapted linear layer as launches of CUTLASS's GEMM for sm_90: TMA, wgmma, warp-specialised,
// persistent, clusters of 2. A program that runs one pass of the layer on zeros, to be counted:
//
//   layer PASS TOKENS IN OUT RANK MULTIPROCESSORS
//
// PASS is `plain` (y = x W^T alone), `forward` (the three launches) or `backward`. The grid is for
// so many multiprocessors. Each kernel is CUTLASS's own, under a name of ours.

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cutlass/cluster_launch.hpp"
#include "cutlass/cutlass.h"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/util/packed_stride.hpp"

namespace {

using cute::_1;
using cute::_128;
using cute::_16;
using cute::_2;
using cute::_256;
using cute::_64;
using Element = cutlass::bfloat16_t;
using Row = cutlass::layout::RowMajor;
using Column = cutlass::layout::ColumnMajor;

struct Cooperative {
    using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
    using Epilogue = cutlass::epilogue::TmaWarpSpecializedCooperative;
};
struct Pingpong {
    using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
    using Epilogue = cutlass::epilogue::TmaWarpSpecialized;
};

// D (m, n) = alpha * A (m, k) * B (k, n) + beta * D, all bf16, D row-major
template <class LayoutA, class LayoutB, class Tile, class Roles>
struct Gemm {
    using Cluster = cute::Shape<_2, _1, _1>;
    using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
        cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
        cutlass::epilogue::collective::EpilogueTileAuto, float, float, Element, Row, 8, Element,
        Row, 8, typename Roles::Epilogue>::CollectiveOp;
    using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
        cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, LayoutA, 8, Element, LayoutB,
        8, float, Tile, Cluster,
        cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
            sizeof(typename Epilogue::SharedStorage))>,
        typename Roles::Mainloop>::CollectiveOp;
    using Kernel =
        cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue>;
};

[[noreturn]] void fail(const char* what, const char* why) {
    std::fprintf(stderr, "%s: %s\n", what, why);
    std::exit(1);
}

void check(const char* what, cudaError_t error) {
    if (error != cudaSuccess) fail(what, cudaGetErrorString(error));
}

int multiprocessors = 0;

// Zeros
void* zeros(size_t elements) {
    void* memory = nullptr;
    check("cudaMalloc", cudaMalloc(&memory, elements * sizeof(Element)));
    check("cudaMemset", cudaMemset(memory, 0, elements * sizeof(Element)));
    return memory;
}

// Launches `entry`, whose body is `Kernel`.
template <class Kernel, class Entry>
void launch(Entry entry, int m, int n, int k, const void* a, const void* b, void* d, float alpha,
            float beta) {
    auto stride_a = cutlass::make_cute_packed_stride(typename Kernel::StrideA{}, {m, k, 1});
    auto stride_b = cutlass::make_cute_packed_stride(typename Kernel::StrideB{}, {n, k, 1});
    auto stride_d = cutlass::make_cute_packed_stride(typename Kernel::StrideD{}, {m, n, 1});
    cutlass::KernelHardwareInfo hardware;
    hardware.sm_count = multiprocessors;
    auto* out = static_cast<Element*>(d);
    typename Kernel::Arguments arguments{
        cutlass::gemm::GemmUniversalMode::kGemm,
        {m, n, k, 1},
        {static_cast<const Element*>(a), stride_a, static_cast<const Element*>(b), stride_b},
        {{alpha, beta}, out, stride_d, out, stride_d},
        hardware};
    if (!Kernel::can_implement(arguments)) fail("CUTLASS", "it can't compute this product");
    if (Kernel::get_workspace_size(arguments) > 0) fail("CUTLASS", "it needs a workspace");
    const auto params = Kernel::to_underlying_arguments(arguments, nullptr);
    const int shared = Kernel::SharedStorageSize;
    check("cudaFuncSetAttribute",
          cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    void* parameters[] = {const_cast<typename Kernel::Params*>(&params)};
    const auto status = cutlass::ClusterLauncher::launch(
        Kernel::get_grid_shape(params), dim3(2, 1, 1), Kernel::get_block_shape(), shared, nullptr,
        reinterpret_cast<const void*>(entry), parameters);
    if (status != cutlass::Status::kSuccess) fail("launch", cutlassGetStatusString(status));
}

}  // namespace

// A kernel under a name of ours, a function that launches it, and one that tells of it: its name,
// threads, shared memory and stages.
#define KERNEL(NAME, ...)                                                                    \
    using NAME##_kernel = Gemm<__VA_ARGS__>::Kernel;                                         \
    extern "C" __global__ void __launch_bounds__(NAME##_kernel::MaxThreadsPerBlock,          \
                                                 NAME##_kernel::MinBlocksPerMultiprocessor)  \
        NAME(const __grid_constant__ NAME##_kernel::Params params) {                         \
        extern __shared__ char shared[];                                                     \
        NAME##_kernel kernel;                                                                \
        kernel(params, shared);                                                              \
    }                                                                                        \
    void run_##NAME(int m, int n, int k, const void* a, const void* b, void* d, float alpha, \
                    float beta) {                                                            \
        launch<NAME##_kernel>(NAME, m, n, k, a, b, d, alpha, beta);                          \
    }                                                                                        \
    void tell_##NAME() {                                                                     \
        std::printf("%s %d %d %d\n", #NAME, int(NAME##_kernel::MaxThreadsPerBlock),          \
                    int(NAME##_kernel::SharedStorageSize),                                   \
                    int(NAME##_kernel::CollectiveMainloop::DispatchPolicy::Stages));         \
    }

// x W^T, S lora_B^T
KERNEL(cutlass_nt_m128n256k64, Row, Column, cute::Shape<_128, _256, _64>, Cooperative)
// x lora_A^T
KERNEL(cutlass_nt_m64n16k64, Row, Column, cute::Shape<_64, _16, _64>, Pingpong)
// dy W, T lora_A
KERNEL(cutlass_nn_m128n256k64, Row, Row, cute::Shape<_128, _256, _64>, Cooperative)
// dy lora_B
KERNEL(cutlass_nn_m64n16k64, Row, Row, cute::Shape<_64, _16, _64>, Pingpong)
// dy^T S
KERNEL(cutlass_tn_m64n16k64, Column, Row, cute::Shape<_64, _16, _64>, Pingpong)
// T^T x
KERNEL(cutlass_tn_m64n128k64, Column, Row, cute::Shape<_64, _128, _64>, Pingpong)

int main(int count, char** words) {
    if (count == 1) {
        tell_cutlass_nt_m128n256k64();
        tell_cutlass_nt_m64n16k64();
        tell_cutlass_nn_m128n256k64();
        tell_cutlass_nn_m64n16k64();
        tell_cutlass_tn_m64n16k64();
        tell_cutlass_tn_m64n128k64();
        return 0;
    }
    if (count != 7) fail(words[0], "PASS TOKENS IN OUT RANK MULTIPROCESSORS");
    const int m = std::atoi(words[2]), in = std::atoi(words[3]), out = std::atoi(words[4]);
    const int r = std::atoi(words[5]);
    multiprocessors = std::atoi(words[6]);
    const float scaling = 2.0f;
    const size_t rows = m;
    void *x = zeros(rows * in), *w = zeros(size_t(out) * in), *lora_a = zeros(size_t(r) * in);
    void *lora_b = zeros(size_t(out) * r), *s = zeros(rows * r), *y = zeros(rows * out);
    if (std::strcmp(words[1], "plain") == 0) {
        run_cutlass_nt_m128n256k64(m, out, in, x, w, y, 1.0f, 0.0f);
    } else if (std::strcmp(words[1], "forward") == 0) {
        run_cutlass_nt_m128n256k64(m, out, in, x, w, y, 1.0f, 0.0f);
        run_cutlass_nt_m64n16k64(m, r, in, x, lora_a, s, 1.0f, 0.0f);
        run_cutlass_nt_m128n256k64(m, out, r, s, lora_b, y, scaling, 1.0f);
    } else if (std::strcmp(words[1], "backward") == 0) {
        void *dy = y, *dx = zeros(rows * in), *t = zeros(rows * r);
        void *d_a = zeros(size_t(r) * in), *d_b = zeros(size_t(out) * r);
        run_cutlass_nn_m128n256k64(m, in, out, dy, w, dx, 1.0f, 0.0f);
        run_cutlass_nn_m64n16k64(m, r, out, dy, lora_b, t, 1.0f, 0.0f);
        run_cutlass_nn_m128n256k64(m, in, r, t, lora_a, dx, scaling, 1.0f);
        run_cutlass_tn_m64n16k64(out, r, m, dy, s, d_b, scaling, 0.0f);
        run_cutlass_tn_m64n128k64(r, in, m, t, x, d_a, scaling, 0.0f);
    } else {
        fail(words[1], "the passes are plain, forward and backward");
    }
    check("the launches", cudaDeviceSynchronize());
    return 0;
}
