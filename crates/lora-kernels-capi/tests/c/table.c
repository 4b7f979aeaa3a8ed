// A table of adapters whose rows go through them, compared with loops in double precision, and what
// is refused of it. Then a shard's dropout whose seed is in device memory.

#include <math.h>

#include "support.h"

enum { TOKENS = 5, IN = 40, SLOTS = 4, PER_ROW = 2, LARGEST = 20, PROJECTIONS = 2 };

static const size_t OUT[PROJECTIONS] = {24, 9};

// Of each slot; 0 leaves the projection alone.
static const size_t RANK[SLOTS][PROJECTIONS] = {{3, 20}, {16, 0}, {20, 7}, {0, 0}};

typedef struct part {
    matrix a, b;
    float scaling;
} part;

static lora_problem problem_of(const lora_projection *projections) {
    return (lora_problem){
        .struct_size = sizeof(lora_problem),
        .dtype = LORA_DTYPE_F32,
        .tokens = TOKENS,
        .in_features = IN,
        .projections = projections,
        .projection_count = PROJECTIONS,
        .inference = 1,
        .batch_invariant = 1,
        .adapter_slots = SLOTS,
        .adapters_per_row = PER_ROW,
    };
}

static void check(const matrix *x, const matrix *weight, part parts[SLOTS][PROJECTIONS],
                  size_t index, int empty, const int32_t slots[TOKENS][PER_ROW],
                  const float weights[TOKENS][PER_ROW], matrix *y) {
    matrix_download(y);
    for (size_t row = 0; row < TOKENS; row++) {
        for (size_t n = 0; n < OUT[index]; n++) {
            double sum = 0.0;
            for (size_t k = 0; k < IN; k++) {
                sum += matrix_at(x, row, k) * matrix_at(weight, n, k);
            }
            for (size_t place = 0; place < PER_ROW; place++) {
                int32_t slot = slots[row][place];
                if (slot < 0 || slot >= SLOTS || slot == empty) {
                    continue;
                }
                const part *own = &parts[slot][index];
                for (size_t r = 0; r < RANK[slot][index]; r++) {
                    double s = 0.0;
                    for (size_t k = 0; k < IN; k++) {
                        s += matrix_at(x, row, k) * matrix_at(&own->a, r, k);
                    }
                    sum +=
                        (double)(own->scaling * weights[row][place]) * s * matrix_at(&own->b, n, r);
                }
            }
            if (!(fabs(matrix_at(y, row, n) - sum) < 1e-4)) {
                fprintf(stderr, "y %zu (%zu, %zu) is %g, not %g\n", index, row, n,
                        matrix_at(y, row, n), sum);
                exit(1);
            }
        }
    }
}

static void refusals(const lora_forward_plan *plan, lora_table_adapter sound) {
    lora_table_entry entry;
    FAILS(LORA_STATUS_NO_PROJECTION, "projection 2", lora_table_entry_of(plan, 2, &sound, &entry));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "adapter", lora_table_entry_of(plan, 0, NULL, &entry));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "entry", lora_table_entry_of(plan, 0, &sound, NULL));
    lora_table_adapter wrong = sound;
    wrong.rank = 21;
    FAILS(LORA_STATUS_TABLE_RANK, "21", lora_table_entry_of(plan, 0, &wrong, &entry));
    wrong = sound;
    wrong.lora_a_stride = IN - 1;
    FAILS(LORA_STATUS_TABLE_STRIDE, "39", lora_table_entry_of(plan, 0, &wrong, &entry));
    wrong = sound;
    wrong.lora_b += 2;
    FAILS(LORA_STATUS_ALIGNMENT, "lora_B", lora_table_entry_of(plan, 0, &wrong, &entry));
    wrong = sound;
    wrong.lora_a = 0;
    FAILS(LORA_STATUS_NULL, "lora_A", lora_table_entry_of(plan, 0, &wrong, &entry));
    wrong = sound;
    wrong.scaling = NAN;
    FAILS(LORA_STATUS_SCALING, "NaN", lora_table_entry_of(plan, 0, &wrong, &entry));
}

