// Forward and backward of layers with odd shapes, compared with loops in double precision.

#include <math.h>

#include "support.h"

#define MOST 2

typedef struct layer_case {
    const char *name;
    uint32_t dtype, adapter_dtype;
    size_t tokens, in_features, projections, out_features[MOST], rank[MOST];
    float scaling[MOST];
    float p;  // negative: no dropout
    uint32_t mask, weight_layout, bias, accumulate, no_input_gradient;
    size_t padding, skipped;  // elements between rows, and before the first
} layer_case;

static const layer_case CASES[] = {
    {"one projection in f32, dropout, bias",
     LORA_DTYPE_F32,
     0,
     5,
     37,
     1,
     {23},
     {3},
     {1.7f},
     0.3f,
     0,
     0,
     1,
     0,
     0,
     0,
     0},
    {"two that share x in bf16, f32 adapters, misaligned rows, (in, out) weights, mask redrawn, "
     "outputs added to",
     LORA_DTYPE_BF16,
     LORA_DTYPE_F32,
     19,
     70,
     2,
     {40, 17},
     {5, 20},
     {0.6f, -1.3f},
     0.2f,
     LORA_MASK_REDRAWN,
     LORA_WEIGHT_LAYOUT_IN_OUT,
     1,
     1,
     0,
     3,
     1},
    {"one with and one without an adapter, in bf16, one token, no dx",
     LORA_DTYPE_BF16,
     0,
     1,
     64,
     2,
     {24, 9},
     {0, 8},
     {0.0f, 2.5f},
     -1.0f,
     0,
     0,
     0,
     0,
     1,
     0,
     0},
};

typedef struct projection {
    matrix weight, bias, lora_a, lora_b, y, dy, d_lora_a, d_lora_b;
} projection;

typedef struct layer {
    const layer_case *it;
    matrix x, dx;
    projection projections[MOST];
    lora_dropout dropout;
} layer;

static void new_output(matrix *it, uint32_t accumulate, uint64_t *state) {
    if (accumulate) {
        matrix_fill(it, 2.0, state);
    } else {
        for (size_t index = 0; index < it->rows * it->columns; index++) {
            it->values[index] = NAN;
        }
        matrix_upload(it);
    }
}

static layer layer_new(const layer_case *it) {
    uint64_t state = 1;
    layer made = {0};
    made.it = it;
    made.dropout =
        (lora_dropout){sizeof(lora_dropout), it->p, 0x0123456789ABCDEF, 0xFEDCBA9876543210};
    size_t m = it->tokens, k = it->in_features, pad = it->padding, skip = it->skipped;
    uint32_t adapter = it->adapter_dtype ? it->adapter_dtype : it->dtype;
    made.x = matrix_new(it->dtype, m, k, pad, skip);
    matrix_fill(&made.x, 1.0, &state);
    made.dx = matrix_new(it->dtype, m, k, pad, skip);
    new_output(&made.dx, it->accumulate, &state);
    for (size_t index = 0; index < it->projections; index++) {
        size_t n = it->out_features[index], r = it->rank[index];
        int transposed = it->weight_layout == LORA_WEIGHT_LAYOUT_IN_OUT;
        projection *one = &made.projections[index];
        one->weight = matrix_new(it->dtype, transposed ? k : n, transposed ? n : k, pad, skip);
        one->bias = matrix_new(it->dtype, 1, n, 0, skip);
        one->lora_a = matrix_new(adapter, r, k, pad, skip);
        one->lora_b = matrix_new(adapter, n, r, pad, skip);
        one->dy = matrix_new(it->dtype, m, n, pad, skip);
        one->y = matrix_new(it->dtype, m, n, pad, skip);
        one->d_lora_a = matrix_new(adapter, r, k, pad, skip);
        one->d_lora_b = matrix_new(adapter, n, r, pad, skip);
        matrix_fill(&one->weight, 0.3, &state);
        matrix_fill(&one->bias, 1.0, &state);
        matrix_fill(&one->lora_a, 0.5, &state);
        matrix_fill(&one->lora_b, 0.5, &state);
        matrix_fill(&one->dy, 1.0, &state);
        new_output(&one->y, it->accumulate, &state);
        new_output(&one->d_lora_a, it->accumulate, &state);
        new_output(&one->d_lora_b, it->accumulate, &state);
    }
    return made;
}

