// merge for f32: one symbol per alignment, and the sum over blocks of what they counted.
#include "merge.cuh"

extern "C" __global__ void __launch_bounds__(Merge<float>::kThreads, 2)
    lora_merge__sm80__f32__n64k128_vec(const __grid_constant__ MergeParams p) {
    Merge<float>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(Merge<float>::kThreads, 2)
    lora_merge__sm80__f32__n64k128_any(const __grid_constant__ MergeParams p) {
    Merge<float>::run<false>(p);
}

extern "C" __global__ void __launch_bounds__(Merge<float>::kThreads, 2)
    lora_merge__sm80__f32__totals_any(const __grid_constant__ MergeParams p) {
    Merge<float>::sum_totals(p);
}
