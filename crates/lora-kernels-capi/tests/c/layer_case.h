// Layers with odd shapes, on both sides.
#ifndef LAYER_CASE_H
#define LAYER_CASE_H

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
    {
        .name = "one projection in f32, dropout, bias",
        .dtype = LORA_DTYPE_F32,
        .tokens = 5,
        .in_features = 37,
        .projections = 1,
        .out_features = {23},
        .rank = {3},
        .scaling = {1.7f},
        .p = 0.3f,
        .bias = 1,
    },
    {
        .name = "two that share x in bf16, f32 adapters, misaligned rows, (in, out) weights, mask "
                "redrawn, outputs added to",
        .dtype = LORA_DTYPE_BF16,
        .adapter_dtype = LORA_DTYPE_F32,
        .tokens = 19,
        .in_features = 70,
        .projections = 2,
        .out_features = {40, 17},
        .rank = {5, 20},
        .scaling = {0.6f, -1.3f},
        .p = 0.2f,
        .mask = LORA_MASK_REDRAWN,
        .weight_layout = LORA_WEIGHT_LAYOUT_IN_OUT,
        .bias = 1,
        .accumulate = 1,
        .padding = 3,
        .skipped = 1,
    },
    {
        .name = "one with and one without an adapter, in bf16, one token, no dx",
        .dtype = LORA_DTYPE_BF16,
        .tokens = 1,
        .in_features = 64,
        .projections = 2,
        .out_features = {24, 9},
        .rank = {0, 8},
        .scaling = {0.0f, 2.5f},
        .p = -1.0f,
        .no_input_gradient = 1,
    },
};

typedef struct projection {
    matrix weight, bias, lora_a, lora_b, y, dy, d_lora_a, d_lora_b;
} projection;

typedef struct layer {
    const layer_case *spec;
    matrix x, dx;
    projection projections[MOST];
    lora_dropout dropout;
} layer;

static inline void new_output(matrix *output, uint32_t accumulate, uint64_t *state) {
    if (accumulate) {
        matrix_fill(output, 2.0, state);
    } else {
        for (size_t index = 0; index < output->rows * output->columns; index++) {
            output->values[index] = NAN;
        }
        matrix_upload(output);
    }
}

static inline layer layer_new(const layer_case *spec) {
    uint64_t state = 1;
    layer layer = {0};
    layer.spec = spec;
    layer.dropout =
        (lora_dropout){sizeof(lora_dropout), spec->p, 0x0123456789ABCDEF, 0xFEDCBA9876543210};
    size_t m = spec->tokens, k = spec->in_features, pad = spec->padding, skip = spec->skipped;
    uint32_t adapter = spec->adapter_dtype ? spec->adapter_dtype : spec->dtype;
    layer.x = matrix_new(spec->dtype, m, k, pad, skip);
    matrix_fill(&layer.x, 1.0, &state);
    layer.dx = matrix_new(spec->dtype, m, k, pad, skip);
    new_output(&layer.dx, spec->accumulate, &state);
    for (size_t index = 0; index < spec->projections; index++) {
        size_t n = spec->out_features[index], r = spec->rank[index];
        int transposed = spec->weight_layout == LORA_WEIGHT_LAYOUT_IN_OUT;
        projection *own = &layer.projections[index];
        own->weight = matrix_new(spec->dtype, transposed ? k : n, transposed ? n : k, pad, skip);
        own->bias = matrix_new(spec->dtype, 1, n, 0, skip);
        own->lora_a = matrix_new(adapter, r, k, pad, skip);
        own->lora_b = matrix_new(adapter, n, r, pad, skip);
        own->dy = matrix_new(spec->dtype, m, n, pad, skip);
        own->y = matrix_new(spec->dtype, m, n, pad, skip);
        own->d_lora_a = matrix_new(adapter, r, k, pad, skip);
        own->d_lora_b = matrix_new(adapter, n, r, pad, skip);
        matrix_fill(&own->weight, 0.3, &state);
        matrix_fill(&own->bias, 1.0, &state);
        matrix_fill(&own->lora_a, 0.5, &state);
        matrix_fill(&own->lora_b, 0.5, &state);
        matrix_fill(&own->dy, 1.0, &state);
        new_output(&own->y, spec->accumulate, &state);
        new_output(&own->d_lora_a, spec->accumulate, &state);
        new_output(&own->d_lora_b, spec->accumulate, &state);
    }
    return layer;
}

static inline void layer_free(layer *layer) {
    matrix_free(&layer->x);
    matrix_free(&layer->dx);
    for (size_t index = 0; index < layer->spec->projections; index++) {
        projection *own = &layer->projections[index];
        matrix *all[] = {&own->weight, &own->bias, &own->lora_a,   &own->lora_b,
                         &own->y,      &own->dy,   &own->d_lora_a, &own->d_lora_b};
        for (size_t which = 0; which < sizeof all / sizeof *all; which++) {
            matrix_free(all[which]);
        }
    }
}

#endif
