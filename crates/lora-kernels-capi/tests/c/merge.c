// Merging: in place and apart, two adapters, what is reported, what a safe merge leaves alone, and
// every refusal.

#include <math.h>

#include "support.h"

enum { OUT = 19, IN = 37, FIRST = 3, SECOND = 5 };

static gpu opened;
static uint64_t report_memory;

typedef struct merge {
    uint32_t dtype, adapter_dtype, weight_layout, safe, report, in_place;
} merge;

static size_t stored(const merge *spec, size_t out, size_t in) {
    return spec->weight_layout == LORA_WEIGHT_LAYOUT_IN_OUT ? in * OUT + out : out * IN + in;
}

static lora_merge_plan *planned(const merge *spec, const matrix *weight, const matrix *merged,
                                lora_plan_info *info) {
    const size_t ranks[] = {FIRST, SECOND};
    const lora_layout layouts[] = {
        {sizeof(lora_layout), LORA_ROLE_WEIGHT, 0, (int64_t)weight->stride, weight->element},
        {sizeof(lora_layout), LORA_ROLE_MERGED, 0, (int64_t)merged->stride, merged->element}};
    lora_merge_problem problem = {
        .struct_size = sizeof problem,
        .dtype = spec->dtype,
        .out_features = OUT,
        .in_features = IN,
        .ranks = ranks,
        .adapter_count = 2,
        .adapter_dtype = spec->adapter_dtype,
        .weight_layout = spec->weight_layout,
        .safe = spec->safe,
        .report = spec->report,
        .layouts = layouts,
        .layout_count = spec->in_place ? 1 : 2,
    };
    lora_merge_plan *plan = NULL;
    LORA(lora_merge_plan_new(&problem, &opened.device, &plan));
    info->struct_size = sizeof *info;
    LORA(lora_merge_plan_info(plan, info));
    CHECK(strstr(lora_merge_plan_description(plan), "merge of out_features 19") != NULL);
    return plan;
}

static lora_merge_report read_report(void) {
    unsigned char bytes[LORA_MERGE_REPORT_BYTES];
    CUDA(cuMemcpyDtoH(bytes, report_memory, sizeof bytes));
    lora_merge_report report = {.struct_size = sizeof report};
    LORA(lora_merge_report_read(bytes, &report));
    return report;
}

// `infinite`: an element of the weight is one.
static void run(const merge *spec, int infinite) {
    int transposed = spec->weight_layout == LORA_WEIGHT_LAYOUT_IN_OUT;
    size_t rows = transposed ? IN : OUT, columns = transposed ? OUT : IN;
    uint64_t state = 7;
    matrix weight = matrix_new(spec->dtype, rows, columns, 2, 1),
           apart = matrix_new(spec->dtype, rows, columns, 1, 0);
    uint32_t adapter = spec->adapter_dtype ? spec->adapter_dtype : spec->dtype;
    matrix a[] = {matrix_new(adapter, FIRST, IN, 0, 0), matrix_new(adapter, SECOND, IN, 0, 0)};
    matrix b[] = {matrix_new(adapter, OUT, FIRST, 0, 0), matrix_new(adapter, OUT, SECOND, 0, 0)};
    const float scaling[] = {1.5f, -0.25f};
    matrix_fill(&weight, 1.0, &state);
    matrix_fill(&apart, 1.0, &state);
    for (size_t index = 0; index < 2; index++) {
        matrix_fill(&a[index], 0.5, &state);
        matrix_fill(&b[index], 0.5, &state);
    }
    if (infinite) {
        weight.values[3] = INFINITY;
        matrix_upload(&weight);
    }
    matrix *merged = spec->in_place ? &weight : &apart;
    double *before = malloc(sizeof(double) * OUT * IN), *base = malloc(sizeof(double) * OUT * IN);
    CHECK(before != NULL && base != NULL);
    memcpy(before, merged->values, sizeof(double) * OUT * IN);
    memcpy(base, weight.values, sizeof(double) * OUT * IN);

    lora_plan_info info = {0};
    lora_merge_plan *plan = planned(spec, &weight, &apart, &info);
    CHECK(info.launches == (spec->safe ? 3u : spec->report ? 2u : 1u));
    uint64_t workspace = device_alloc(info.workspace_bytes);
    const lora_merge_adapter adapters[] = {
        {sizeof *adapters, scaling[0], a[0].address, b[0].address},
        {sizeof *adapters, scaling[1], a[1].address, b[1].address}};
    int reports = spec->safe || spec->report;
    lora_merge_args args = {sizeof args,
                            0,
                            weight.address,
                            merged->address,
                            adapters,
                            2,
                            reports ? report_memory : 0,
                            LORA_MERGE_REPORT_BYTES,
                            workspace,
                            info.workspace_bytes};
    LORA(lora_merge(opened.kernels, plan, &args, opened.stream));
    CUDA(cuStreamSynchronize(opened.stream));
    matrix_download(merged);

    double delta_squares = 0;
    size_t unchanged = 0;
    for (size_t out = 0; out < OUT; out++) {
        for (size_t in = 0; in < IN; in++) {
            size_t at = stored(spec, out, in);
            double delta = 0;
            for (size_t r = 0; r < FIRST; r++) {
                delta += (double)scaling[0] * matrix_at(&b[0], out, r) * matrix_at(&a[0], r, in);
            }
            for (size_t r = 0; r < SECOND; r++) {
                delta += (double)scaling[1] * matrix_at(&b[1], out, r) * matrix_at(&a[1], r, in);
            }
            double wanted = spec->safe && infinite ? before[at] : base[at] + delta,
                   given = merged->values[at];
            // f32: a few roundings of numbers below 4. bf16: half a unit of 8 bits, of the result.
            double allowed = spec->dtype == LORA_DTYPE_F32 ? 1e-6 : fabs(wanted) / 256 + 1e-6;
            CHECK(isinf(wanted) ? given == wanted : fabs(given - wanted) <= allowed);
            if (!isinf(base[at])) {
                delta_squares += delta * delta;
            }
            unchanged += given == base[at];
        }
    }
    if (reports) {
        lora_merge_report report = read_report();
        CHECK(report.elements == OUT * IN && report.non_finite == (infinite ? 1u : 0u));
        CHECK(fabs(report.delta_squares - delta_squares) <= 1e-4 * delta_squares);
        CHECK(report.relative_error < 0.1 && report.unchanged_share <= 1.0);
        CHECK(spec->safe || infinite || report.unchanged == unchanged);
    }
    lora_merge_plan_free(plan);
    free(before);
    free(base);
    matrix *all[] = {&weight, &apart, &a[0], &a[1], &b[0], &b[1]};
    for (size_t index = 0; index < 6; index++) {
        matrix_free(all[index]);
    }
    CUDA(cuMemFree(workspace));
}

