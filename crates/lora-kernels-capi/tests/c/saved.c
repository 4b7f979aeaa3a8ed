// What goes from forward to backward: in one buffer or two, with a record that tells whether a
// backward fits; and calls without tokens.

#include "support.h"

enum { TOKENS = 9, IN = 40, OUT = 24, RANK = 4 };

static const lora_dropout DROPOUT = {sizeof DROPOUT, 0.25f, 7, 11};

typedef struct layer {
    matrix x, weight, lora_a, lora_b, y, dy, dx, d_lora_a, d_lora_b;
} layer;

static layer layer_new(void) {
    const uint32_t f32 = LORA_DTYPE_F32;
    layer layer = {
        .x = matrix_new(f32, TOKENS, IN, 0, 0),
        .weight = matrix_new(f32, OUT, IN, 0, 0),
        .lora_a = matrix_new(f32, RANK, IN, 0, 0),
        .lora_b = matrix_new(f32, OUT, RANK, 0, 0),
        .y = matrix_new(f32, TOKENS, OUT, 0, 0),
        .dy = matrix_new(f32, TOKENS, OUT, 0, 0),
        .dx = matrix_new(f32, TOKENS, IN, 0, 0),
        .d_lora_a = matrix_new(f32, RANK, IN, 0, 0),
        .d_lora_b = matrix_new(f32, OUT, RANK, 0, 0),
    };
    uint64_t state = 3;
    matrix *inputs[] = {&layer.x, &layer.weight, &layer.lora_a, &layer.lora_b, &layer.dy};
    for (size_t index = 0; index < sizeof inputs / sizeof *inputs; index++) {
        matrix_fill(inputs[index], 1.0, &state);
    }
    matrix *outputs[] = {&layer.y, &layer.dx, &layer.d_lora_a, &layer.d_lora_b};
    for (size_t index = 0; index < sizeof outputs / sizeof *outputs; index++) {
        matrix_upload(outputs[index]);  // zeros
    }
    return layer;
}

static void layer_free(layer *layer) {
    matrix *all[] = {&layer->x,  &layer->weight, &layer->lora_a,   &layer->lora_b,  &layer->y,
                     &layer->dy, &layer->dx,     &layer->d_lora_a, &layer->d_lora_b};
    for (size_t index = 0; index < sizeof all / sizeof *all; index++) {
        matrix_free(all[index]);
    }
}

static lora_projection projection = {sizeof projection, 0, OUT, RANK};

static lora_problem problem_of(size_t tokens) {
    return (lora_problem){.struct_size = sizeof(lora_problem),
                          .dtype = LORA_DTYPE_F32,
                          .tokens = tokens,
                          .in_features = IN,
                          .projections = &projection,
                          .projection_count = 1,
                          .dropout = 1};
}

// The plans of a forward and its backward, and all they need.
typedef struct pass {
    lora_forward_plan *forward;
    lora_backward_plan *backward;
    lora_plan_info forward_info, backward_info;
    uint64_t forward_workspace, backward_workspace;
    lora_forward_projection outputs;
    lora_backward_projection gradients;
    lora_forward_args forward_args;
    lora_backward_args backward_args;
    lora_forward_record record;
} pass;