static void layer_free(layer *it) {
    matrix_free(&it->x);
    matrix_free(&it->dx);
    for (size_t index = 0; index < it->it->projections; index++) {
        projection *one = &it->projections[index];
        matrix *all[] = {&one->weight, &one->bias, &one->lora_a,   &one->lora_b,
                         &one->y,      &one->dy,   &one->d_lora_a, &one->d_lora_b};
        for (size_t which = 0; which < sizeof all / sizeof *all; which++) {
            matrix_free(all[which]);
        }
    }
}

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
static void philox(uint32_t counter[4], uint32_t key0, uint32_t key1) {
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53 * counter[0], b = (uint64_t)0xCD9E8D57 * counter[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ counter[1] ^ key0, (uint32_t)b,
                            (uint32_t)(a >> 32) ^ counter[3] ^ key1, (uint32_t)a};
        memcpy(counter, next, sizeof next);
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
}

// What the adapters see in place of x (row, column).
static double dropped(const layer *it, size_t row, size_t column) {
    double x = matrix_at(&it->x, row, column);
    if (it->it->p < 0) {
        return x;
    }
    const lora_dropout *dropout = &it->dropout;
    uint32_t threshold = (uint32_t)lround((double)dropout->p * 65536.0);
    uint32_t words[4] = {(uint32_t)(column / 8), (uint32_t)row, (uint32_t)dropout->offset,
                         (uint32_t)(dropout->offset >> 32)};
    philox(words, (uint32_t)dropout->seed, (uint32_t)(dropout->seed >> 32));
    size_t lane = column % 8;
    uint32_t random = words[lane / 2] >> (16 * (lane % 2)) & 0xFFFF;
    return random >= threshold ? x * 65536.0 / (65536 - threshold) : 0.0;
}

static double weight_at(const layer *it, const projection *one, size_t out, size_t in) {
    int transposed = it->it->weight_layout == LORA_WEIGHT_LAYOUT_IN_OUT;
    return transposed ? matrix_at(&one->weight, in, out) : matrix_at(&one->weight, out, in);
}

// A sum, and the sum of its terms' sizes, which bounds what rounding may do to it.
typedef struct total {
    double value, size;
} total;

static void add(total *to, double term) {
    to->value += term;
    to->size += fabs(term);
}

static void expect(const layer *it, const char *name, const matrix *given, size_t row,
                   size_t column, total wanted) {
    // f32: 1.5*K*2^-24 of the terms, K being below 200. bf16: S, T and the result are each rounded
    // to 8 bits.
    double relative = it->it->dtype == LORA_DTYPE_F32 ? 2e-5 : 1.0 / 128;
    double error = fabs(matrix_at(given, row, column) - wanted.value);
    if (!(error <= relative * wanted.size + 1e-30)) {
        fprintf(stderr, "%s: %s (%zu, %zu) is %g, not %g\n", it->it->name, name, row, column,
                matrix_at(given, row, column), wanted.value);
        exit(1);
    }
}

static matrix copy_of_values(const matrix *it) {
    matrix copy = *it;
    copy.values = malloc((it->rows * it->columns + 1) * sizeof *copy.values);
    CHECK(copy.values != NULL);
    memcpy(copy.values, it->values, it->rows * it->columns * sizeof *copy.values);
    return copy;
}

static total start(const layer *it, const matrix *before, size_t row, size_t column) {
    total sum = {0};
    if (it->it->accumulate) {
        add(&sum, matrix_at(before, row, column));
    }
    return sum;
}

// The same sums as the kernels, in their plainest form.
static void check_y(layer *it, size_t index) {
    const layer_case *the = it->it;
    projection *one = &it->projections[index];
    matrix before = copy_of_values(&one->y);
    matrix_download(&one->y);
    for (size_t row = 0; row < the->tokens; row++) {
        for (size_t n = 0; n < the->out_features[index]; n++) {
            total sum = start(it, &before, row, n);
            for (size_t k = 0; k < the->in_features; k++) {
                add(&sum, matrix_at(&it->x, row, k) * weight_at(it, one, n, k));
                for (size_t r = 0; r < the->rank[index]; r++) {
                    add(&sum, (double)the->scaling[index] * dropped(it, row, k) *
                                  matrix_at(&one->lora_a, r, k) * matrix_at(&one->lora_b, n, r));
                }
            }
            if (the->bias) {
                add(&sum, matrix_at(&one->bias, 0, n));
            }
            expect(it, "y", &one->y, row, n, sum);
        }
    }
    free(before.values);
}

