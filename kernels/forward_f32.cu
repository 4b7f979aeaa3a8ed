// forward for f32: one symbol per tile, layout of the weight and alignment.
#include "forward.cuh"
#include "tiles.cuh"

using Tiles = GemmTiles<float>;

extern "C" __global__ void __launch_bounds__(Tiles::Wide<Major::kDepth>::kThreads, 1)
    lora_forward__sm80__f32__m128n128k16_vec(const __grid_constant__ ForwardParams p) {
    Forward<Tiles::Wide<Major::kDepth>>::run(p);
}

extern "C" __global__ void __launch_bounds__(Tiles::Wide<Major::kOuter>::kThreads, 1)
    lora_forward__sm80__f32__m128n128k16_vec_kn(const __grid_constant__ ForwardParams p) {
    Forward<Tiles::Wide<Major::kOuter>>::run(p);
}

extern "C" __global__ void __launch_bounds__(Tiles::Small<Major::kDepth>::kThreads, 3)
    lora_forward__sm80__f32__m64n64k32_vec(const __grid_constant__ ForwardParams p) {
    Forward<Tiles::Small<Major::kDepth>>::run(p);
}

extern "C" __global__ void __launch_bounds__(Tiles::Small<Major::kOuter>::kThreads, 3)
    lora_forward__sm80__f32__m64n64k32_vec_kn(const __grid_constant__ ForwardParams p) {
    Forward<Tiles::Small<Major::kOuter>>::run(p);
}

extern "C" __global__ void __launch_bounds__(Tiles::Small<Major::kDepth, false>::kThreads, 3)
    lora_forward__sm80__f32__m64n64k32_any(const __grid_constant__ ForwardParams p) {
    Forward<Tiles::Small<Major::kDepth, false>>::run(p);
}