static pass *pass_new(const gpu *gpu, const layer *layer, size_t tokens) {
    pass *pass = calloc(1, sizeof *pass);
    CHECK(pass != NULL);
    lora_problem problem = problem_of(tokens);
    LORA(lora_forward_plan_new(&problem, &gpu->device, &pass->forward));
    LORA(lora_backward_plan_new(&problem, &gpu->device, &pass->backward));
    pass->forward_info.struct_size = pass->backward_info.struct_size = sizeof(lora_plan_info);
    LORA(lora_forward_plan_info(pass->forward, &pass->forward_info));
    LORA(lora_backward_plan_info(pass->backward, &pass->backward_info));
    pass->forward_workspace = device_alloc(pass->forward_info.workspace_bytes);
    pass->backward_workspace = device_alloc(pass->backward_info.workspace_bytes);
    pass->outputs = (lora_forward_projection){
        .struct_size = sizeof pass->outputs,
        .scaling = 1.5f,
        .weight = layer->weight.address,
        .lora_a = layer->lora_a.address,
        .lora_b = layer->lora_b.address,
        .y = layer->y.address,
    };
    pass->gradients = (lora_backward_projection){
        .struct_size = sizeof pass->gradients,
        .scaling = 1.5f,
        .dy = layer->dy.address,
        .weight = layer->weight.address,
        .lora_a = layer->lora_a.address,
        .lora_b = layer->lora_b.address,
        .d_lora_a = layer->d_lora_a.address,
        .d_lora_b = layer->d_lora_b.address,
    };
    pass->record.struct_size = sizeof pass->record;
    pass->forward_args = (lora_forward_args){
        .struct_size = sizeof pass->forward_args,
        .x = layer->x.address,
        .projections = &pass->outputs,
        .projection_count = 1,
        .dropout = &DROPOUT,
        .workspace = pass->forward_workspace,
        .workspace_bytes = pass->forward_info.workspace_bytes,
        .record = &pass->record,
    };
    pass->backward_args = (lora_backward_args){
        .struct_size = sizeof pass->backward_args,
        .x = layer->x.address,
        .projections = &pass->gradients,
        .projection_count = 1,
        .dropout = &DROPOUT,
        .dx = layer->dx.address,
        .workspace = pass->backward_workspace,
        .workspace_bytes = pass->backward_info.workspace_bytes,
        .record = &pass->record,
    };
    return pass;
}

static void pass_run(const gpu *gpu, pass *pass) {
    LORA(lora_forward(gpu->kernels, pass->forward, &pass->forward_args, gpu->stream));
    LORA(lora_backward(gpu->kernels, pass->backward, &pass->backward_args, gpu->stream));
    CUDA(cuStreamSynchronize(gpu->stream));
}

static void pass_free(pass *pass) {
    lora_forward_plan_free(pass->forward);
    lora_backward_plan_free(pass->backward);
    CUDA(cuMemFree(pass->forward_workspace));
    CUDA(cuMemFree(pass->backward_workspace));
    free(pass);
}

static void expect_same(matrix *given, const matrix *wanted) {
    matrix_download(given);
    for (size_t index = 0; index < given->rows * given->columns; index++) {
        CHECK(given->values[index] == wanted->values[index]);
    }
}

// Still what it was uploaded as.
static void expect_untouched(matrix *output) {
    for (size_t index = 0; index < output->rows * output->columns; index++) {
        output->values[index] = 1.0;
    }
    matrix_download(output);
    for (size_t index = 0; index < output->rows * output->columns; index++) {
        CHECK(output->values[index] == 0.0);
    }
}

// Two buffers hold the same as one.
static void two_buffers(const gpu *gpu) {
    layer one = layer_new(), two = layer_new();
    pass *whole = pass_new(gpu, &one, TOKENS), *split = pass_new(gpu, &two, TOKENS);
    const lora_plan_info *info = &whole->forward_info;
    uint64_t saved = device_alloc(info->saved_bytes);
    uint64_t s = device_alloc(info->s_bytes), mask = device_alloc(info->mask_bytes);
    whole->forward_args.saved = whole->backward_args.saved = saved;
    whole->forward_args.saved_bytes = whole->backward_args.saved_bytes = info->saved_bytes;
    pass_run(gpu, whole);
    split->forward_args.saved_s = split->backward_args.saved_s = s;
    split->forward_args.saved_s_bytes = split->backward_args.saved_s_bytes = info->s_bytes;
    FAILS(LORA_STATUS_OPTIONAL, "saved mask was not given",
          lora_forward(gpu->kernels, split->forward, &split->forward_args, gpu->stream));
    split->forward_args.saved_mask = split->backward_args.saved_mask = mask;
    FAILS(LORA_STATUS_BUFFER, "the saved mask buffer has 0 bytes",
          lora_forward(gpu->kernels, split->forward, &split->forward_args, gpu->stream));
    split->forward_args.saved_mask_bytes = split->backward_args.saved_mask_bytes = info->mask_bytes;
    split->forward_args.saved = saved;
    FAILS(LORA_STATUS_SAVED_TWICE, "saved is one buffer, or two",
          lora_forward(gpu->kernels, split->forward, &split->forward_args, gpu->stream));
    split->forward_args.saved = 0;
    pass_run(gpu, split);

    matrix *of_one[] = {&one.y, &one.dx, &one.d_lora_a, &one.d_lora_b};
    matrix *of_two[] = {&two.y, &two.dx, &two.d_lora_a, &two.d_lora_b};
    for (size_t index = 0; index < 4; index++) {
        matrix_download(of_one[index]);
        expect_same(of_two[index], of_one[index]);
    }
    pass_free(whole);
    pass_free(split);
    layer_free(&one);
    layer_free(&two);
    CUDA(cuMemFree(saved));
    CUDA(cuMemFree(s));
    CUDA(cuMemFree(mask));
}

