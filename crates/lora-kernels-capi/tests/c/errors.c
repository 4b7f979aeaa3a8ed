// Every refusal: its number, and a text that says what to do. Nothing is launched or made by a call
// that fails.

#include <math.h>
#include <stddef.h>

#include "support.h"

enum { TOKENS = 5, IN = 24, OUT = 16, RANK = 3 };

static gpu opened;

static void loading(void) {
    lora_kernels *none = NULL;
    FAILS(LORA_STATUS_ORDINAL, "ordinals count from 0", lora_kernels_load(-1, &none));
    FAILS(LORA_STATUS_DRIVER, "opening device 77", lora_kernels_load(77, &none));
    CHECK(lora_last_cuda_result() == 101);
    CHECK(none == NULL);
    FAILS(LORA_STATUS_NULL_ARGUMENT, "kernels is a null pointer", lora_kernels_load(0, NULL));
    CHECK(lora_last_cuda_result() == 0);
}

static void devices(void) {
    lora_device device = {.struct_size = sizeof device};
    void *context = NULL;
    FAILS(LORA_STATUS_DEVICE_NAME, "known are a100,", lora_device_named("h1000", &device));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "name is a null pointer", lora_device_named(NULL, &device));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "device is a null pointer", lora_device_named("h100", NULL));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "kernels is a null pointer",
          lora_kernels_device(NULL, &device));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "device is a null pointer",
          lora_kernels_device(opened.kernels, NULL));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "kernels is a null pointer",
          lora_kernels_context(NULL, &context));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "context is a null pointer",
          lora_kernels_context(opened.kernels, NULL));
    device.struct_size = 0;
    FAILS(LORA_STATUS_STRUCT_SIZE, "set it to sizeof(lora_device), which is 40",
          lora_device_named("h100", &device));
}

static lora_projection projection(void) {
    return (lora_projection){sizeof(lora_projection), 0, OUT, RANK};
}

static lora_problem problem(const lora_projection *projections) {
    return (lora_problem){.struct_size = sizeof(lora_problem),
                          .dtype = LORA_DTYPE_BF16,
                          .tokens = TOKENS,
                          .in_features = IN,
                          .projections = projections,
                          .projection_count = 1};
}

static void refused(lora_status status, const char *text, const lora_problem *problem,
                    const lora_device *device) {
    lora_forward_plan *forward = NULL;
    lora_backward_plan *backward = NULL;
    FAILS(status, text, lora_forward_plan_new(problem, device, &forward));
    FAILS(status, text, lora_backward_plan_new(problem, device, &backward));
    CHECK(forward == NULL && backward == NULL);
}

static void plans(void) {
    lora_projection one = projection();
    const lora_problem good = problem(&one);
    refused(LORA_STATUS_NULL_ARGUMENT, "problem is a null pointer", NULL, &opened.device);
    refused(LORA_STATUS_NULL_ARGUMENT, "device is a null pointer", &good, NULL);
    FAILS(LORA_STATUS_NULL_ARGUMENT, "plan is a null pointer",
          lora_forward_plan_new(&good, &opened.device, NULL));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "plan is a null pointer",
          lora_backward_plan_new(&good, &opened.device, NULL));

