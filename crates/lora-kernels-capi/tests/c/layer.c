// Forward and backward of layers with odd shapes, compared with loops in double precision.

#include <math.h>

#include "layer_case.h"
#include "support.h"

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
static double dropped(const layer *layer, size_t row, size_t column) {
    double x = matrix_at(&layer->x, row, column);
    if (layer->spec->p < 0) {
        return x;
    }
    const lora_dropout *dropout = &layer->dropout;
    uint32_t threshold = (uint32_t)lround((double)dropout->p * 65536.0);
    uint32_t words[4] = {(uint32_t)(column / 8), (uint32_t)row, (uint32_t)dropout->offset,
                         (uint32_t)(dropout->offset >> 32)};
    philox(words, (uint32_t)dropout->seed, (uint32_t)(dropout->seed >> 32));
    size_t lane = column % 8;
    uint32_t random = words[lane / 2] >> (16 * (lane % 2)) & 0xFFFF;
    return random >= threshold ? x * 65536.0 / (65536 - threshold) : 0.0;
}

static double weight_at(const layer *layer, const projection *own, size_t out, size_t in) {
    int transposed = layer->spec->weight_layout == LORA_WEIGHT_LAYOUT_IN_OUT;
    return transposed ? matrix_at(&own->weight, in, out) : matrix_at(&own->weight, out, in);
}

// A sum, and the sum of its terms' sizes, which bounds what rounding may do to it.
typedef struct total {
    double value, size;
} total;

static void add(total *to, double term) {
    to->value += term;
    to->size += fabs(term);
}

static void expect(const layer *layer, const char *name, const matrix *given, size_t row,
                   size_t column, total wanted) {
    // f32: 1.5*K*2^-24 of the terms, K being below 200. bf16: S, T and the result are each rounded
    // to 8 bits.
    double relative = layer->spec->dtype == LORA_DTYPE_F32 ? 2e-5 : 1.0 / 128;
    double error = fabs(matrix_at(given, row, column) - wanted.value);
    if (!(error <= relative * wanted.size + 1e-30)) {
        fprintf(stderr, "%s: %s (%zu, %zu) is %g, not %g\n", layer->spec->name, name, row, column,
                matrix_at(given, row, column), wanted.value);
        exit(1);
    }
}

static matrix copy_of_values(const matrix *source) {
    matrix copy = *source;
    copy.values = malloc((source->rows * source->columns + 1) * sizeof *copy.values);
    CHECK(copy.values != NULL);
    memcpy(copy.values, source->values, source->rows * source->columns * sizeof *copy.values);
    return copy;
}

static total start(const layer *layer, const matrix *before, size_t row, size_t column) {
    total sum = {0};
    if (layer->spec->accumulate) {
        add(&sum, matrix_at(before, row, column));
    }
    return sum;
}

// The same sums as the kernels, in their plainest form.
static void check_y(layer *layer, size_t index) {
    const layer_case *spec = layer->spec;
    projection *own = &layer->projections[index];
    matrix before = copy_of_values(&own->y);
    matrix_download(&own->y);
    for (size_t row = 0; row < spec->tokens; row++) {
        for (size_t n = 0; n < spec->out_features[index]; n++) {
            total sum = start(layer, &before, row, n);
            for (size_t k = 0; k < spec->in_features; k++) {
                add(&sum, matrix_at(&layer->x, row, k) * weight_at(layer, own, n, k));
                for (size_t r = 0; r < spec->rank[index]; r++) {
                    add(&sum, (double)spec->scaling[index] * dropped(layer, row, k) *
                                  matrix_at(&own->lora_a, r, k) * matrix_at(&own->lora_b, n, r));
                }
            }
            if (spec->bias) {
                add(&sum, matrix_at(&own->bias, 0, n));
            }
            expect(layer, "y", &own->y, row, n, sum);
        }
    }
    free(before.values);
}