// T = scaling * dy * B
static total t_at(const layer *it, size_t index, size_t row, size_t r) {
    const projection *one = &it->projections[index];
    total sum = {0};
    for (size_t n = 0; n < it->it->out_features[index]; n++) {
        add(&sum, (double)it->it->scaling[index] * matrix_at(&one->dy, row, n) *
                      matrix_at(&one->lora_b, n, r));
    }
    return sum;
}

static void check_dx(layer *it) {
    const layer_case *the = it->it;
    matrix before = copy_of_values(&it->dx);
    matrix_download(&it->dx);
    for (size_t row = 0; row < the->tokens; row++) {
        for (size_t k = 0; k < the->in_features; k++) {
            total sum = start(it, &before, row, k);
            double x = matrix_at(&it->x, row, k);
            double kept = x == 0.0 ? 0.0 : dropped(it, row, k) / x;
            for (size_t index = 0; index < the->projections; index++) {
                projection *one = &it->projections[index];
                for (size_t n = 0; n < the->out_features[index]; n++) {
                    add(&sum, matrix_at(&one->dy, row, n) * weight_at(it, one, n, k));
                }
                for (size_t r = 0; r < the->rank[index]; r++) {
                    total t = t_at(it, index, row, r);
                    double factor = kept * matrix_at(&one->lora_a, r, k);
                    sum.value += t.value * factor;
                    sum.size += t.size * fabs(factor);
                }
            }
            expect(it, "dx", &it->dx, row, k, sum);
        }
    }
    free(before.values);
}

static void check_adapter(layer *it, size_t index) {
    const layer_case *the = it->it;
    projection *one = &it->projections[index];
    matrix before_a = copy_of_values(&one->d_lora_a), before_b = copy_of_values(&one->d_lora_b);
    matrix_download(&one->d_lora_a);
    matrix_download(&one->d_lora_b);
    for (size_t r = 0; r < the->rank[index]; r++) {
        for (size_t k = 0; k < the->in_features; k++) {
            total sum = start(it, &before_a, r, k);
            for (size_t row = 0; row < the->tokens; row++) {
                total t = t_at(it, index, row, r);
                sum.value += t.value * dropped(it, row, k);
                sum.size += t.size * fabs(dropped(it, row, k));
            }
            expect(it, "d_lora_A", &one->d_lora_a, r, k, sum);
        }
        for (size_t n = 0; n < the->out_features[index]; n++) {
            total sum = start(it, &before_b, n, r);
            for (size_t row = 0; row < the->tokens; row++) {
                for (size_t k = 0; k < the->in_features; k++) {
                    add(&sum, (double)the->scaling[index] * matrix_at(&one->dy, row, n) *
                                  dropped(it, row, k) * matrix_at(&one->lora_a, r, k));
                }
            }
            expect(it, "d_lora_B", &one->d_lora_b, n, r, sum);
        }
    }
    free(before_a.values);
    free(before_b.values);
}

static lora_layout layout_of(uint32_t tensor, size_t projection, const matrix *it) {
    size_t alignment = it->skipped ? it->element : 0;
    return (lora_layout){sizeof(lora_layout), tensor, projection, (int64_t)it->stride, alignment};
}

