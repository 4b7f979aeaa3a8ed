// grad_b for f16: one symbol per rank tile and alignment.
#include "grad_b.cuh"

extern "C" __global__ void __launch_bounds__(GradB<__half, 16>::kThreads, 1)
    lora_grad_b__sm80__f16__r16_vec(const __grid_constant__ GradBParams p) {
    GradB<__half, 16>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(GradB<__half, 64>::kThreads, 1)
    lora_grad_b__sm80__f16__r64_vec(const __grid_constant__ GradBParams p) {
    GradB<__half, 64>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(GradB<__half, 64>::kThreads, 1)
    lora_grad_b__sm80__f16__r64_any(const __grid_constant__ GradBParams p) {
    GradB<__half, 64>::run<false>(p);
}
