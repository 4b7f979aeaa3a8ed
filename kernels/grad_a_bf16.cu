// grad_a for bf16: one symbol per rank tile and alignment.
#include "grad_a.cuh"

extern "C" __global__ void __launch_bounds__(GradA<__nv_bfloat16, 16>::kThreads, 1)
    lora_grad_a__sm80__bf16__r16_vec(const __grid_constant__ GradAParams p) {
    GradA<__nv_bfloat16, 16>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(GradA<__nv_bfloat16, 64>::kThreads, 1)
    lora_grad_a__sm80__bf16__r64_vec(const __grid_constant__ GradAParams p) {
    GradA<__nv_bfloat16, 64>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(GradA<__nv_bfloat16, 64>::kThreads, 1)
    lora_grad_a__sm80__bf16__r64_any(const __grid_constant__ GradAParams p) {
    GradA<__nv_bfloat16, 64>::run<false>(p);
}