#define WITH(field, value, status, text)              \
    do {                                              \
        lora_problem bad_ = good;                     \
        bad_.field = (value);                         \
        refused(status, text, &bad_, &opened.device); \
    } while (0)
    WITH(struct_size, 0, LORA_STATUS_STRUCT_SIZE,
         "problem has struct_size 0: set it to sizeof(lora_problem)");
    WITH(struct_size, 12, LORA_STATUS_STRUCT_SIZE, "struct_size 12");
    WITH(struct_size, 0xFFFFFFFF, LORA_STATUS_STRUCT_SIZE, "struct_size -1");
    WITH(struct_size, sizeof(lora_problem *), LORA_STATUS_STRUCT_SIZE, "struct_size 8");
    WITH(struct_size, offsetof(lora_problem, layouts), LORA_STATUS_STRUCT_SIZE,
         "sizeof(lora_problem), which is 144");
    WITH(dtype, 0, LORA_STATUS_ENUMERATION,
         "problem.dtype is 0: it must be one of LORA_DTYPE_F16 (1)");
    WITH(dtype, 4, LORA_STATUS_ENUMERATION, "problem.dtype is 4");
    WITH(adapter_dtype, 9, LORA_STATUS_ENUMERATION, "problem.adapter_dtype is 9");
    WITH(adapter_dtype, LORA_DTYPE_F16, LORA_STATUS_ADAPTER_DTYPE, "they must be in bf16 or f32");
    WITH(weight_layout, 2, LORA_STATUS_ENUMERATION, "LORA_WEIGHT_LAYOUT_IN_OUT (1)");
    WITH(mask, 2, LORA_STATUS_ENUMERATION, "LORA_MASK_REDRAWN (1)");
    WITH(bias, 2, LORA_STATUS_FLAG, "problem.bias is 2: it must be 1 for yes or 0 for no");
    WITH(dropout, 0xFFFFFFFF, LORA_STATUS_FLAG, "problem.dropout is -1");
    WITH(no_input_gradient, 3, LORA_STATUS_FLAG, "problem.no_input_gradient is 3");
    WITH(accumulate_y, 4, LORA_STATUS_FLAG, "problem.accumulate_y is 4");
    WITH(accumulate_dx, 4, LORA_STATUS_FLAG, "problem.accumulate_dx is 4");
    WITH(accumulate_d_lora_a, 4, LORA_STATUS_FLAG, "problem.accumulate_d_lora_a is 4");
    WITH(accumulate_d_lora_b, 4, LORA_STATUS_FLAG, "problem.accumulate_d_lora_b is 4");
    WITH(in_features, 0, LORA_STATUS_DIMENSION, "in_features is 0");
    WITH(in_features, SIZE_MAX >> 1, LORA_STATUS_DIMENSION, "in_features is 9223372036854775807");
    WITH(projections, NULL, LORA_STATUS_NULL_ARGUMENT, "problem->projections is a null pointer");
    WITH(projection_count, 0, LORA_STATUS_PROJECTIONS, "0 projections");
    WITH(projection_count, LORA_MAX_PROJECTIONS + 1, LORA_STATUS_PROJECTIONS, "between 1 and 8");
    WITH(layout_count, 1, LORA_STATUS_NULL_ARGUMENT, "problem->layouts is a null pointer");
    WITH(layout_count, 1000, LORA_STATUS_LAYOUTS, "1000 layouts");
