// Negative numbers in fields that have no sign: each is refused, and shown as it was given.

#include "support.h"

enum { TOKENS = 5, IN = 24, OUT = 16, RANK = 3, MINUS = -5 };

// The text of an error about a field.
static const char *about(const char *field) {
    static char text[128];
    snprintf(text, sizeof text, "%s is %d: it must not be negative", field, MINUS);
    return text;
}

static const lora_projection projection = {sizeof projection, 0, OUT, RANK};
static lora_device device = {.struct_size = sizeof device};

static void layers(void) {
    lora_projection bad_projection = projection;
    lora_layout layout = {sizeof layout, LORA_ROLE_WEIGHT, 0, 0, 0};
    const lora_problem good = {.struct_size = sizeof good,
                               .dtype = LORA_DTYPE_BF16,
                               .tokens = TOKENS,
                               .in_features = IN,
                               .projections = &bad_projection,
                               .projection_count = 1,
                               .layouts = &layout,
                               .layout_count = 1};
    lora_problem problem = good;
    lora_forward_plan *plan = NULL;
#define NEGATIVE(field, text, status)                                                \
    do {                                                                             \
        field = MINUS;                                                               \
        FAILS(status, about(text), lora_forward_plan_new(&problem, &device, &plan)); \
        problem = good;                                                              \
        bad_projection = projection;                                                 \
        layout = (lora_layout){sizeof layout, LORA_ROLE_WEIGHT, 0, 0, 0};            \
    } while (0)
    NEGATIVE(problem.tokens, "problem.tokens", LORA_STATUS_DIMENSION);
    NEGATIVE(problem.in_features, "problem.in_features", LORA_STATUS_DIMENSION);
    NEGATIVE(problem.projection_count, "problem.projection_count", LORA_STATUS_PROJECTIONS);
    NEGATIVE(problem.layout_count, "problem.layout_count", LORA_STATUS_LAYOUTS);
    NEGATIVE(bad_projection.out_features, "problem->projections[0].out_features",
             LORA_STATUS_DIMENSION);
    NEGATIVE(bad_projection.rank, "problem->projections[0].rank", LORA_STATUS_DIMENSION);
    NEGATIVE(layout.index, "problem->layouts[0].index", LORA_STATUS_NO_PROJECTION);
    NEGATIVE(layout.alignment, "problem->layouts[0].alignment", LORA_STATUS_LAYOUT_ALIGNMENT);
#undef NEGATIVE

    // Enums and yes or no.
    problem.mask = MINUS;
    FAILS(LORA_STATUS_ENUMERATION, "problem.mask is -5",
          lora_forward_plan_new(&problem, &device, &plan));
    problem = good;
    problem.bias = MINUS;
    FAILS(LORA_STATUS_FLAG, "problem.bias is -5", lora_forward_plan_new(&problem, &device, &plan));
    problem = good;
    problem.struct_size = MINUS;
    FAILS(LORA_STATUS_STRUCT_SIZE, "struct_size -5",
          lora_forward_plan_new(&problem, &device, &plan));
    problem = good;
    layout.row_stride = MINUS;
    FAILS(LORA_STATUS_STRIDE, "row stride of -5", lora_forward_plan_new(&problem, &device, &plan));

    lora_device bad = device;
    problem.layout_count = 0;
#define NEGATIVE(field)                                      \
    do {                                                     \
        bad.field = MINUS;                                   \
        FAILS(LORA_STATUS_DEVICE, about("device." #field),   \
              lora_forward_plan_new(&problem, &bad, &plan)); \
        bad = device;                                        \
    } while (0)
    NEGATIVE(compute_major);
    NEGATIVE(compute_minor);
    NEGATIVE(multiprocessors);
    NEGATIVE(shared_per_block);
    NEGATIVE(shared_per_multiprocessor);
    NEGATIVE(l2_bytes);
    NEGATIVE(planned_multiprocessors);
#undef NEGATIVE
    CHECK(plan == NULL);
}

static void merges(void) {
    size_t ranks[] = {RANK};
    lora_layout layout = {sizeof layout, LORA_ROLE_LORA_A, 0, 0, 0};
    const lora_merge_problem good = {.struct_size = sizeof good,
                                     .dtype = LORA_DTYPE_BF16,
                                     .out_features = OUT,
                                     .in_features = IN,
                                     .ranks = ranks,
                                     .adapter_count = 1,
                                     .layouts = &layout,
                                     .layout_count = 1};
    lora_merge_problem problem = good;
    lora_merge_plan *plan = NULL;
#define NEGATIVE(field, text, status)                                              \
    do {                                                                           \
        field = MINUS;                                                             \
        FAILS(status, about(text), lora_merge_plan_new(&problem, &device, &plan)); \
        problem = good;                                                            \
        ranks[0] = RANK;                                                           \
        layout.index = 0;                                                          \
    } while (0)
    NEGATIVE(problem.out_features, "problem.out_features", LORA_STATUS_DIMENSION);
    NEGATIVE(problem.in_features, "problem.in_features", LORA_STATUS_DIMENSION);
    NEGATIVE(problem.adapter_count, "problem.adapter_count", LORA_STATUS_ADAPTERS);
    NEGATIVE(problem.layout_count, "problem.layout_count", LORA_STATUS_LAYOUTS);
    NEGATIVE(ranks[0], "problem->ranks[0]", LORA_STATUS_DIMENSION);
    NEGATIVE(layout.index, "problem->layouts[0].index", LORA_STATUS_NO_ADAPTER);
#undef NEGATIVE
    CHECK(plan == NULL);
}

// Nothing is launched, so the addresses need no memory behind them.
static void calls(const gpu *gpu) {
    lora_problem problem = {.struct_size = sizeof problem,
                            .dtype = LORA_DTYPE_BF16,
                            .tokens = TOKENS,
                            .in_features = IN,
                            .projections = &projection,
                            .projection_count = 1};
    lora_forward_plan *forward = NULL;
    lora_backward_plan *backward = NULL;
    LORA(lora_forward_plan_new(&problem, &device, &forward));
    LORA(lora_backward_plan_new(&problem, &device, &backward));
    const size_t ranks[] = {RANK};
    lora_merge_problem merge_problem = {.struct_size = sizeof merge_problem,
                                        .dtype = LORA_DTYPE_BF16,
                                        .out_features = OUT,
                                        .in_features = IN,
                                        .ranks = ranks,
                                        .adapter_count = 1,
                                        .safe = 1};
    lora_merge_plan *merge = NULL;
    LORA(lora_merge_plan_new(&merge_problem, &device, &merge));

    const size_t enough = 1 << 20;
    const lora_forward_projection output = {sizeof output, 1.0f, 16, 0, 16, 16, 16};
    const lora_backward_projection gradients = {sizeof gradients, 1.0f, 16, 16, 16, 16, 16, 16};
    const lora_merge_adapter adapter = {sizeof adapter, 1.0f, 16, 16};
#define NEGATIVE(type, call, plan, name, field, status)                                     \
    do {                                                                                    \
        type args = name;                                                                   \
        args.field = MINUS;                                                                 \
        FAILS(status, about("args." #field), call(gpu->kernels, plan, &args, gpu->stream)); \
    } while (0)
    const lora_forward_args of_forward = {.struct_size = sizeof of_forward,
                                          .x = 16,
                                          .projections = &output,
                                          .projection_count = 1,
                                          .saved_bytes = enough,
                                          .workspace_bytes = enough};
#define FORWARD(field, status) \
    NEGATIVE(lora_forward_args, lora_forward, forward, of_forward, field, status)
    FORWARD(projection_count, LORA_STATUS_PROJECTION_COUNT);
    FORWARD(saved_bytes, LORA_STATUS_BUFFER);
    FORWARD(workspace_bytes, LORA_STATUS_BUFFER);
    lora_forward_args split_forward = of_forward;
    split_forward.saved_s = 16;
    NEGATIVE(lora_forward_args, lora_forward, forward, split_forward, saved_s_bytes,
             LORA_STATUS_BUFFER);
    const lora_backward_args of_backward = {.struct_size = sizeof of_backward,
                                            .x = 16,
                                            .projections = &gradients,
                                            .projection_count = 1,
                                            .saved_bytes = enough,
                                            .workspace_bytes = enough};
#define BACKWARD(field, status) \
    NEGATIVE(lora_backward_args, lora_backward, backward, of_backward, field, status)
    BACKWARD(projection_count, LORA_STATUS_PROJECTION_COUNT);
    BACKWARD(saved_bytes, LORA_STATUS_BUFFER);
    BACKWARD(workspace_bytes, LORA_STATUS_BUFFER);
    const lora_merge_args of_merge = {.struct_size = sizeof of_merge,
                                      .weight = 16,
                                      .merged = 16,
                                      .adapters = &adapter,
                                      .adapter_count = 1,
                                      .report = 16,
                                      .report_bytes = LORA_MERGE_REPORT_BYTES,
                                      .workspace_bytes = enough};
#define MERGE(field, status) NEGATIVE(lora_merge_args, lora_merge, merge, of_merge, field, status)
    MERGE(adapter_count, LORA_STATUS_ADAPTER_COUNT);
    MERGE(report_bytes, LORA_STATUS_BUFFER);
    MERGE(workspace_bytes, LORA_STATUS_BUFFER);

    lora_forward_plan_free(forward);
    lora_backward_plan_free(backward);
    lora_merge_plan_free(merge);
}

int main(void) {
    gpu gpu = gpu_open();
    device = gpu.device;
    layers();
    merges();
    calls(&gpu);
    gpu_close(&gpu);
    return 0;
}