// T = scaling * dy * B
static total t_at(const layer *layer, size_t index, size_t row, size_t r) {
    const projection *own = &layer->projections[index];
    total sum = {0};
    for (size_t n = 0; n < layer->spec->out_features[index]; n++) {
        add(&sum, (double)layer->spec->scaling[index] * matrix_at(&own->dy, row, n) *
                      matrix_at(&own->lora_b, n, r));
    }
    return sum;
}

static void check_dx(layer *layer) {
    const layer_case *spec = layer->spec;
    matrix before = copy_of_values(&layer->dx);
    matrix_download(&layer->dx);
    for (size_t row = 0; row < spec->tokens; row++) {
        for (size_t k = 0; k < spec->in_features; k++) {
            total sum = start(layer, &before, row, k);
            double x = matrix_at(&layer->x, row, k);
            double kept = x == 0.0 ? 0.0 : dropped(layer, row, k) / x;
            for (size_t index = 0; index < spec->projections; index++) {
                projection *own = &layer->projections[index];
                for (size_t n = 0; n < spec->out_features[index]; n++) {
                    add(&sum, matrix_at(&own->dy, row, n) * weight_at(layer, own, n, k));
                }
                for (size_t r = 0; r < spec->rank[index]; r++) {
                    total t = t_at(layer, index, row, r);
                    double factor = kept * matrix_at(&own->lora_a, r, k);
                    sum.value += t.value * factor;
                    sum.size += t.size * fabs(factor);
                }
            }
            expect(layer, "dx", &layer->dx, row, k, sum);
        }
    }
    free(before.values);
}

static void check_adapter(layer *layer, size_t index) {
    const layer_case *spec = layer->spec;
    projection *own = &layer->projections[index];
    matrix before_a = copy_of_values(&own->d_lora_a), before_b = copy_of_values(&own->d_lora_b);
    matrix_download(&own->d_lora_a);
    matrix_download(&own->d_lora_b);
    for (size_t r = 0; r < spec->rank[index]; r++) {
        for (size_t k = 0; k < spec->in_features; k++) {
            total sum = start(layer, &before_a, r, k);
            for (size_t row = 0; row < spec->tokens; row++) {
                total t = t_at(layer, index, row, r);
                sum.value += t.value * dropped(layer, row, k);
                sum.size += t.size * fabs(dropped(layer, row, k));
            }
            expect(layer, "d_lora_A", &own->d_lora_a, r, k, sum);
        }
        for (size_t n = 0; n < spec->out_features[index]; n++) {
            total sum = start(layer, &before_b, n, r);
            for (size_t row = 0; row < spec->tokens; row++) {
                for (size_t k = 0; k < spec->in_features; k++) {
                    add(&sum, (double)spec->scaling[index] * matrix_at(&own->dy, row, n) *
                                  dropped(layer, row, k) * matrix_at(&own->lora_a, r, k));
                }
            }
            expect(layer, "d_lora_B", &own->d_lora_b, n, r, sum);
        }
    }
    free(before_a.values);
    free(before_b.values);
}

static lora_layout layout_of(uint32_t role, size_t index, const matrix *source) {
    size_t alignment = source->skipped ? source->element : 0;
    return (lora_layout){sizeof(lora_layout), role, index, (int64_t)source->stride, alignment};
}

