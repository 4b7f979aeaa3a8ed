// Handles that are freed while a call that uses them is under way, at the same moment in every run:
// the call's arguments lie in a page that nobody may read, and what handles the fault frees the
// handles and makes the page readable.

#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support.h"

enum { TOKENS = 5, IN = 24, OUT = 16, RANK = 3, BUFFER = 1 << 16 };

static lora_kernels *kernels;
static lora_forward_plan *plan;
static CUstream stream;
static unsigned char *page;
static size_t page_bytes;
static volatile sig_atomic_t times_freed;

static void free_handles(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    unsigned char *address = info->si_addr;
    if (address < page || address >= page + page_bytes || times_freed > 0) {
        _exit(2);
    }
    times_freed++;
    // The thread was copying the arguments, and holds no lock.
    lora_kernels_free(kernels);
    lora_forward_plan_free(plan);
    mprotect(page, page_bytes, PROT_READ | PROT_WRITE);
}

// The call uses the handles as if they were there. The kernels go when it returns, from a thread
// that has no context current before, and none after.
static void *call(void *nothing) {
    CUcontext current;
    CUDA(cuCtxGetCurrent(&current));
    CHECK(current == NULL);
    LORA(lora_forward(kernels, plan, (const lora_forward_args *)page, stream));
    CHECK(times_freed == 1);
    CUDA(cuCtxGetCurrent(&current));
    CHECK(current == NULL);
    FAILS(LORA_STATUS_HANDLE, "kernels is a lora_kernels that was freed",
          lora_forward(kernels, plan, (const lora_forward_args *)page, stream));
    return nothing;
}

int main(void) {
    gpu opened = gpu_open();
    stream = opened.stream;
    LORA(lora_kernels_load(0, &kernels));
    const lora_projection projection = {sizeof projection, 0, OUT, RANK};
    const lora_problem problem = {.struct_size = sizeof problem,
                                  .dtype = LORA_DTYPE_F32,
                                  .tokens = TOKENS,
                                  .in_features = IN,
                                  .projections = &projection,
                                  .projection_count = 1};
    LORA(lora_forward_plan_new(&problem, &opened.device, &plan));

    uint64_t memory = device_alloc(7 * BUFFER);
    void *zeros = calloc(7, BUFFER);
    CHECK(zeros != NULL);
    CUDA(cuMemcpyHtoD(memory, zeros, 7 * BUFFER));
    free(zeros);
    const lora_forward_projection tensors = {.struct_size = sizeof tensors,
                                             .scaling = 1.5f,
                                             .weight = memory,
                                             .lora_a = memory + BUFFER,
                                             .lora_b = memory + 2 * BUFFER,
                                             .y = memory + 3 * BUFFER};
    const lora_forward_args args = {.struct_size = sizeof args,
                                    .x = memory + 4 * BUFFER,
                                    .projections = &tensors,
                                    .projection_count = 1,
                                    .saved = memory + 5 * BUFFER,
                                    .saved_bytes = BUFFER,
                                    .workspace = memory + 6 * BUFFER,
                                    .workspace_bytes = BUFFER};
    page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    page = mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    memcpy(page, &args, sizeof args);
    CHECK(mprotect(page, page_bytes, PROT_NONE) == 0);
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    action.sa_sigaction = free_handles;
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);

    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, call, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);

    CUDA(cuStreamSynchronize(stream));
    CUDA(cuMemFree(memory));
    CHECK(munmap(page, page_bytes) == 0);
    gpu_close(&opened);
    return 0;
}
