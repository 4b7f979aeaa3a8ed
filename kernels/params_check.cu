// Writes the layout of every parameter struct, so that a test can compare it with the Rust mirror: size, then the offset of the last field
// and of one in the middle.
#include <cstddef>

#include "params.cuh"

extern "C" __global__ void lora_params_check(uint32_t* out) {
    const uint32_t layout[] = {
        sizeof(ShrinkParams),  offsetof(ShrinkParams, m),  offsetof(ShrinkParams, dropout),
        sizeof(ForwardParams), offsetof(ForwardParams, m), offsetof(ForwardParams, out_paired),
        sizeof(GradBParams),   offsetof(GradBParams, m),   offsetof(GradBParams, lora_vectorised),
        sizeof(ReduceParams),  offsetof(ReduceParams, splits), offsetof(ReduceParams, blocks),
        sizeof(GradAParams),   offsetof(GradAParams, m),   offsetof(GradAParams, reduce_b),
        sizeof(GradXParams),   offsetof(GradXParams, m),   offsetof(GradXParams, reduce_a),
    };
    for (int i = 0; i < static_cast<int>(sizeof(layout) / sizeof(layout[0])); ++i) {
        out[i] = layout[i];
    }
}