// A backward that doesn't fit is refused, and writes nothing.
static void records(const gpu *gpu) {
    layer layer = layer_new();
    pass *pass = pass_new(gpu, &layer, TOKENS);
    const lora_plan_info *info = &pass->forward_info;
    uint64_t saved = device_alloc(info->saved_bytes);
    pass->forward_args.saved = pass->backward_args.saved = saved;
    pass->forward_args.saved_bytes = pass->backward_args.saved_bytes = info->saved_bytes;
    pass->record.struct_size = 8;
    FAILS(LORA_STATUS_STRUCT_SIZE, "args->record has struct_size 8",
          lora_forward(gpu->kernels, pass->forward, &pass->forward_args, gpu->stream));
    pass->record.struct_size = sizeof pass->record;
    LORA(lora_forward(gpu->kernels, pass->forward, &pass->forward_args, gpu->stream));
    const lora_forward_record record = pass->record;
    CHECK(record.dtype == LORA_DTYPE_F32 && record.adapter_dtype == LORA_DTYPE_F32);
    CHECK(record.dropout == 1 && record.p == 0.25f && record.seed == 7 && record.offset == 11);
    CHECK(record.tokens == TOKENS && record.in_features == IN && record.projection_count == 1);
    CHECK(record.out_features[0] == OUT && record.rank[0] == RANK && record.scaling[0] == 1.5f);

#define WITH(field, value, status, text)                                                       \
    do {                                                                                       \
        pass->record.field = (value);                                                          \
        FAILS(status, text,                                                                    \
              lora_backward(gpu->kernels, pass->backward, &pass->backward_args, gpu->stream)); \
        pass->record = record;                                                                 \
    } while (0)
    WITH(tokens, TOKENS + 1, LORA_STATUS_OTHER_FORWARD, "tokens");
    WITH(in_features, IN - 1, LORA_STATUS_OTHER_FORWARD, "in_features");
    WITH(out_features[0], OUT + 1, LORA_STATUS_OTHER_FORWARD, "out_features");
    WITH(rank[0], RANK + 1, LORA_STATUS_OTHER_FORWARD, "rank");
    WITH(dtype, LORA_DTYPE_BF16, LORA_STATUS_OTHER_FORWARD, "bf16");
    WITH(dropout, 0, LORA_STATUS_OTHER_FORWARD, "dropout");
    WITH(p, 0.5f, LORA_STATUS_OTHER_FORWARD, "0.5");
    WITH(offset, 12, LORA_STATUS_OTHER_FORWARD, "offset 12");
    WITH(mask, LORA_MASK_REDRAWN, LORA_STATUS_OTHER_FORWARD, "mask");
    WITH(scaling[0], 2.0f, LORA_STATUS_OTHER_FORWARD, "scaling");
    WITH(projection_count, 9, LORA_STATUS_PROJECTIONS, "between 1 and 8");
    WITH(dtype, 9, LORA_STATUS_ENUMERATION, "args->record.dtype is 9");
#undef WITH
    const lora_dropout other = {sizeof other, 0.25f, 7, 12};
    pass->backward_args.dropout = &other;
    FAILS(LORA_STATUS_OTHER_FORWARD, "offset 12",
          lora_backward(gpu->kernels, pass->backward, &pass->backward_args, gpu->stream));
    CUDA(cuStreamSynchronize(gpu->stream));
    expect_untouched(&layer.dx);

    // Without a record nobody checks.
    pass->backward_args.record = NULL;
    LORA(lora_backward(gpu->kernels, pass->backward, &pass->backward_args, gpu->stream));
    CUDA(cuStreamSynchronize(gpu->stream));
    pass_free(pass);
    layer_free(&layer);
    CUDA(cuMemFree(saved));
}