static void tables(gpu *gpu) {
    uint64_t state = 7;
    lora_projection projections[PROJECTIONS];
    lora_forward_projection given[PROJECTIONS];
    matrix x = matrix_new(LORA_DTYPE_F32, TOKENS, IN, 0, 0), weight[PROJECTIONS], y[PROJECTIONS];
    matrix_fill(&x, 1.0, &state);
    for (size_t i = 0; i < PROJECTIONS; i++) {
        projections[i] = (lora_projection){sizeof *projections, 0, OUT[i], LARGEST};
        weight[i] = matrix_new(LORA_DTYPE_F32, OUT[i], IN, 0, 0);
        matrix_fill(&weight[i], 0.3, &state);
        y[i] = matrix_new(LORA_DTYPE_F32, TOKENS, OUT[i], 0, 0);
        matrix_upload(&y[i]);
        given[i] = (lora_forward_projection){
            .struct_size = sizeof *given, .weight = weight[i].address, .y = y[i].address};
    }
    lora_problem problem = problem_of(projections);
    lora_forward_plan *plan;
    LORA(lora_forward_plan_new(&problem, &gpu->device, &plan));
    lora_plan_info info = {.struct_size = sizeof info};
    LORA(lora_forward_plan_info(plan, &info));
    CHECK(info.launches == 1 && info.saved_bytes == 0 && info.flags_bytes > 0);

    part parts[SLOTS][PROJECTIONS];
    lora_table_entry entries[SLOTS][PROJECTIONS];
    lora_table_adapter adapter = {0};
    for (size_t slot = 0; slot < SLOTS; slot++) {
        for (size_t i = 0; i < PROJECTIONS; i++) {
            part *own = &parts[slot][i];
            // Strides of any size
            own->a = matrix_new(LORA_DTYPE_F32, RANK[slot][i], IN, slot, 0);
            own->b = matrix_new(LORA_DTYPE_F32, OUT[i], RANK[slot][i], i, 0);
            own->scaling = 0.5f + (float)slot;
            matrix_fill(&own->a, 0.5, &state);
            matrix_fill(&own->b, 0.5, &state);
            adapter = (lora_table_adapter){
                sizeof adapter, own->scaling,           RANK[slot][i],         own->a.address,
                own->b.address, (int64_t)own->a.stride, (int64_t)own->b.stride};
            LORA(lora_table_entry_of(plan, i, &adapter, &entries[slot][i]));
            if (slot == 0 && i == 0) {
                refusals(plan, adapter);
            }
        }
    }
    const int32_t slots[TOKENS][PER_ROW] = {{0, 1}, {-1, -1}, {2, -1}, {1, 3}, {0, 2}};
    const float weights[TOKENS][PER_ROW] = {{1, -2}, {1, 1}, {0.25f, 1}, {1, 1}, {0, 1}};
    uint32_t zero = 0, wrong = 0;
    uint64_t table = device_alloc(sizeof entries), lists = device_alloc(sizeof slots),
             factors = device_alloc(sizeof weights), word = device_alloc(4),
             workspace = device_alloc(info.workspace_bytes), flags = device_alloc(info.flags_bytes);
    void *zeros = calloc(1, info.flags_bytes);
    CUDA(cuMemcpyHtoD(flags, zeros, info.flags_bytes));
    free(zeros);
    CUDA(cuMemcpyHtoD(table, entries, sizeof entries));
    CUDA(cuMemcpyHtoD(lists, slots, sizeof slots));
    CUDA(cuMemcpyHtoD(factors, weights, sizeof weights));
    CUDA(cuMemcpyHtoD(word, &zero, sizeof zero));
    lora_rows rows = {sizeof rows, 0, table, lists, factors, word};
    lora_forward_args args = {
        .struct_size = sizeof args,
        .x = x.address,
        .projections = given,
        .projection_count = PROJECTIONS,
        .workspace = workspace,
        .workspace_bytes = info.workspace_bytes,
        .flags = flags,
        .flags_bytes = info.flags_bytes,
        .rows = &rows,
    };
    LORA(lora_forward(gpu->kernels, plan, &args, gpu->stream));
    CUDA(cuStreamSynchronize(gpu->stream));
    for (size_t i = 0; i < PROJECTIONS; i++) {
        check(&x, &weight[i], parts, i, -1, slots, weights, &y[i]);
    }
    CUDA(cuMemcpyDtoH(&wrong, word, sizeof wrong));
    CHECK(wrong == 0);

    // A slot is emptied: its rows have the other adapter only, and the word tells.
    lora_table_entry none[PROJECTIONS] = {0};
    CUDA(cuMemcpyHtoD(table + 2 * sizeof none, none, sizeof none));
    LORA(lora_forward(gpu->kernels, plan, &args, gpu->stream));
    CUDA(cuStreamSynchronize(gpu->stream));
    for (size_t i = 0; i < PROJECTIONS; i++) {
        check(&x, &weight[i], parts, i, 2, slots, weights, &y[i]);
    }
    CUDA(cuMemcpyDtoH(&wrong, word, sizeof wrong));
    CHECK(wrong == 1);

    args.rows = NULL;
    FAILS(LORA_STATUS_OPTIONAL, "rows", lora_forward(gpu->kernels, plan, &args, gpu->stream));
    args.rows = &rows;
    args.flags_bytes--;
    FAILS(LORA_STATUS_BUFFER, "flags", lora_forward(gpu->kernels, plan, &args, gpu->stream));
    args.flags_bytes++;
    rows.reserved = 1;
    FAILS(LORA_STATUS_RESERVED, "args->rows", lora_forward(gpu->kernels, plan, &args, gpu->stream));

    lora_forward_plan_free(plan);
    problem.adapters_per_row = 5;
    FAILS(LORA_STATUS_ROW_ADAPTERS, "5", lora_forward_plan_new(&problem, &gpu->device, &plan));
    uint64_t all[] = {table, lists, factors, word, workspace, flags};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        CUDA(cuMemFree(all[i]));
    }
    matrix_free(&x);
    for (size_t i = 0; i < PROJECTIONS; i++) {
        matrix_free(&weight[i]);
        matrix_free(&y[i]);
        for (size_t slot = 0; slot < SLOTS; slot++) {
            matrix_free(&parts[slot][i].a);
            matrix_free(&parts[slot][i].b);
        }
    }
}

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
    tables(&gpu);
    masks(&gpu);
    gpu_close(&gpu);
    return 0;
}
