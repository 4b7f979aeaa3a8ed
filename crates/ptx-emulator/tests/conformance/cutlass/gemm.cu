// CUTLASS's GEMM for sm_80 (cutlass/gemm/kernel/gemm.h) in the tile shapes and types of the
// conformance tests.
//
// CUTLASS fills a kernel's Params on the host; here the kernel itself does, from plain arguments,
// so that any driver can launch it. A is row-major [m, k], B column-major ([n, k] in memory), C
// row-major [m, n]: c = alpha * a b + beta * c.

#include "cutlass/cutlass.h"
#include "cutlass/gemm/device/gemm.h"

template <typename Element, typename Output, typename Block, typename Warp, typename Instruction, int Stages>
using Gemm = cutlass::gemm::device::Gemm<
    Element, cutlass::layout::RowMajor, Element, cutlass::layout::ColumnMajor, Output, cutlass::layout::RowMajor, float,
    cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80, Block, Warp, Instruction,
    cutlass::epilogue::thread::LinearCombination<Output, 128 / cutlass::sizeof_bits<Output>::value, float, float>,
    cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>, Stages>;

template <typename Device>
__device__ void run(int m, int n, int k, void const* a, void const* b, void* c, float alpha, float beta) {
    using Kernel = typename Device::GemmKernel;
    using Element = typename Device::ElementA;
    using Output = typename Device::ElementC;
    extern __shared__ __align__(16) char shared[];

    cutlass::gemm::GemmCoord problem(m, n, k);
    typename Device::ThreadblockSwizzle swizzle;
    auto tiles = swizzle.get_tiled_shape(
        problem, {Device::ThreadblockShape::kM, Device::ThreadblockShape::kN, Device::ThreadblockShape::kK}, 1);
    auto* source = static_cast<Output*>(c);
    typename Kernel::Params params(
        problem, tiles, {static_cast<Element*>(const_cast<void*>(a)), k}, {static_cast<Element*>(const_cast<void*>(b)), k},
        {source, n}, {source, n}, {alpha, beta});
    Kernel kernel;
    kernel(params, *reinterpret_cast<typename Kernel::SharedStorage*>(shared));
}

// The kernel, and what a launch of it needs: threads, dynamic shared bytes, rows and columns of a
// block's tile.
#define KERNEL(NAME, ...)                                                                                              \
    using NAME##_device = __VA_ARGS__;                                                                                 \
    extern "C" __global__ void __launch_bounds__(NAME##_device::GemmKernel::kThreadCount)                              \
        NAME(int m, int n, int k, void const* a, void const* b, void* c, float alpha, float beta) {                    \
        run<NAME##_device>(m, n, k, a, b, c, alpha, beta);                                                             \
    }                                                                                                                  \
    extern "C" __device__ const int NAME##_launch[4] = {                                                               \
        NAME##_device::GemmKernel::kThreadCount, int(sizeof(NAME##_device::GemmKernel::SharedStorage)),                \
        NAME##_device::ThreadblockShape::kM, NAME##_device::ThreadblockShape::kN};

using cutlass::gemm::GemmShape;

#if defined(GEMM_F16)
KERNEL(gemm_f16_128x64, Gemm<cutlass::half_t, cutlass::half_t, GemmShape<128, 64, 32>, GemmShape<64, 32, 32>, GemmShape<16, 8, 16>, 3>)
KERNEL(gemm_f16_64x128, Gemm<cutlass::half_t, cutlass::half_t, GemmShape<64, 128, 64>, GemmShape<32, 64, 64>, GemmShape<16, 8, 16>, 4>)
#elif defined(GEMM_BF16)
KERNEL(gemm_bf16_128x64, Gemm<cutlass::bfloat16_t, float, GemmShape<128, 64, 32>, GemmShape<64, 32, 32>, GemmShape<16, 8, 16>, 3>)
KERNEL(gemm_bf16_64x128, Gemm<cutlass::bfloat16_t, float, GemmShape<64, 128, 64>, GemmShape<32, 64, 64>, GemmShape<16, 8, 16>, 4>)
#else
#error "define GEMM_F16 or GEMM_BF16"
#endif
