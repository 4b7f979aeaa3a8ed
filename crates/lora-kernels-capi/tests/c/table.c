// A table of adapters whose rows go through them, forward and backward, compared with loops in
// double precision, and what is refused of it.

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

// The sum over rows of what lora_A's or lora_B's gradient gets in element (r, k) or (n, r).
static double gradient(const matrix *x, const matrix *dy, const part *own, size_t slot,
                       size_t index, const int32_t slots[TOKENS][PER_ROW],
                       const float weights[TOKENS][PER_ROW], int of_b, size_t row, size_t column) {
    double sum = 0.0;
    for (size_t token = 0; token < TOKENS; token++) {
        for (size_t place = 0; place < PER_ROW; place++) {
            if (slots[token][place] != (int32_t)slot) {
                continue;
            }
            double product = 0.0;
            for (size_t i = 0; i < (of_b ? IN : OUT[index]); i++) {
                product += of_b ? matrix_at(x, token, i) * matrix_at(&own->a, column, i)
                                : matrix_at(dy, token, i) * matrix_at(&own->b, i, row);
            }
            product *= (double)(own->scaling * weights[token][place]);
            sum += product * (of_b ? matrix_at(dy, token, row) : matrix_at(x, token, column));
        }
    }
    return sum;
}

static void gradient_refusals(const lora_backward_plan *plan, lora_table_gradients sound) {
    lora_gradient_entry entry;
    FAILS(LORA_STATUS_NO_PROJECTION, "projection 2",
          lora_gradient_entry_of(plan, 2, &sound, &entry));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "entry", lora_gradient_entry_of(plan, 0, &sound, NULL));
    lora_table_gradients wrong = sound;
    wrong.rank = 21;
    FAILS(LORA_STATUS_TABLE_RANK, "21", lora_gradient_entry_of(plan, 0, &wrong, &entry));
    wrong = sound;
    wrong.d_lora_b_stride = 1;
    FAILS(LORA_STATUS_TABLE_STRIDE, "d_lora_B", lora_gradient_entry_of(plan, 0, &wrong, &entry));
    wrong = sound;
    wrong.d_lora_a += 2;
    FAILS(LORA_STATUS_ALIGNMENT, "d_lora_A", lora_gradient_entry_of(plan, 0, &wrong, &entry));
    wrong = sound;
    wrong.reserved = 1;
    FAILS(LORA_STATUS_RESERVED, "gradients", lora_gradient_entry_of(plan, 0, &wrong, &entry));
}