#undef WITH

    lora_projection pair[2] = {one, one};
    lora_problem two = problem(pair);
    two.projection_count = 2;
    pair[1].struct_size = 16;
    refused(LORA_STATUS_STRUCT_SIZE,
            "problem->projections[1] has struct_size 16, problem->projections[0] has 24", &two,
            &opened.device);
    pair[1] = one;
    pair[1].reserved = 1;
    refused(LORA_STATUS_RESERVED, "problem->projections[1].reserved is 1", &two, &opened.device);
    pair[1] = one;
    pair[1].out_features = 0;
    refused(LORA_STATUS_DIMENSION, "out_features is 0", &two, &opened.device);
    pair[0].rank = pair[1].rank = 0;
    pair[1].out_features = OUT;
    refused(LORA_STATUS_NOT_ADAPTED, "at least one must be adapted", &two, &opened.device);

    const lora_layout wide = {sizeof wide, LORA_ROLE_X, 0, 40, 16};
    lora_layout layout = wide;
    lora_problem laid_out = good;
    laid_out.layouts = &layout;
    laid_out.layout_count = 1;
    layout.role = 11;
    refused(LORA_STATUS_ENUMERATION, "problem->layouts[0].role is 11", &laid_out, &opened.device);
    layout = wide;
    layout.row_stride = IN - 1;
    refused(LORA_STATUS_STRIDE, "x has 24 columns and a row stride of 23", &laid_out,
            &opened.device);
    layout = wide;
    layout.row_stride = -40;
    refused(LORA_STATUS_STRIDE, "a row stride of -40", &laid_out, &opened.device);
    layout = wide;
    layout.alignment = 6;
    refused(LORA_STATUS_LAYOUT_ALIGNMENT, "power of two", &laid_out, &opened.device);
    layout = wide;
    layout.role = LORA_ROLE_WEIGHT;
    layout.index = 1;
    refused(LORA_STATUS_NO_PROJECTION, "projection 1: the problem has 1", &laid_out,
            &opened.device);

    lora_device old = opened.device;
    old.compute_major = 7;
    refused(LORA_STATUS_DEVICE, "compute capability: needed 8.0", &good, &old);
    lora_projection most = {sizeof most, 0, 2147418112, 16};
    lora_problem huge = problem(&most);
    huge.tokens = 2147418112;
    lora_forward_plan *none = NULL;
    FAILS(LORA_STATUS_GRID, "split a layer's tokens",
          lora_forward_plan_new(&huge, &opened.device, &none));

    lora_plan_info info = {.struct_size = sizeof info};
    FAILS(LORA_STATUS_NULL_ARGUMENT, "plan is a null pointer", lora_forward_plan_info(NULL, &info));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "plan is a null pointer",
          lora_backward_plan_info(NULL, &info));
    CHECK(lora_forward_plan_description(NULL) == NULL &&
          lora_backward_plan_description(NULL) == NULL);
    LORA(lora_forward_plan_new(&good, &opened.device, &none));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "info is a null pointer", lora_forward_plan_info(none, NULL));
    info.struct_size = 4;
    FAILS(LORA_STATUS_STRUCT_SIZE, "info has struct_size 4", lora_forward_plan_info(none, &info));
    lora_forward_plan_free(none);
}

// Device addresses that are good for anything this small.
static uint64_t memory;

static void forwards(void) {
    lora_projection one = projection();
    lora_problem problem_ = problem(&one);
    lora_forward_plan *plan = NULL, *with_dropout = NULL, *with_bias = NULL;
    LORA(lora_forward_plan_new(&problem_, &opened.device, &plan));
    problem_.dropout = 1;
    LORA(lora_forward_plan_new(&problem_, &opened.device, &with_dropout));
    problem_.dropout = 0;
    problem_.bias = 1;
    LORA(lora_forward_plan_new(&problem_, &opened.device, &with_bias));
    const lora_forward_projection good = {sizeof good,   2.0f,          memory,        0,
                                          memory + 4096, memory + 8192, memory + 12288};
    lora_forward_projection bad = good;
    const lora_dropout half = {sizeof half, 0.5f, 1, 2};
    const lora_forward_args args = {
        .struct_size = sizeof args,
        .x = memory + 16384,
        .projections = &bad,
        .projection_count = 1,
        .saved = memory + 20480,
        .saved_bytes = 4096,
        .workspace = memory + 24576,
        .workspace_bytes = 4096,
    };

    FAILS(LORA_STATUS_NULL_ARGUMENT, "kernels is a null pointer",
          lora_forward(NULL, plan, &args, opened.stream));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "plan is a null pointer",
          lora_forward(opened.kernels, NULL, &args, opened.stream));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "args is a null pointer",
          lora_forward(opened.kernels, plan, NULL, opened.stream));