static void run(const gpu *gpu, layer *layer) {
    const layer_case *spec = layer->spec;
    lora_projection planned[MOST];
    lora_layout layouts[2 + 8 * MOST];
    size_t count = 0;
    layouts[count++] = layout_of(LORA_ROLE_X, 0, &layer->x);
    layouts[count++] = layout_of(LORA_ROLE_DX, 0, &layer->dx);
    for (size_t index = 0; index < spec->projections; index++) {
        projection *own = &layer->projections[index];
        planned[index] = (lora_projection){sizeof(lora_projection), 0, spec->out_features[index],
                                           spec->rank[index]};
        layouts[count++] = layout_of(LORA_ROLE_WEIGHT, index, &own->weight);
        layouts[count++] = layout_of(LORA_ROLE_LORA_A, index, &own->lora_a);
        layouts[count++] = layout_of(LORA_ROLE_LORA_B, index, &own->lora_b);
        layouts[count++] = layout_of(LORA_ROLE_Y, index, &own->y);
        layouts[count++] = layout_of(LORA_ROLE_DY, index, &own->dy);
        layouts[count++] = layout_of(LORA_ROLE_D_LORA_A, index, &own->d_lora_a);
        layouts[count++] = layout_of(LORA_ROLE_D_LORA_B, index, &own->d_lora_b);
    }
    lora_problem problem = {
        .struct_size = sizeof problem,
        .dtype = spec->dtype,
        .tokens = spec->tokens,
        .in_features = spec->in_features,
        .projections = planned,
        .projection_count = spec->projections,
        .adapter_dtype = spec->adapter_dtype,
        .weight_layout = spec->weight_layout,
        .bias = spec->bias,
        .dropout = spec->p >= 0,
        .mask = spec->mask,
        .no_input_gradient = spec->no_input_gradient,
        .accumulate_y = spec->accumulate,
        .accumulate_dx = spec->accumulate,
        .accumulate_d_lora_a = spec->accumulate,
        .accumulate_d_lora_b = spec->accumulate,
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
    CHECK((forward_info.mask_bytes > 0) == (spec->p >= 0 && spec->mask == LORA_MASK_STORED));
    uint64_t saved = device_alloc(forward_info.saved_bytes);
    uint64_t forward_workspace = device_alloc(forward_info.workspace_bytes);
    uint64_t backward_workspace = device_alloc(backward_info.workspace_bytes);

    lora_forward_projection outputs[MOST];
    lora_backward_projection gradients[MOST];
    for (size_t index = 0; index < spec->projections; index++) {
        projection *own = &layer->projections[index];
        int adapted = spec->rank[index] > 0;
        uint64_t lora_a = adapted ? own->lora_a.address : 0,
                 lora_b = adapted ? own->lora_b.address : 0;
        outputs[index] = (lora_forward_projection){
            sizeof(lora_forward_projection),
            spec->scaling[index],
            own->weight.address,
            spec->bias ? own->bias.address : 0,
            lora_a,
            lora_b,
            own->y.address,
        };
        gradients[index] = (lora_backward_projection){
            sizeof(lora_backward_projection),
            spec->scaling[index],
            own->dy.address,
            own->weight.address,
            lora_a,
            lora_b,
            adapted ? own->d_lora_a.address : 0,
            adapted ? own->d_lora_b.address : 0,
        };
    }
    const lora_dropout *dropout = spec->p >= 0 ? &layer->dropout : NULL;
    lora_forward_args forward_args = {
        .struct_size = sizeof forward_args,
        .x = layer->x.address,
        .projections = outputs,
        .projection_count = spec->projections,
        .dropout = dropout,
        .saved = saved,
        .saved_bytes = forward_info.saved_bytes,
        .workspace = forward_workspace,
        .workspace_bytes = forward_info.workspace_bytes,
    };
    lora_backward_args backward_args = {
        .struct_size = sizeof backward_args,
        .x = layer->x.address,
        .projections = gradients,
        .projection_count = spec->projections,
        .dropout = dropout,
        .saved = saved,
        .saved_bytes = forward_info.saved_bytes,
        .dx = spec->no_input_gradient ? 0 : layer->dx.address,
        .workspace = backward_workspace,
        .workspace_bytes = backward_info.workspace_bytes,
    };
    LORA(lora_forward(gpu->kernels, forward, &forward_args, gpu->stream));
    LORA(lora_backward(gpu->kernels, backward, &backward_args, gpu->stream));
    // The plans are not needed any more, though the stream may still run.
    lora_forward_plan_free(forward);
    lora_backward_plan_free(backward);
    CUDA(cuStreamSynchronize(gpu->stream));

    for (size_t index = 0; index < spec->projections; index++) {
        check_y(layer, index);
        check_adapter(layer, index);
    }
    if (!spec->no_input_gradient) {
        check_dx(layer);
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