// A forward that saves S, and a backward with the gradients of each adapter. Slot 1 is frozen.
static void training(gpu *gpu, lora_problem problem, const matrix *x, const matrix *weight,
                     part parts[SLOTS][PROJECTIONS], lora_rows rows, lora_forward_projection *given,
                     const int32_t slots[TOKENS][PER_ROW], const float weights[TOKENS][PER_ROW]) {
    enum { FROZEN = 1 };
    problem.inference = 0;
    problem.batch_invariant = 0;
    lora_forward_plan *forward;
    lora_backward_plan *backward;
    LORA(lora_forward_plan_new(&problem, &gpu->device, &forward));
    LORA(lora_backward_plan_new(&problem, &gpu->device, &backward));
    lora_plan_info info = {.struct_size = sizeof info}, back = {.struct_size = sizeof back};
    LORA(lora_forward_plan_info(forward, &info));
    LORA(lora_backward_plan_info(backward, &back));
    uint64_t saved = device_alloc(info.saved_bytes),
             workspace = device_alloc(info.workspace_bytes + back.workspace_bytes),
             flags = device_alloc(info.flags_bytes + 4);
    void *zeros = calloc(1, info.flags_bytes + 4);
    CUDA(cuMemcpyHtoD(flags, zeros, info.flags_bytes + 4));
    free(zeros);
    lora_forward_record record = {.struct_size = sizeof record};
    lora_forward_args args = {
        .struct_size = sizeof args,
        .x = x->address,
        .projections = given,
        .projection_count = PROJECTIONS,
        .saved = saved,
        .saved_bytes = info.saved_bytes,
        .workspace = workspace,
        .workspace_bytes = info.workspace_bytes,
        .record = &record,
        .flags = info.flags_bytes ? flags : 0,
        .flags_bytes = info.flags_bytes,
        .rows = &rows,
    };
    LORA(lora_forward(gpu->kernels, forward, &args, gpu->stream));
    CHECK(record.adapters_per_row == PER_ROW);

    uint64_t state = 11;
    matrix dx = matrix_new(LORA_DTYPE_F32, TOKENS, IN, 0, 0), dy[PROJECTIONS];
    matrix gradients[SLOTS][PROJECTIONS][2];
    lora_backward_projection outputs[PROJECTIONS];
    lora_gradient_entry entries[SLOTS][PROJECTIONS];
    for (size_t i = 0; i < PROJECTIONS; i++) {
        dy[i] = matrix_new(LORA_DTYPE_F32, TOKENS, OUT[i], 0, 0);
        matrix_fill(&dy[i], 1.0, &state);
        outputs[i] = (lora_backward_projection){
            .struct_size = sizeof *outputs, .dy = dy[i].address, .weight = weight[i].address};
        for (size_t slot = 0; slot < SLOTS; slot++) {
            matrix *own = gradients[slot][i];
            size_t rank = RANK[slot][i];
            own[0] = matrix_new(LORA_DTYPE_F32, rank, IN, slot, 0);
            own[1] = matrix_new(LORA_DTYPE_F32, OUT[i], rank, i, 0);
            matrix_fill(&own[0], 1.0, &state);
            matrix_fill(&own[1], 1.0, &state);
            lora_table_gradients to = {sizeof to,
                                       0,
                                       rank,
                                       own[0].address,
                                       own[1].address,
                                       (int64_t)own[0].stride,
                                       (int64_t)own[1].stride};
            if (slot == 0 && i == 0) {
                gradient_refusals(backward, to);
            }
            to.rank = slot == FROZEN ? 0 : rank;
            LORA(lora_gradient_entry_of(backward, i, &to, &entries[slot][i]));
        }
    }
    uint64_t table = device_alloc(sizeof entries);
    CUDA(cuMemcpyHtoD(table, entries, sizeof entries));
    lora_backward_args of_backward = {
        .struct_size = sizeof of_backward,
        .x = x->address,
        .projections = outputs,
        .projection_count = PROJECTIONS,
        .saved = saved,
        .saved_bytes = info.saved_bytes,
        .dx = dx.address,
        .workspace = workspace,
        .workspace_bytes = back.workspace_bytes,
        .record = &record,
    };
    FAILS(LORA_STATUS_OPTIONAL, "rows",
          lora_backward(gpu->kernels, backward, &of_backward, gpu->stream));
    of_backward.rows = &rows;
    FAILS(LORA_STATUS_NULL, "gradients",
          lora_backward(gpu->kernels, backward, &of_backward, gpu->stream));
    rows.gradients = table;
    record.adapters_per_row = 1;
    FAILS(LORA_STATUS_OTHER_FORWARD, "1 adapters per row",
          lora_backward(gpu->kernels, backward, &of_backward, gpu->stream));
    record.adapters_per_row = PER_ROW;
    LORA(lora_backward(gpu->kernels, backward, &of_backward, gpu->stream));
    CUDA(cuStreamSynchronize(gpu->stream));
    for (size_t slot = 0; slot < SLOTS; slot++) {
        for (size_t i = 0; i < PROJECTIONS; i++) {
            for (int of_b = 0; of_b < 2; of_b++) {
                matrix *own = &gradients[slot][i][of_b];
                size_t count = own->rows * own->columns;
                double *was = malloc((count + 1) * sizeof *was);
                for (size_t at = 0; at < count; at++) {
                    was[at] = matrix_at(own, at / own->columns, at % own->columns);
                }
                matrix_download(own);
                for (size_t at = 0; at < count; at++) {
                    size_t row = at / own->columns, column = at % own->columns;
                    double found = matrix_at(own, row, column);
                    double sum = slot == FROZEN ? was[at]
                                                : gradient(x, &dy[i], &parts[slot][i], slot, i,
                                                           slots, weights, of_b, row, column);
                    if (!(fabs(found - sum) < 1e-4)) {
                        fprintf(stderr,
                                "gradient %d of slot %zu, projection %zu (%zu, %zu) is %g, "
                                "not %g\n",
                                of_b, slot, i, row, column, found, sum);
                        exit(1);
                    }
                }
                free(was);
                matrix_free(own);
            }
        }
    }
    for (size_t i = 0; i < PROJECTIONS; i++) {
        matrix_free(&dy[i]);
    }
    matrix_free(&dx);
    uint64_t all[] = {saved, workspace, flags, table};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        CUDA(cuMemFree(all[i]));
    }
    lora_forward_plan_free(forward);
    lora_backward_plan_free(backward);
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
    lora_rows rows = {sizeof rows, 0, table, lists, factors, word, 0};
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

    training(gpu, problem, &x, weight, parts, rows, given, slots, weights);

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

int main(void) {
    gpu gpu = gpu_open();
    tables(&gpu);
    gpu_close(&gpu);
    return 0;
}
