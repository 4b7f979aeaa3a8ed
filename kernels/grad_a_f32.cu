// grad_a for f32: one symbol per rank tile and alignment.
#include "grad_a.cuh"

extern "C" __global__ void __launch_bounds__(GradA<float, 16>::kThreads, 1)
    lora_grad_a__sm80__f32__r16_vec(const __grid_constant__ GradAParams p) {
    GradA<float, 16>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(GradA<float, 64>::kThreads, 1)
    lora_grad_a__sm80__f32__r64_vec(const __grid_constant__ GradAParams p) {
    GradA<float, 64>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(GradA<float, 64>::kThreads, 1)
    lora_grad_a__sm80__f32__r64_any(const __grid_constant__ GradAParams p) {
    GradA<float, 64>::run<false>(p);
}