static void problems(void) {
    const size_t ranks[] = {FIRST, SECOND};
    lora_layout layout = {sizeof layout, LORA_ROLE_LORA_A, 2, 40, 0};
    const lora_merge_problem good = {.struct_size = sizeof good,
                                     .dtype = LORA_DTYPE_F16,
                                     .out_features = OUT,
                                     .in_features = IN,
                                     .ranks = ranks,
                                     .adapter_count = 2,
                                     .layouts = &layout};
    lora_merge_plan *none = NULL;
#define WITH(field, value, status, text)                                        \
    do {                                                                        \
        lora_merge_problem bad_ = good;                                         \
        bad_.field = (value);                                                   \
        FAILS(status, text, lora_merge_plan_new(&bad_, &opened.device, &none)); \
    } while (0)
    WITH(struct_size, 0, LORA_STATUS_STRUCT_SIZE, "sizeof(lora_merge_problem)");
    WITH(dtype, 0, LORA_STATUS_ENUMERATION, "problem.dtype is 0");
    WITH(adapter_dtype, LORA_DTYPE_BF16, LORA_STATUS_ADAPTER_DTYPE, "they must be in f16 or f32");
    WITH(out_features, 0, LORA_STATUS_DIMENSION, "out_features is 0");
    WITH(adapter_count, 0, LORA_STATUS_ADAPTERS, "0 adapters");
    WITH(adapter_count, SIZE_MAX >> 1, LORA_STATUS_ADAPTERS, "between 1 and 8");
    WITH(ranks, NULL, LORA_STATUS_NULL_ARGUMENT, "problem->ranks is a null pointer");
    WITH(safe, 2, LORA_STATUS_FLAG, "problem.safe is 2");
    WITH(report, 2, LORA_STATUS_FLAG, "problem.report is 2");
    WITH(layout_count, 1, LORA_STATUS_NO_ADAPTER, "adapter 2: the problem has 2");
    layout = (lora_layout){sizeof layout, LORA_ROLE_Y, 0, 40, 16};
    WITH(layout_count, 1, LORA_STATUS_NO_PART, "has no part in a merge");
#undef WITH
    CHECK(none == NULL);
    FAILS(LORA_STATUS_NULL_ARGUMENT, "problem is a null pointer",
          lora_merge_plan_new(NULL, &opened.device, &none));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "plan is a null pointer",
          lora_merge_plan_new(&good, &opened.device, NULL));
    lora_plan_info info = {.struct_size = sizeof info};
    FAILS(LORA_STATUS_NULL_ARGUMENT, "plan is a null pointer", lora_merge_plan_info(NULL, &info));
    CHECK(lora_merge_plan_description(NULL) == NULL);
    lora_merge_plan_free(NULL);
}

