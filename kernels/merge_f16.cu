// merge for f16: one symbol per alignment, and the sum over blocks of what they counted.
#include "merge.cuh"

extern "C" __global__ void __launch_bounds__(Merge<__half>::kThreads, 2)
    lora_merge__sm80__f16__n64k128_vec(const __grid_constant__ MergeParams p) {
    Merge<__half>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(Merge<__half>::kThreads, 2)
    lora_merge__sm80__f16__n64k128_any(const __grid_constant__ MergeParams p) {
    Merge<__half>::run<false>(p);
}

extern "C" __global__ void __launch_bounds__(Merge<__half>::kThreads, 2)
    lora_merge__sm80__f16__totals_any(const __grid_constant__ MergeParams p) {
    Merge<__half>::sum_totals(p);
}
