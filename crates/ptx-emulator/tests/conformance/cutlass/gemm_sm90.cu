// GEMMs of CUTLASS for sm_90: TMA, wgmma, warp-specialised, pingpong and cooperative, clusters of 2
// blocks; D = alpha A B^T + beta C, checked on the host against sums in double.
//
// Prints one line for each kernel: its name, the operands' type, the error of the element that came
// nearest to its bound, that bound.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cutlass/cutlass.h"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/util/packed_stride.hpp"

using namespace cute;

#define CHECK(call)                                                    \
    do {                                                               \
        cudaError_t error = (call);                                    \
        if (error != cudaSuccess) {                                    \
            std::printf("%s: %s\n", #call, cudaGetErrorString(error)); \
            return 1;                                                  \
        }                                                              \
    } while (0)

template <class Element, class Tile, class Cluster, class Mainloop, class Epilogue>
struct Gemm {
    using Layout = cutlass::layout::RowMajor;
    using LayoutB = cutlass::layout::ColumnMajor;
    using CollectiveEpilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
        cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
        cutlass::epilogue::collective::EpilogueTileAuto, float, float, Element, Layout, 8, Element,
        Layout, 8, Epilogue>::CollectiveOp;
    using CollectiveMainloop = typename cutlass::gemm::collective::CollectiveBuilder<
        cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, Layout, 8, Element, LayoutB,
        8, float, Tile, Cluster,
        cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
            sizeof(typename CollectiveEpilogue::SharedStorage))>,
        Mainloop>::CollectiveOp;
    using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>,
                                                        CollectiveMainloop, CollectiveEpilogue>;
    using Device = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
};

struct Random {
    uint64_t state;
    double next() {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return static_cast<double>(state >> 11) / 9007199254740992.0 * 2.0 - 1.0;
    }
};

template <class Gemm, class Element>
int run(const char* name, const char* type, double roundoff, int m, int n, int k) {
    using Device = typename Gemm::Device;
    using Kernel = typename Gemm::Kernel;
    Random random{17};
    std::vector<Element> a(m * k), b(n * k), c(m * n), d(m * n);
    for (auto& v : a) v = Element(static_cast<float>(random.next()));
    for (auto& v : b) v = Element(static_cast<float>(random.next()));
    for (auto& v : c) v = Element(static_cast<float>(random.next()));
    Element *on_a, *on_b, *on_c, *on_d;
    CHECK(cudaMalloc(&on_a, a.size() * sizeof(Element)));
    CHECK(cudaMalloc(&on_b, b.size() * sizeof(Element)));
    CHECK(cudaMalloc(&on_c, c.size() * sizeof(Element)));
    CHECK(cudaMalloc(&on_d, d.size() * sizeof(Element)));
    CHECK(cudaMemcpy(on_a, a.data(), a.size() * sizeof(Element), cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(on_b, b.data(), b.size() * sizeof(Element), cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(on_c, c.data(), c.size() * sizeof(Element), cudaMemcpyHostToDevice));
    const float alpha = 0.75f, beta = -0.5f;
    auto stride_a = cutlass::make_cute_packed_stride(typename Kernel::StrideA{}, {m, k, 1});
    auto stride_b = cutlass::make_cute_packed_stride(typename Kernel::StrideB{}, {n, k, 1});
    auto stride_c = cutlass::make_cute_packed_stride(typename Kernel::StrideC{}, {m, n, 1});
    cutlass::KernelHardwareInfo hardware;
    hardware.device_id = 0;
    hardware.sm_count = cutlass::KernelHardwareInfo::query_device_multiprocessor_count(0);
    typename Device::Arguments arguments{cutlass::gemm::GemmUniversalMode::kGemm,
                                         {m, n, k, 1},
                                         {on_a, stride_a, on_b, stride_b},
                                         {{alpha, beta}, on_c, stride_c, on_d, stride_c},
                                         hardware};
    Device gemm;
    size_t bytes = Device::get_workspace_size(arguments);
    void* workspace = nullptr;
    if (bytes > 0) CHECK(cudaMalloc(&workspace, bytes));
    auto fine = [&](cutlass::Status status, const char* what) {
        if (status != cutlass::Status::kSuccess)
            std::printf("%s %s: %s\n", name, what, cutlass::cutlassGetStatusString(status));
        return status == cutlass::Status::kSuccess;
    };
    if (!fine(gemm.can_implement(arguments), "can_implement") ||
        !fine(gemm.initialize(arguments, workspace), "initialize") || !fine(gemm.run(), "run"))
        return 1;
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemcpy(d.data(), on_d, d.size() * sizeof(Element), cudaMemcpyDeviceToHost));

    double worst = -1.0, error_there = 0.0, bound_there = 0.0;
    const double single = std::ldexp(1.0, -24);
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++) {
            double sum = 0.0, size = 0.0;
            for (int x = 0; x < k; x++) {
                double product = static_cast<double>(static_cast<float>(a[i * k + x])) *
                                 static_cast<double>(static_cast<float>(b[j * k + x]));
                sum += product;
                size += std::fabs(product);
            }
            double old = static_cast<float>(c[i * n + j]);
            double value = alpha * sum + beta * old;
            double scale = alpha * size + std::fabs(beta * old);
            double bound = (1.5 * k + 2.0) * single * scale + roundoff * std::fabs(value) + 1e-8;
            double error = std::fabs(static_cast<double>(static_cast<float>(d[i * n + j])) - value);
            if (!(error / bound <= worst)) {
                worst = error / bound;
                error_there = error;
                bound_there = bound;
            }
        }
    }
    std::printf("%s %s %.6e %.6e\n", name, type, error_there, bound_there);
    for (void* p : {(void*)on_a, (void*)on_b, (void*)on_c, (void*)on_d, workspace})
        CHECK(cudaFree(p));
    return 0;
}

using Pingpong = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
using Cooperative = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
using PingpongEpilogue = cutlass::epilogue::TmaWarpSpecialized;
using CooperativeEpilogue = cutlass::epilogue::TmaWarpSpecializedCooperative;

int main() {
#if defined(GEMM_F16)
    using Element = cutlass::half_t;
    const char* type = "f16";
    const double roundoff = std::ldexp(1.0, -11);
#elif defined(GEMM_BF16)
    using Element = cutlass::bfloat16_t;
    const char* type = "bf16";
    const double roundoff = std::ldexp(1.0, -8);
#else
#error "define GEMM_F16 or GEMM_BF16"
#endif
    using P = Gemm<Element, Shape<_64, _128, _64>, Shape<_2, _1, _1>, Pingpong, PingpongEpilogue>;
    using C =
        Gemm<Element, Shape<_128, _128, _64>, Shape<_2, _1, _1>, Cooperative, CooperativeEpilogue>;
    int failed = 0;
    failed |= run<P, Element>("sm90_pingpong_64x128_cluster2x1", type, roundoff, 200, 152, 168);
    failed |= run<C, Element>("sm90_cooperative_128x128_cluster2x1", type, roundoff, 200, 152, 168);
    return failed;
}