// No rows: nothing of y and dx is written, the adapters' gradients are zeros, no saved and no
// workspace is needed.
static void no_tokens(const gpu *gpu) {
    layer layer = layer_new();
    pass *pass = pass_new(gpu, &layer, 0);
    CHECK(pass->forward_info.saved_bytes == 0 && pass->forward_info.workspace_bytes == 0);
    pass->forward_args.x = pass->backward_args.x = 0;
    pass->outputs.y = pass->gradients.dy = 0;
    pass->forward_args.workspace = 0;
    uint64_t state = 5;
    matrix_fill(&layer.d_lora_a, 1.0, &state);
    matrix_fill(&layer.d_lora_b, 1.0, &state);
    pass_run(gpu, pass);
    expect_untouched(&layer.y);
    expect_untouched(&layer.dx);
    matrix *gradients[] = {&layer.d_lora_a, &layer.d_lora_b};
    for (size_t which = 0; which < 2; which++) {
        matrix_download(gradients[which]);
        for (size_t index = 0; index < gradients[which]->rows * gradients[which]->columns;
             index++) {
            CHECK(gradients[which]->values[index] == 0.0);
        }
    }
    pass_free(pass);
    layer_free(&layer);
}

// A plan of another device is refused before anything is launched.
static void other_devices(const gpu *gpu) {
    layer layer = layer_new();
    lora_device others[] = {gpu->device, gpu->device};
    others[0].multiprocessors += 1;
    others[1].l2_bytes += 1024;
    lora_problem problem = problem_of(TOKENS);
    lora_forward_plan *plan = NULL;
    pass *pass = pass_new(gpu, &layer, TOKENS);
    uint64_t saved = device_alloc(pass->forward_info.saved_bytes);
    pass->forward_args.saved = saved;
    pass->forward_args.saved_bytes = pass->forward_info.saved_bytes;
    for (size_t index = 0; index < sizeof others / sizeof *others; index++) {
        LORA(lora_forward_plan_new(&problem, &others[index], &plan));
        FAILS(LORA_STATUS_OTHER_DEVICE, "lora_kernels_device",
              lora_forward(gpu->kernels, plan, &pass->forward_args, gpu->stream));
        lora_forward_plan_free(plan);
    }

    // A part of the same device.
    lora_device other = gpu->device;
    other.planned_multiprocessors = 1;
    LORA(lora_forward_plan_new(&problem, &other, &plan));
    lora_plan_info info = {.struct_size = sizeof info};
    LORA(lora_forward_plan_info(plan, &info));
    uint64_t workspace = device_alloc(info.workspace_bytes);
    pass->forward_args.workspace = workspace;
    pass->forward_args.workspace_bytes = info.workspace_bytes;
    LORA(lora_forward(gpu->kernels, plan, &pass->forward_args, gpu->stream));
    CUDA(cuStreamSynchronize(gpu->stream));
    lora_forward_plan_free(plan);
    pass_free(pass);
    layer_free(&layer);
    CUDA(cuMemFree(saved));
    CUDA(cuMemFree(workspace));
}

int main(void) {
    gpu gpu = gpu_open();
    two_buffers(&gpu);
    records(&gpu);
    no_tokens(&gpu);
    other_devices(&gpu);
    gpu_close(&gpu);
    return 0;
}
