// shrink for f16: one symbol per tile and alignment.
#include "shrink.cuh"

extern "C" __global__ void __launch_bounds__(Shrink<__half, 64, 16>::kThreads, 1)
    lora_shrink__sm80__f16__m64r16_vec(const __grid_constant__ ShrinkParams p) {
    Shrink<__half, 64, 16>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(Shrink<__half, 64, 64>::kThreads, 1)
    lora_shrink__sm80__f16__m64r64_vec(const __grid_constant__ ShrinkParams p) {
    Shrink<__half, 64, 64>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(Shrink<__half, 16, 16>::kThreads, 1)
    lora_shrink__sm80__f16__m16r16_vec(const __grid_constant__ ShrinkParams p) {
    Shrink<__half, 16, 16>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(Shrink<__half, 16, 64>::kThreads, 1)
    lora_shrink__sm80__f16__m16r64_vec(const __grid_constant__ ShrinkParams p) {
    Shrink<__half, 16, 64>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(Shrink<__half, 16, 64>::kThreads, 1)
    lora_shrink__sm80__f16__m16r64_any(const __grid_constant__ ShrinkParams p) {
    Shrink<__half, 16, 64>::run<false>(p);
}