#define WITH(field, value, status, text)                                               \
    do {                                                                               \
        lora_forward_args bad_ = args;                                                 \
        bad_.field = (value);                                                          \
        FAILS(status, text, lora_forward(opened.kernels, plan, &bad_, opened.stream)); \
    } while (0)
    WITH(struct_size, 3, LORA_STATUS_STRUCT_SIZE, "sizeof(lora_forward_args)");
    WITH(struct_size, 8, LORA_STATUS_STRUCT_SIZE, "args has struct_size 8");
    WITH(projection_count, 0, LORA_STATUS_PROJECTION_COUNT,
         "0 projections were given, the plan was made for 1");
    WITH(reserved, 9, LORA_STATUS_RESERVED, "args.reserved is 9");
    WITH(x, 0, LORA_STATUS_NULL, "x is a null pointer");
    WITH(x, args.x + 2, LORA_STATUS_ALIGNMENT,
         "x starts at an address that is a multiple of 2 bytes only");
    WITH(projections, NULL, LORA_STATUS_NULL_ARGUMENT, "args->projections is a null pointer");
    WITH(projection_count, 2, LORA_STATUS_PROJECTION_COUNT, "2 projections were given");
    WITH(projection_count, SIZE_MAX >> 1, LORA_STATUS_PROJECTION_COUNT, "the plan was made for 1");
    WITH(dropout, &half, LORA_STATUS_OPTIONAL,
         "dropout was given, but the plan was made without it");
    WITH(saved, 0, LORA_STATUS_NULL, "saved is a null pointer");
    WITH(saved, args.saved + 8, LORA_STATUS_BUFFER_ALIGNMENT, "saved buffer starts at an address");
    WITH(saved_bytes, 100, LORA_STATUS_BUFFER, "the saved buffer has 100 bytes");
#undef WITH
    struct {
        lora_forward_args known;
        uint64_t unknown;
    } newer = {args, 1};
    newer.known.struct_size = sizeof newer;
    FAILS(LORA_STATUS_UNKNOWN_FIELDS, "newer library",
          lora_forward(opened.kernels, plan, &newer.known, opened.stream));

#define WITH(field, value, status, text)                                               \
    do {                                                                               \
        bad.field = (value);                                                           \
        FAILS(status, text, lora_forward(opened.kernels, plan, &args, opened.stream)); \
        bad = good;                                                                    \
    } while (0)
    WITH(struct_size, 4, LORA_STATUS_STRUCT_SIZE, "args->projections[0] has struct_size 4");
    WITH(scaling, NAN, LORA_STATUS_SCALING, "it must be finite");
    WITH(weight, 0, LORA_STATUS_NULL, "weight is a null pointer");
    WITH(bias, memory, LORA_STATUS_OPTIONAL, "bias was given, but the plan was made without it");
    WITH(lora_a, 0, LORA_STATUS_NULL, "lora_A is a null pointer");
    WITH(lora_b, 0, LORA_STATUS_NULL, "lora_B is a null pointer");
    WITH(y, 0, LORA_STATUS_NULL, "y is a null pointer");
    WITH(y, memory + 8, LORA_STATUS_ALIGNMENT, "y starts at an address");
#undef WITH
    FAILS(LORA_STATUS_OPTIONAL, "bias was not given",
          lora_forward(opened.kernels, with_bias, &args, opened.stream));

    lora_forward_args dropping = args;
    FAILS(LORA_STATUS_OPTIONAL, "dropout was not given",
          lora_forward(opened.kernels, with_dropout, &dropping, opened.stream));
    lora_dropout all = half;
    dropping.dropout = &all;
    all.p = 1.0f;
    FAILS(LORA_STATUS_DROPOUT_PROBABILITY, "dropout probability 1",
          lora_forward(opened.kernels, with_dropout, &dropping, opened.stream));
    // The size of a pointer to it: the seed would be 0.
    all.struct_size = sizeof(lora_dropout *);
    FAILS(LORA_STATUS_STRUCT_SIZE,
          "args->dropout has struct_size 8: set it to sizeof(lora_dropout)",
          lora_forward(opened.kernels, with_dropout, &dropping, opened.stream));

    lora_forward_plan_free(plan);
    lora_forward_plan_free(with_dropout);
    lora_forward_plan_free(with_bias);
}

