// grad_x for f16: one symbol per tile and alignment.
#include "grad_x.cuh"
#include "tiles.cuh"

extern "C" __global__ void __launch_bounds__(GemmTiles<__half>::Wide::kThreads, 1)
    lora_grad_x__sm80__f16__m128n128k32_vec(const __grid_constant__ GradXParams p) {
    grad_x<__half, GemmTiles<__half>::Wide, true>(p);
}

extern "C" __global__ void __launch_bounds__(GemmTiles<__half>::Wide::kThreads, 1)
    lora_grad_x__sm80__f16__m128n128k32_any(const __grid_constant__ GradXParams p) {
    grad_x<__half, GemmTiles<__half>::Wide, false>(p);
}

extern "C" __global__ void __launch_bounds__(GemmTiles<__half>::Small::kThreads, 1)
    lora_grad_x__sm80__f16__m64n64k64_vec(const __grid_constant__ GradXParams p) {
    grad_x<__half, GemmTiles<__half>::Small, true>(p);
}

extern "C" __global__ void __launch_bounds__(GemmTiles<__half>::Small::kThreads, 1)
    lora_grad_x__sm80__f16__m64n64k64_any(const __grid_constant__ GradXParams p) {
    grad_x<__half, GemmTiles<__half>::Small, false>(p);
}