static void run(const gpu *gpu, layer *it) {
    const layer_case *the = it->it;
    lora_projection planned[MOST];
    lora_layout layouts[2 + 8 * MOST];
    size_t count = 0;
    layouts[count++] = layout_of(LORA_ROLE_X, 0, &it->x);
    layouts[count++] = layout_of(LORA_ROLE_DX, 0, &it->dx);
    for (size_t index = 0; index < the->projections; index++) {
        projection *one = &it->projections[index];
        planned[index] = (lora_projection){sizeof(lora_projection), 0, the->out_features[index],
                                           the->rank[index]};
        layouts[count++] = layout_of(LORA_ROLE_WEIGHT, index, &one->weight);
        layouts[count++] = layout_of(LORA_ROLE_LORA_A, index, &one->lora_a);
        layouts[count++] = layout_of(LORA_ROLE_LORA_B, index, &one->lora_b);
        layouts[count++] = layout_of(LORA_ROLE_Y, index, &one->y);
        layouts[count++] = layout_of(LORA_ROLE_DY, index, &one->dy);
        layouts[count++] = layout_of(LORA_ROLE_D_LORA_A, index, &one->d_lora_a);
        layouts[count++] = layout_of(LORA_ROLE_D_LORA_B, index, &one->d_lora_b);
    }
    lora_problem problem = {
        .struct_size = sizeof problem,
        .dtype = the->dtype,
        .tokens = the->tokens,
        .in_features = the->in_features,
        .projections = planned,
        .projection_count = the->projections,
        .adapter_dtype = the->adapter_dtype,
        .weight_layout = the->weight_layout,
        .bias = the->bias,
        .dropout = the->p >= 0,
        .mask = the->mask,
        .no_input_gradient = the->no_input_gradient,
        .accumulate_y = the->accumulate,
        .accumulate_dx = the->accumulate,
        .accumulate_d_lora_a = the->accumulate,
        .accumulate_d_lora_b = the->accumulate,
        .layouts = layouts,
        .layout_count = count,
    };
    lora_forward_plan *forward = NULL;
    lora_backward_plan *backward = NULL;
    LORA(lora_forward_plan_new(&problem, &gpu->device, &forward));
    LORA(lora_backward_plan_new(&problem, &gpu->device, &backward));
    lora_plan_info forward_info = {.struct_size = sizeof forward_info},
                   backward_info = {.struct_size = sizeof backward_info};
    LORA(lora_forward_plan_info(forward, &forward_info));
    LORA(lora_backward_plan_info(backward, &backward_info));
    CHECK(forward_info.launches == 2 && backward_info.launches == 3);
    CHECK(forward_info.saved_bytes == backward_info.saved_bytes);
    CHECK((forward_info.mask_bytes > 0) == (the->p >= 0 && the->mask == LORA_MASK_STORED));
    uint64_t saved = device_alloc(forward_info.saved_bytes);
    uint64_t forward_workspace = device_alloc(forward_info.workspace_bytes);
    uint64_t backward_workspace = device_alloc(backward_info.workspace_bytes);

    lora_forward_projection outputs[MOST];
    lora_backward_projection gradients[MOST];
    for (size_t index = 0; index < the->projections; index++) {
        projection *one = &it->projections[index];
        int adapted = the->rank[index] > 0;
        uint64_t lora_a = adapted ? one->lora_a.address : 0,
                 lora_b = adapted ? one->lora_b.address : 0;
        outputs[index] = (lora_forward_projection){
            sizeof(lora_forward_projection),
            the->scaling[index],
            one->weight.address,
            the->bias ? one->bias.address : 0,
            lora_a,
            lora_b,
            one->y.address,
        };
        gradients[index] = (lora_backward_projection){
            sizeof(lora_backward_projection),
            the->scaling[index],
            one->dy.address,
            one->weight.address,
            lora_a,
            lora_b,
            adapted ? one->d_lora_a.address : 0,
            adapted ? one->d_lora_b.address : 0,
        };
    }
    const lora_dropout *dropout = the->p >= 0 ? &it->dropout : NULL;
    lora_forward_args forward_args = {
        sizeof forward_args,
        0,
        it->x.address,
        outputs,
        the->projections,
        dropout,
        saved,
        forward_info.saved_bytes,
        forward_workspace,
        forward_info.workspace_bytes,
    };
    lora_backward_args backward_args = {
        sizeof backward_args,
        0,
        it->x.address,
        gradients,
        the->projections,
        dropout,
        saved,
        forward_info.saved_bytes,
        the->no_input_gradient ? 0 : it->dx.address,
        backward_workspace,
        backward_info.workspace_bytes,
    };
    LORA(lora_forward(gpu->kernels, forward, &forward_args, gpu->stream));
    LORA(lora_backward(gpu->kernels, backward, &backward_args, gpu->stream));
    // The plans are not needed any more, though the stream may still run.
    lora_forward_plan_free(forward);
    lora_backward_plan_free(backward);
    CUDA(cuStreamSynchronize(gpu->stream));

    for (size_t index = 0; index < the->projections; index++) {
        check_y(it, index);
        check_adapter(it, index);
    }
    if (!the->no_input_gradient) {
        check_dx(it);
    }
    CUDA(cuMemFree(saved));
    CUDA(cuMemFree(forward_workspace));
    CUDA(cuMemFree(backward_workspace));
}

int main(void) {
    gpu gpu = gpu_open();
    for (size_t index = 0; index < sizeof CASES / sizeof *CASES; index++) {
        layer it = layer_new(&CASES[index]);
        run(&gpu, &it);
        layer_free(&it);
        printf("right: %s\n", CASES[index].name);
    }
    gpu_close(&gpu);
    return 0;
}