static void backwards(void) {
    lora_projection one = projection();
    lora_problem problem_ = problem(&one);
    lora_backward_plan *plan = NULL, *without_dx = NULL;
    LORA(lora_backward_plan_new(&problem_, &opened.device, &plan));
    problem_.no_input_gradient = 1;
    LORA(lora_backward_plan_new(&problem_, &opened.device, &without_dx));
    const lora_backward_projection good = {sizeof good,    2.0f,          memory,
                                           memory + 4096,  memory + 8192, memory + 12288,
                                           memory + 16384, memory + 20480};
    lora_backward_projection bad = good;
    lora_plan_info info = {.struct_size = sizeof info};
    LORA(lora_backward_plan_info(plan, &info));
    const lora_backward_args args = {
        .struct_size = sizeof args,
        .x = memory + 24576,
        .projections = &bad,
        .projection_count = 1,
        .saved = memory + 28672,
        .saved_bytes = info.saved_bytes,
        .dx = memory + 32768,
        .workspace = memory + 36864,
        .workspace_bytes = 1 << 20,
    };

    FAILS(LORA_STATUS_NULL_ARGUMENT, "kernels is a null pointer",
          lora_backward(NULL, plan, &args, opened.stream));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "plan is a null pointer",
          lora_backward(opened.kernels, NULL, &args, opened.stream));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "args is a null pointer",
          lora_backward(opened.kernels, plan, NULL, opened.stream));
#define WITH(field, value, status, text)                                                \
    do {                                                                                \
        lora_backward_args bad_ = args;                                                 \
        bad_.field = (value);                                                           \
        FAILS(status, text, lora_backward(opened.kernels, plan, &bad_, opened.stream)); \
    } while (0)
    WITH(reserved, 9, LORA_STATUS_RESERVED, "args.reserved is 9");
    WITH(dx, 0, LORA_STATUS_OPTIONAL, "dx was not given, but the plan was made with it");
    WITH(projection_count, 0, LORA_STATUS_PROJECTION_COUNT, "0 projections were given");
    WITH(saved, 0, LORA_STATUS_NULL, "saved is a null pointer");
    WITH(saved_bytes, info.saved_bytes - 1, LORA_STATUS_BUFFER, "the saved buffer has");
    WITH(workspace, 0, LORA_STATUS_NULL, "workspace is a null pointer");
    WITH(workspace_bytes, info.workspace_bytes - 1, LORA_STATUS_BUFFER, "the workspace buffer has");
#undef WITH
    FAILS(LORA_STATUS_OPTIONAL, "dx was given, but the plan was made without it",
          lora_backward(opened.kernels, without_dx, &args, opened.stream));
    bad.d_lora_b = 0;
    FAILS(LORA_STATUS_NULL, "d_lora_B is a null pointer",
          lora_backward(opened.kernels, plan, &args, opened.stream));
    bad = good;
    bad.dy = memory + 2;
    FAILS(LORA_STATUS_ALIGNMENT, "dy starts at an address",
          lora_backward(opened.kernels, plan, &args, opened.stream));

    lora_backward_plan_free(plan);
    lora_backward_plan_free(without_dx);
}

int main(void) {
    CHECK(lora_last_error()[0] == '\0');
    CHECK(strcmp(lora_status_name(LORA_STATUS_STRIDE), "LORA_STATUS_STRIDE") == 0);
    CHECK(strcmp(lora_status_name(-1), "unknown") == 0);
    opened = gpu_open();
    memory = device_alloc(2 << 20);
    unsigned char *host = malloc(2 << 20);
    CHECK(host != NULL);
    memset(host, 0x5A, 2 << 20);
    CUDA(cuMemcpyHtoD(memory, host, 2 << 20));

    loading();
    devices();
    plans();
    forwards();
    backwards();

    CUDA(cuStreamSynchronize(opened.stream));
    CUDA(cuMemcpyDtoH(host, memory, 2 << 20));
    for (size_t byte = 0; byte < 2 << 20; byte++) {
        CHECK(host[byte] == 0x5A);
    }
    free(host);
    CUDA(cuMemFree(memory));
    gpu_close(&opened);
    return 0;
}
