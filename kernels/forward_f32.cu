// forward for f32: one symbol per tile and alignment.
#include "forward.cuh"
#include "tiles.cuh"

extern "C" __global__ void __launch_bounds__(GemmTiles<float>::Wide::kThreads, 1)
    lora_forward__sm80__f32__m128n128k16_vec(const __grid_constant__ ForwardParams p) {
    forward<float, GemmTiles<float>::Wide, true>(p);
}

extern "C" __global__ void __launch_bounds__(GemmTiles<float>::Wide::kThreads, 1)
    lora_forward__sm80__f32__m128n128k16_any(const __grid_constant__ ForwardParams p) {
    forward<float, GemmTiles<float>::Wide, false>(p);
}

extern "C" __global__ void __launch_bounds__(GemmTiles<float>::Small::kThreads, 1)
    lora_forward__sm80__f32__m64n64k32_vec(const __grid_constant__ ForwardParams p) {
    forward<float, GemmTiles<float>::Small, true>(p);
}

extern "C" __global__ void __launch_bounds__(GemmTiles<float>::Small::kThreads, 1)
    lora_forward__sm80__f32__m64n64k32_any(const __grid_constant__ ForwardParams p) {
    forward<float, GemmTiles<float>::Small, false>(p);
}
