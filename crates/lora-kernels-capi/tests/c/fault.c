// Device addresses with nothing behind them: the error says so, every later call too, and all can
// still be freed.

#include "support.h"

int main(void) {
    gpu gpu = gpu_open();
    lora_projection one = {sizeof one, 0, 24, 4};
    lora_problem problem = {.struct_size = sizeof problem,
                            .dtype = LORA_DTYPE_F32,
                            .tokens = 3,
                            .in_features = 40,
                            .projections = &one,
                            .projection_count = 1};
    lora_forward_plan *plan = NULL;
    LORA(lora_forward_plan_new(&problem, &gpu.device, &plan));
    lora_plan_info info = {.struct_size = sizeof info};
    LORA(lora_forward_plan_info(plan, &info));
    uint64_t saved = device_alloc(info.saved_bytes), workspace = device_alloc(info.workspace_bytes);
    // As far apart as matrices are that don't overlap.
    lora_forward_projection wild = {sizeof wild, 1.0f, 0x10000, 0, 0x20000, 0x30000, 0x40000};
    lora_forward_args args = {
        .struct_size = sizeof args,
        .x = 0x50000,
        .projections = &wild,
        .projection_count = 1,
        .saved = saved,
        .saved_bytes = info.saved_bytes,
        .workspace = workspace,
        .workspace_bytes = info.workspace_bytes,
    };

    // An emulated device runs a launch at once; a real one tells when it is waited for.
    lora_status status = lora_forward(gpu.kernels, plan, &args, gpu.stream);
    CUresult waited = cuStreamSynchronize(gpu.stream);
    CHECK(status == LORA_STATUS_DRIVER || waited != CUDA_SUCCESS);
    FAILS(LORA_STATUS_DRIVER, "an earlier launch of this context faulted",
          lora_forward(gpu.kernels, plan, &args, gpu.stream));
    CHECK(lora_last_cuda_result() != 0);

    lora_forward_plan_free(plan);
    lora_kernels_free(gpu.kernels);
    return 0;
}
