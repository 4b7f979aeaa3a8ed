// grad_x for bf16: one symbol per tile and alignment.
#include "grad_x.cuh"
#include "tiles.cuh"

extern "C" __global__ void __launch_bounds__(GemmTiles<__nv_bfloat16>::Wide::kThreads, 1)
    lora_grad_x__sm80__bf16__m128n128k32_vec(const __grid_constant__ GradXParams p) {
    grad_x<__nv_bfloat16, GemmTiles<__nv_bfloat16>::Wide, true>(p);
}

extern "C" __global__ void __launch_bounds__(GemmTiles<__nv_bfloat16>::Wide::kThreads, 1)
    lora_grad_x__sm80__bf16__m128n128k32_any(const __grid_constant__ GradXParams p) {
    grad_x<__nv_bfloat16, GemmTiles<__nv_bfloat16>::Wide, false>(p);
}

extern "C" __global__ void __launch_bounds__(GemmTiles<__nv_bfloat16>::Small::kThreads, 1)
    lora_grad_x__sm80__bf16__m64n64k64_vec(const __grid_constant__ GradXParams p) {
    grad_x<__nv_bfloat16, GemmTiles<__nv_bfloat16>::Small, true>(p);
}

extern "C" __global__ void __launch_bounds__(GemmTiles<__nv_bfloat16>::Small::kThreads, 1)
    lora_grad_x__sm80__bf16__m64n64k64_any(const __grid_constant__ GradXParams p) {
    grad_x<__nv_bfloat16, GemmTiles<__nv_bfloat16>::Small, false>(p);
}
