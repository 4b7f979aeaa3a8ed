// A shard's dropout, whose seed is in device memory.

#include "support.h"

// The mask that a forward with this dropout saves, (2, 3) words.
static void mask_of(gpu *gpu, uint32_t from_memory, uint64_t row, uint64_t column,
                    lora_dropout dropout, lora_forward_record *record, uint64_t mask[2][3]) {
    lora_projection projection = {sizeof projection, 0, 8, 4};
    lora_problem problem = {
        .struct_size = sizeof problem,
        .dtype = LORA_DTYPE_F32,
        .tokens = 3,
        .in_features = 80,
        .projections = &projection,
        .projection_count = 1,
        .dropout = 1,
        .dropout_from_memory = from_memory,
        .mask_row = row,
        .mask_column = column,
    };
    lora_forward_plan *plan;
    LORA(lora_forward_plan_new(&problem, &gpu->device, &plan));
    lora_plan_info info = {.struct_size = sizeof info};
    LORA(lora_forward_plan_info(plan, &info));
    CHECK(info.mask_bytes == 2 * 3 * 8);
    uint64_t state = 9;
    matrix all[] = {matrix_new(LORA_DTYPE_F32, 3, 80, 0, 0),
                    matrix_new(LORA_DTYPE_F32, 8, 80, 0, 0),
                    matrix_new(LORA_DTYPE_F32, 4, 80, 0, 0), matrix_new(LORA_DTYPE_F32, 8, 4, 0, 0),
                    matrix_new(LORA_DTYPE_F32, 3, 8, 0, 0)};
    for (size_t i = 0; i < 5; i++) {
        matrix_fill(&all[i], 1.0, &state);
    }
    uint64_t saved = device_alloc(info.saved_bytes), workspace = device_alloc(info.workspace_bytes);
    lora_forward_projection given = {
        .struct_size = sizeof given,
        .scaling = 1.0f,
        .weight = all[1].address,
        .lora_a = all[2].address,
        .lora_b = all[3].address,
        .y = all[4].address,
    };
    lora_forward_args args = {
        .struct_size = sizeof args,
        .x = all[0].address,
        .projections = &given,
        .projection_count = 1,
        .dropout = &dropout,
        .saved = saved,
        .saved_bytes = info.saved_bytes,
        .workspace = workspace,
        .workspace_bytes = info.workspace_bytes,
        .record = record,
    };
    LORA(lora_forward(gpu->kernels, plan, &args, gpu->stream));
    CUDA(cuStreamSynchronize(gpu->stream));
    CUDA(cuMemcpyDtoH(mask, saved + info.mask_offset, info.mask_bytes));
    if (from_memory) {
        dropout.offset = 1;
        FAILS(LORA_STATUS_DROPOUT_WORDS, "offset 1",
              lora_forward(gpu->kernels, plan, &args, gpu->stream));
    }
    lora_forward_plan_free(plan);
    problem.mask_column = 12;
    FAILS(LORA_STATUS_MASK_ORIGIN, "12", lora_forward_plan_new(&problem, &gpu->device, &plan));
    CUDA(cuMemFree(saved));
    CUDA(cuMemFree(workspace));
    for (size_t i = 0; i < 5; i++) {
        matrix_free(&all[i]);
    }
}

static void masks(gpu *gpu) {
    uint64_t words[2] = {41, 42}, memory = device_alloc(sizeof words);
    CUDA(cuMemcpyHtoD(memory, words, sizeof words));
    lora_dropout by_value = {sizeof by_value, 0.4f, words[0], words[1]};
    lora_dropout from_memory = {sizeof from_memory, 0.4f, memory, 0};
    lora_forward_record record = {.struct_size = sizeof record};
    uint64_t whole[2][3], same[2][3], shard[2][3];
    mask_of(gpu, 0, 0, 0, by_value, &record, whole);
    CHECK(record.dropout_from_memory == 0 && record.mask_row == 0);
    mask_of(gpu, 1, 0, 0, from_memory, &record, same);
    CHECK(record.dropout_from_memory == 1 && record.seed == memory);
    CHECK(memcmp(whole, same, sizeof whole) == 0);
    mask_of(gpu, 1, 1, 8, from_memory, &record, shard);
    CHECK(record.mask_row == 1 && record.mask_column == 8);
    for (size_t row = 0; row < 2; row++) {
        CHECK(shard[0][row] == (whole[0][row + 1] >> 8 | whole[1][row + 1] << 56));
    }
    CUDA(cuMemFree(memory));
}

int main(void) {
    gpu gpu = gpu_open();
    masks(&gpu);
    gpu_close(&gpu);
    return 0;
}
