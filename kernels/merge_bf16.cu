// merge for bf16: one symbol per alignment, and the sum over blocks of what they counted.
#include "merge.cuh"

extern "C" __global__ void __launch_bounds__(Merge<__nv_bfloat16>::kThreads, 2)
    lora_merge__sm80__bf16__n64k128_vec(const __grid_constant__ MergeParams p) {
    Merge<__nv_bfloat16>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(Merge<__nv_bfloat16>::kThreads, 2)
    lora_merge__sm80__bf16__n64k128_any(const __grid_constant__ MergeParams p) {
    Merge<__nv_bfloat16>::run<false>(p);
}

extern "C" __global__ void __launch_bounds__(Merge<__nv_bfloat16>::kThreads, 2)
    lora_merge__sm80__bf16__totals_any(const __grid_constant__ MergeParams p) {
    Merge<__nv_bfloat16>::sum_totals(p);
}
