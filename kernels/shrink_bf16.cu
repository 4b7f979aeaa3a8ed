// shrink for bf16: one symbol per tile and alignment.
#include "shrink.cuh"

extern "C" __global__ void __launch_bounds__(Shrink<__nv_bfloat16, 64, 16>::kThreads, 1)
    lora_shrink__sm80__bf16__m64r16_vec(const __grid_constant__ ShrinkParams p) {
    Shrink<__nv_bfloat16, 64, 16>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(Shrink<__nv_bfloat16, 64, 64>::kThreads, 1)
    lora_shrink__sm80__bf16__m64r64_vec(const __grid_constant__ ShrinkParams p) {
    Shrink<__nv_bfloat16, 64, 64>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(Shrink<__nv_bfloat16, 16, 16>::kThreads, 1)
    lora_shrink__sm80__bf16__m16r16_vec(const __grid_constant__ ShrinkParams p) {
    Shrink<__nv_bfloat16, 16, 16>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(Shrink<__nv_bfloat16, 16, 64>::kThreads, 1)
    lora_shrink__sm80__bf16__m16r64_vec(const __grid_constant__ ShrinkParams p) {
    Shrink<__nv_bfloat16, 16, 64>::run<true>(p);
}

extern "C" __global__ void __launch_bounds__(Shrink<__nv_bfloat16, 16, 64>::kThreads, 1)
    lora_shrink__sm80__bf16__m16r64_any(const __grid_constant__ ShrinkParams p) {
    Shrink<__nv_bfloat16, 16, 64>::run<false>(p);
}