static void calls(void) {
    const merge spec = {LORA_DTYPE_F32, 0, 0, 0, 1, 0};
    matrix weight = matrix_new(LORA_DTYPE_F32, OUT, IN, 0, 0),
           other = matrix_new(LORA_DTYPE_F32, OUT, IN, 3, 0);
    lora_plan_info info = {0};
    lora_merge_plan *plan = planned(&spec, &weight, &other, &info);
    uint64_t workspace = device_alloc(info.workspace_bytes);
    lora_merge_adapter adapters[] = {{sizeof *adapters, 1.0f, weight.address, weight.address},
                                     {sizeof *adapters, 1.0f, weight.address, weight.address}};
    const lora_merge_args good = {sizeof good,    0,
                                  weight.address, other.address,
                                  adapters,       2,
                                  report_memory,  LORA_MERGE_REPORT_BYTES,
                                  workspace,      info.workspace_bytes};
#define WITH(field, value, status, text)                                             \
    do {                                                                             \
        lora_merge_args bad_ = good;                                                 \
        bad_.field = (value);                                                        \
        FAILS(status, text, lora_merge(opened.kernels, plan, &bad_, opened.stream)); \
    } while (0)
    WITH(struct_size, 9, LORA_STATUS_STRUCT_SIZE, "sizeof(lora_merge_args)");
    WITH(reserved, 1, LORA_STATUS_RESERVED, "args.reserved is 1");
    WITH(weight, 0, LORA_STATUS_NULL, "weight is a null pointer");
    WITH(merged, other.address + 2, LORA_STATUS_ALIGNMENT, "merged starts at an address");
    WITH(merged, weight.address, LORA_STATUS_IN_PLACE, "merging in place");
    WITH(adapters, NULL, LORA_STATUS_NULL_ARGUMENT, "args->adapters is a null pointer");
    WITH(adapter_count, 1, LORA_STATUS_ADAPTER_COUNT, "1 adapters were given");
    WITH(report, 0, LORA_STATUS_OPTIONAL, "report was not given");
    WITH(report, report_memory + 8, LORA_STATUS_BUFFER_ALIGNMENT, "report buffer starts");
    WITH(report_bytes, 47, LORA_STATUS_BUFFER, "the report buffer has 47 bytes, the plan needs 48");
    WITH(report, weight.address, LORA_STATUS_OVERLAP, "report shares memory with weight");
    WITH(workspace, other.address, LORA_STATUS_OVERLAP, "merged shares memory with workspace");
    WITH(merged, weight.address + 16, LORA_STATUS_OVERLAP, "merged shares memory with weight");
    WITH(weight, UINT64_MAX - 15, LORA_STATUS_ADDRESS_RANGE, "reach beyond the last address");
    WITH(workspace, 0, LORA_STATUS_NULL, "workspace is a null pointer");
    WITH(workspace_bytes, 1, LORA_STATUS_BUFFER, "the workspace buffer has 1 bytes");
#undef WITH
    FAILS(LORA_STATUS_NULL_ARGUMENT, "kernels is a null pointer",
          lora_merge(NULL, plan, &good, opened.stream));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "plan is a null pointer",
          lora_merge(opened.kernels, NULL, &good, opened.stream));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "args is a null pointer",
          lora_merge(opened.kernels, plan, NULL, opened.stream));
    adapters[1].scaling = NAN;
    FAILS(LORA_STATUS_SCALING, "it must be finite",
          lora_merge(opened.kernels, plan, &good, opened.stream));
    adapters[1].scaling = 1.0f;
    adapters[1].lora_b = 0;
    FAILS(LORA_STATUS_NULL, "lora_B of adapter 1 is a null pointer",
          lora_merge(opened.kernels, plan, &good, opened.stream));
    adapters[1].struct_size = 16;
    FAILS(LORA_STATUS_STRUCT_SIZE, "args->adapters[1] has struct_size 16",
          lora_merge(opened.kernels, plan, &good, opened.stream));
    lora_merge_report report = {.struct_size = sizeof report};
    FAILS(LORA_STATUS_NULL_ARGUMENT, "bytes is a null pointer",
          lora_merge_report_read(NULL, &report));
    FAILS(LORA_STATUS_NULL_ARGUMENT, "report is a null pointer",
          lora_merge_report_read(&report, NULL));

    lora_merge_plan_free(plan);
    matrix_free(&weight);
    matrix_free(&other);
    CUDA(cuMemFree(workspace));
}

int main(void) {
    opened = gpu_open();
    report_memory = device_alloc(LORA_MERGE_REPORT_BYTES);
    const merge merges[] = {
        {LORA_DTYPE_F32, 0, 0, 0, 0, 1},
        {LORA_DTYPE_F32, 0, LORA_WEIGHT_LAYOUT_IN_OUT, 0, 1, 0},
        {LORA_DTYPE_BF16, LORA_DTYPE_F32, 0, 1, 0, 1},
        {LORA_DTYPE_BF16, 0, LORA_WEIGHT_LAYOUT_IN_OUT, 0, 1, 1},
    };
    for (size_t index = 0; index < sizeof merges / sizeof *merges; index++) {
        run(&merges[index], 0);
        run(&merges[index], 1);
    }
    problems();
    calls();
    CUDA(cuMemFree(report_memory));
    gpu_close(&opened);
    return 0;
}
