// The thread's current context, several handles, streams that are being captured, threads.

#include <pthread.h>

#include "support.h"

enum { TOKENS = 9, IN = 40, OUT = 24, RANK = 4 };

static void expect_current(CUcontext expected) {
    CUcontext current = NULL;
    CUDA(cuCtxGetCurrent(&current));
    CHECK(current == expected);
}

typedef struct call {
    const lora_kernels *kernels;
    lora_forward_plan *plan;
    lora_forward_projection projection;
    lora_forward_args args;
    CUstream stream;
    lora_status status;
    int quiet_before;
} call;

static void *run(void *argument) {
    call *self = argument;
    self->quiet_before = lora_last_error()[0] == '\0';
    self->status = lora_forward(self->kernels, self->plan, &self->args, self->stream);
    return NULL;
}

int main(void) {
    // Without a current context there is none after a call.
    CUDA(cuInit(0));
    lora_kernels *first = NULL, *second = NULL;
    LORA(lora_kernels_load(0, &first));
    expect_current(NULL);
    CUcontext primary = NULL;
    void *of_handle = NULL;
    CUDA(cuDevicePrimaryCtxRetain(&primary, 0));
    LORA(lora_kernels_context(first, &of_handle));
    CHECK(of_handle == (void *)primary);

    // Another context stays current, through all of a handle's life.
    CUcontext own = NULL;
    CUDA(cuCtxCreate(&own, 0, 0));
    LORA(lora_kernels_load(0, &second));
    expect_current(own);
    lora_kernels_free(first);
    expect_current(own);

    CUDA(cuCtxPushCurrent(primary));
    uint64_t state = 1;
    matrix x = matrix_new(LORA_DTYPE_F32, TOKENS, IN, 0, 0),
           w = matrix_new(LORA_DTYPE_F32, OUT, IN, 0, 0);
    matrix a = matrix_new(LORA_DTYPE_F32, RANK, IN, 0, 0),
           b = matrix_new(LORA_DTYPE_F32, OUT, RANK, 0, 0);
    matrix y = matrix_new(LORA_DTYPE_F32, TOKENS, OUT, 0, 0);
    matrix *all[] = {&x, &w, &a, &b, &y};
    for (size_t index = 0; index < 5; index++) {
        matrix_fill(all[index], 1.0, &state);
    }
    CUstream stream = NULL;
    CUDA(cuStreamCreate(&stream, 0));
    CUcontext popped = NULL;
    CUDA(cuCtxPopCurrent(&popped));

    lora_device device = {.struct_size = sizeof device};
    LORA(lora_kernels_device(second, &device));
    lora_projection one = {sizeof one, 0, OUT, RANK};
    lora_problem problem = {.struct_size = sizeof problem,
                            .dtype = LORA_DTYPE_F32,
                            .tokens = TOKENS,
                            .in_features = IN,
                            .projections = &one,
                            .projection_count = 1,
                            .accumulate_y = 1};
    call call = {.kernels = second, .stream = stream};
    LORA(lora_forward_plan_new(&problem, &device, &call.plan));
    lora_plan_info info = {.struct_size = sizeof info};
    LORA(lora_forward_plan_info(call.plan, &info));
    CUDA(cuCtxPushCurrent(primary));
    uint64_t saved = device_alloc(info.saved_bytes), workspace = device_alloc(info.workspace_bytes);
    CUDA(cuCtxPopCurrent(&popped));
    call.projection = (lora_forward_projection){
        sizeof call.projection, 1.5f, w.address, 0, a.address, b.address, y.address};
    call.args = (lora_forward_args){
        .struct_size = sizeof call.args,
        .x = x.address,
        .projections = &call.projection,
        .projection_count = 1,
        .saved = saved,
        .saved_bytes = info.saved_bytes,
        .workspace = workspace,
        .workspace_bytes = info.workspace_bytes,
    };

    // The stream's context is made current for the call, and only for it.
    run(&call);
    CHECK(call.status == LORA_STATUS_OK);
    expect_current(own);
    call.args.x = 0;
    FAILS(LORA_STATUS_NULL, "x is a null pointer",
          lora_forward(second, call.plan, &call.args, stream));
    call.args.x = x.address;
    expect_current(own);

    // Another thread has no error, no context, and can use the same handle and plan.
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, run, &call) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(call.status == LORA_STATUS_OK && call.quiet_before);
    CHECK(strstr(lora_last_error(), "x is a null pointer") != NULL);

    // y has been added to twice. A capture runs nothing; its graph adds the same each time.
    CUDA(cuCtxPushCurrent(primary));
    CUDA(cuStreamSynchronize(stream));
    double before = matrix_at(&y, 0, 0);
    matrix_download(&y);
    double twice = matrix_at(&y, 0, 0);
    CHECK(twice != before);
    CUgraph graph = NULL;
    CUgraphExec executable = NULL;
    CUDA(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    run(&call);
    CHECK(call.status == LORA_STATUS_OK);
    CUDA(cuStreamEndCapture(stream, &graph));
    matrix_download(&y);
    CHECK(matrix_at(&y, 0, 0) == twice);
    CUDA(cuGraphInstantiateWithFlags(&executable, graph, 0));
    CUDA(cuGraphLaunch(executable, stream));
    CUDA(cuGraphLaunch(executable, stream));
    CUDA(cuStreamSynchronize(stream));
    matrix_download(&y);
    // Before, and four times what one call adds.
    double wanted = before + 2 * (twice - before), error = matrix_at(&y, 0, 0) - wanted;
    CHECK(error < 1e-3 && error > -1e-3);
    CUDA(cuGraphExecDestroy(executable));
    CUDA(cuGraphDestroy(graph));

    for (size_t index = 0; index < 5; index++) {
        matrix_free(all[index]);
    }
    CUDA(cuMemFree(saved));
    CUDA(cuMemFree(workspace));
    CUDA(cuStreamDestroy(stream));
    CUDA(cuCtxPopCurrent(&popped));
    expect_current(own);
    lora_forward_plan_free(call.plan);
    lora_kernels_free(second);
    expect_current(own);
    CUDA(cuCtxDestroy(own));
    CUDA(cuDevicePrimaryCtxRelease(0));
    return 0;
}
