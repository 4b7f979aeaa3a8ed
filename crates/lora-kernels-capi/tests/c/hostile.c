// Calls by programs with mistakes: sizes that no struct has, addresses of any alignment, endless
// names, handles that are none. Each is an error or works, and writes nowhere else.
//
// The argument is the path of another copy of the shared library.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>

#include "support.h"

enum { TOKENS = 5, IN = 24, OUT = 16, RANK = 3, AROUND = 64 };

static gpu opened;
static lora_projection projection = {sizeof projection, 0, OUT, RANK};
static const size_t ranks[2] = {RANK, RANK + 1};
static lora_problem problem;
static lora_merge_problem merge_problem;
static lora_forward_plan *forward;
static lora_backward_plan *backward;
static lora_merge_plan *merge;
// Device memory for one forward: far more than it needs.
static uint64_t memory;
static const size_t enough = 1 << 16;

static void open_all(void) {
    opened = gpu_open();
    problem = (lora_problem){.struct_size = sizeof problem,
                             .dtype = LORA_DTYPE_F32,
                             .tokens = TOKENS,
                             .in_features = IN,
                             .projections = &projection,
                             .projection_count = 1,
                             .dropout = 1};
    merge_problem = (lora_merge_problem){.struct_size = sizeof merge_problem,
                                         .dtype = LORA_DTYPE_F32,
                                         .out_features = OUT,
                                         .in_features = IN,
                                         .ranks = ranks,
                                         .adapter_count = 2};
    LORA(lora_forward_plan_new(&problem, &opened.device, &forward));
    LORA(lora_backward_plan_new(&problem, &opened.device, &backward));
    LORA(lora_merge_plan_new(&merge_problem, &opened.device, &merge));
    memory = device_alloc(8 * enough);
    void *zeros = calloc(8, enough);
    CHECK(zeros != NULL);
    CUDA(cuMemcpyHtoD(memory, zeros, 8 * enough));
    free(zeros);
}

static void close_all(void) {
    CUDA(cuStreamSynchronize(opened.stream));
    CUDA(cuMemFree(memory));
    lora_forward_plan_free(forward);
    lora_backward_plan_free(backward);
    lora_merge_plan_free(merge);
    gpu_close(&opened);
}

static lora_forward_projection tensors(void) {
    return (lora_forward_projection){sizeof(lora_forward_projection),
                                     1.5f,
                                     memory,
                                     0,
                                     memory + enough,
                                     memory + 2 * enough,
                                     memory + 3 * enough};
}

static lora_status run_forward(const lora_kernels *kernels, const lora_forward_plan *plan,
                               const lora_forward_projection *all, const lora_dropout *dropout,
                               lora_forward_record *record) {
    lora_forward_args args = {.struct_size = sizeof args,
                              .x = memory + 4 * enough,
                              .projections = all,
                              .projection_count = 1,
                              .dropout = dropout,
                              .saved = memory + 5 * enough,
                              .saved_bytes = enough,
                              .workspace = memory + 6 * enough,
                              .workspace_bytes = enough,
                              .record = record};
    return lora_forward(kernels, plan, &args, opened.stream);
}

static const lora_dropout half = {sizeof half, 0.5f, 1, 2};

// Functions that fill in a struct.
static lora_status fill_named(void *out) { return lora_device_named("h100", out); }
static lora_status fill_device(void *out) { return lora_kernels_device(opened.kernels, out); }
static lora_status fill_forward_info(void *out) { return lora_forward_plan_info(forward, out); }
static lora_status fill_backward_info(void *out) { return lora_backward_plan_info(backward, out); }
static lora_status fill_merge_info(void *out) { return lora_merge_plan_info(merge, out); }
static lora_status fill_report(void *out) {
    static const unsigned char bytes[LORA_MERGE_REPORT_BYTES] = {1, 2, 3};
    return lora_merge_report_read(bytes, out);
}
static lora_status fill_record(void *out) {
    lora_forward_projection all = tensors();
    return run_forward(opened.kernels, forward, &all, &half, out);
}

static const struct filled {
    const char *name;
    uint32_t size, older;  // that of an earlier header, 0 where there is none
    lora_status (*fill)(void *out);
} filled[] = {
    {"device", sizeof(lora_device), 0, fill_named},
    {"device", sizeof(lora_device), 0, fill_device},
    {"info", sizeof(lora_plan_info), 64, fill_forward_info},
    {"info", sizeof(lora_plan_info), 64, fill_backward_info},
    {"info", sizeof(lora_plan_info), 64, fill_merge_info},
    {"report", sizeof(lora_merge_report), 0, fill_report},
    {"args->record", sizeof(lora_forward_record), 224, fill_record},
};

// The next struct_size to try: all small ones, then those that a struct could have.
static uint32_t next_size(uint32_t size) { return size < 300 ? size + 1 : (size + 24) / 8 * 8; }

// Whatever size a struct says it has, nothing but the struct is written.
static void sizes_of_results(void) {
    enum { BYTES = 1 << 13 };
    unsigned char *around = malloc(BYTES), *before = malloc(BYTES);
    CHECK(around != NULL && before != NULL);
    memset(around, 0xA5, BYTES);
    for (size_t index = 0; index < sizeof filled / sizeof *filled; index++) {
        const struct filled *it = &filled[index];
        unsigned char *out = around + AROUND;
        for (uint32_t step = 0; step <= BYTES; step = next_size(step)) {
            // At the right one, the largest number.
            int right = step == it->size || (step != 0 && step == it->older);
            uint32_t size = right ? UINT32_MAX : step;
            memcpy(out, &size, sizeof size);
            memcpy(before, around, BYTES);
            FAILS(LORA_STATUS_STRUCT_SIZE, it->name, it->fill(out));
            CHECK(memcmp(before, around, BYTES) == 0);
        }
        // The right sizes, at any address.
        for (size_t skipped = 0; skipped < 16; skipped++) {
            uint32_t size = skipped % 2 == 1 && it->older != 0 ? it->older : it->size;
            memset(around, 0xA5, BYTES);
            memcpy(out + skipped, &size, sizeof size);
            memcpy(before, around, BYTES);
            LORA(it->fill(out + skipped));
            CHECK(memcmp(before, around, AROUND + skipped) == 0);
            CHECK(memcmp(before + AROUND, around + AROUND, size + skipped) != 0);
            size_t behind = AROUND + skipped + size;
            CHECK(memcmp(before + behind, around + behind, BYTES - behind) == 0);
        }
    }
    free(around);
    free(before);
}

// A copy of a struct or an array with nothing behind it, which sanitisers see.
static void *exactly(const void *from, size_t bytes) {
    void *copy = malloc(bytes);
    CHECK(copy != NULL);
    memcpy(copy, from, bytes);
    return copy;
}

// Of an argument, not a byte is read where its size can't be right.
static void sizes_of_arguments(void) {
    lora_forward_plan *none = NULL;
    lora_problem *short_problem = exactly(&problem, sizeof problem);
    lora_device *short_device = exactly(&opened.device, sizeof opened.device);
    for (uint32_t size = 2 * sizeof problem + 1; size < 10000; size = next_size(size)) {
        short_problem->struct_size = size;
        FAILS(LORA_STATUS_STRUCT_SIZE, "problem has struct_size",
              lora_forward_plan_new(short_problem, short_device, &none));
        short_device->struct_size = size;
        FAILS(LORA_STATUS_STRUCT_SIZE, "device has struct_size",
              lora_forward_plan_new(&problem, short_device, &none));
    }
    CHECK(none == NULL);
    free(short_problem);
    free(short_device);
}

// Copies something to an address that is a multiple of nothing.
static void *skewed(unsigned char *at, const void *from, size_t bytes) {
    memcpy(at + 1, from, bytes);
    return at + 1;
}

static void any_alignment(void) {
    unsigned char of_problem[256], of_device[64], of_projection[64], of_layout[64], of_ranks[64],
        of_plan[64], of_number[64], of_dropout[64], of_record[320], of_tensors[64];
    const lora_layout layout = {sizeof layout, LORA_ROLE_X, 0, IN + 4, 16};
    lora_problem with_layout = problem;
    with_layout.projections = skewed(of_projection, &projection, sizeof projection);
    with_layout.layouts = skewed(of_layout, &layout, sizeof layout);
    with_layout.layout_count = 1;
    const lora_problem *any_problem = skewed(of_problem, &with_layout, sizeof with_layout);
    const lora_device *any_device = skewed(of_device, &opened.device, sizeof opened.device);
    const void *null = NULL;
    lora_forward_plan **out = skewed(of_plan, &null, sizeof null), *plan;
    LORA(lora_forward_plan_new(any_problem, any_device, out));
    memcpy(&plan, of_plan + 1, sizeof plan);
    CHECK(strstr(lora_forward_plan_description(plan), "forward of tokens 5") != NULL);

    size_t zero = 0, bound, wanted;
    size_t *bytes = skewed(of_number, &zero, sizeof zero);
    LORA(lora_forward_workspace_bound(any_problem, 100, any_device, bytes));
    LORA(lora_forward_workspace_bound(&with_layout, 100, &opened.device, &wanted));
    memcpy(&bound, of_number + 1, sizeof bound);
    CHECK(bound == wanted);

    lora_forward_projection good = tensors();
    lora_forward_record record = {.struct_size = sizeof record};
    LORA(run_forward(opened.kernels, plan, skewed(of_tensors, &good, sizeof good),
                     skewed(of_dropout, &half, sizeof half),
                     skewed(of_record, &record, sizeof record)));
    memcpy(&record, of_record + 1, sizeof record);
    CHECK(record.tokens == TOKENS && record.p == 0.5f && record.scaling[0] == 1.5f);
    lora_forward_plan_free(plan);

    lora_merge_problem merging = merge_problem;
    merging.ranks = skewed(of_ranks, ranks, sizeof ranks);
    lora_merge_plan *merge_plan = NULL;
    LORA(
        lora_merge_plan_new(skewed(of_problem, &merging, sizeof merging), any_device, &merge_plan));
    CHECK(strcmp(lora_merge_plan_description(merge_plan), lora_merge_plan_description(merge)) == 0);
    lora_merge_plan_free(merge_plan);

    lora_kernels **kernels_out = skewed(of_plan, &null, sizeof null), *kernels;
    LORA(lora_kernels_load(0, kernels_out));
    memcpy(&kernels, of_plan + 1, sizeof kernels);
    void **context_out = skewed(of_number, &null, sizeof null), *context;
    LORA(lora_kernels_context(kernels, context_out));
    memcpy(&context, of_number + 1, sizeof context);
    CHECK(context == (void *)opened.context);
    lora_kernels_free(kernels);
}

static void names(void) {
    lora_device device = {.struct_size = sizeof device};
    size_t bytes = 100 << 20;
    char *name = malloc(bytes + 1);
    CHECK(name != NULL);
    memset(name, 'g', bytes);
    name[bytes] = '\0';
    FAILS(LORA_STATUS_DEVICE_NAME, "\"gggg", lora_device_named(name, &device));
    CHECK(strlen(lora_last_error()) < 400);
    free(name);

    // No more is read than is needed to see that it is too long.
    size_t page = 4096;
    char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED && mprotect(pages + page, page, PROT_NONE) == 0);
    memset(pages, 'g', page);
    FAILS(LORA_STATUS_DEVICE_NAME, "\"gggg", lora_device_named(pages, &device));
    // One that ends with the page.
    memcpy(pages + page - 5, "h100", 5);
    LORA(lora_device_named(pages + page - 5, &device));
    CHECK(munmap(pages, 2 * page) == 0);

    // What a terminal would take for a command stays a text.
    FAILS(LORA_STATUS_DEVICE_NAME, "\\u{1b}[2J", lora_device_named("\x1b[2J\r\n", &device));
    for (const char *at = lora_last_error(); *at != '\0'; at++) {
        CHECK((unsigned char)*at >= ' ');
    }
    FAILS(LORA_STATUS_DEVICE_NAME, "\\u{202e}", lora_device_named("\xE2\x80\xAEh100", &device));
    FAILS(LORA_STATUS_DEVICE_NAME, "known as", lora_device_named("\xFF\xFE", &device));
    FAILS(LORA_STATUS_DEVICE_NAME, "known as \"\"", lora_device_named("", &device));
}

// Every function that takes a handle, with this one.
static void refused_as_kernels(const void *handle, const char *text) {
    lora_device device = {.struct_size = sizeof device};
    void *context = NULL;
    lora_forward_projection all = tensors();
    lora_backward_args backward_args = {.struct_size = sizeof backward_args};
    lora_merge_args merge_args = {.struct_size = sizeof merge_args};
    FAILS(LORA_STATUS_HANDLE, text, lora_kernels_device(handle, &device));
    FAILS(LORA_STATUS_HANDLE, text, lora_kernels_context(handle, &context));
    FAILS(LORA_STATUS_HANDLE, text, run_forward(handle, forward, &all, &half, NULL));
    FAILS(LORA_STATUS_HANDLE, text, lora_backward(handle, backward, &backward_args, NULL));
    FAILS(LORA_STATUS_HANDLE, text, lora_merge(handle, merge, &merge_args, NULL));
    lora_kernels_free((lora_kernels *)handle);
    CHECK(strstr(lora_last_error(), text) != NULL);
    CHECK(context == NULL && device.compute_major == 0);
}

static void refused_as_forward(const void *handle, const char *text) {
    lora_plan_info info = {.struct_size = sizeof info};
    lora_forward_projection all = tensors();
    FAILS(LORA_STATUS_HANDLE, text, lora_forward_plan_info(handle, &info));
    FAILS(LORA_STATUS_HANDLE, text, run_forward(opened.kernels, handle, &all, &half, NULL));
    lora_forward_plan_free((lora_forward_plan *)handle);
    CHECK(strstr(lora_last_error(), text) != NULL);
    CHECK(lora_forward_plan_description(handle) == NULL);
    CHECK(strstr(lora_last_error(), text) != NULL && info.launches == 0);
}

static void refused_as_backward(const void *handle, const char *text) {
    lora_plan_info info = {.struct_size = sizeof info};
    lora_backward_args args = {.struct_size = sizeof args};
    FAILS(LORA_STATUS_HANDLE, text, lora_backward_plan_info(handle, &info));
    FAILS(LORA_STATUS_HANDLE, text, lora_backward(opened.kernels, handle, &args, NULL));
    lora_backward_plan_free((lora_backward_plan *)handle);
    CHECK(strstr(lora_last_error(), text) != NULL);
    CHECK(lora_backward_plan_description(handle) == NULL);
    CHECK(strstr(lora_last_error(), text) != NULL && info.launches == 0);
}

static void refused_as_merge(const void *handle, const char *text) {
    lora_plan_info info = {.struct_size = sizeof info};
    lora_merge_args args = {.struct_size = sizeof args};
    FAILS(LORA_STATUS_HANDLE, text, lora_merge_plan_info(handle, &info));
    FAILS(LORA_STATUS_HANDLE, text, lora_merge(opened.kernels, handle, &args, NULL));
    lora_merge_plan_free((lora_merge_plan *)handle);
    CHECK(strstr(lora_last_error(), text) != NULL);
    CHECK(lora_merge_plan_description(handle) == NULL);
    CHECK(strstr(lora_last_error(), text) != NULL && info.launches == 0);
}

static void refused_by_all(const void *handle, const char *text) {
    refused_as_kernels(handle, text);
    refused_as_forward(handle, text);
    refused_as_backward(handle, text);
    refused_as_merge(handle, text);
}

static void handles_of_other_kinds(void) {
    refused_as_kernels(forward, "kernels is a lora_forward_plan");
    refused_as_kernels(backward, "kernels is a lora_backward_plan");
    refused_as_kernels(merge, "kernels is a lora_merge_plan");
    refused_as_forward(opened.kernels, "plan is a lora_kernels");
    refused_as_forward(backward, "plan is a lora_backward_plan");
    refused_as_forward(merge, "give a lora_forward_plan that lora_forward_plan_new");
    refused_as_backward(opened.kernels, "plan is a lora_kernels");
    refused_as_backward(forward, "plan is a lora_forward_plan");
    refused_as_backward(merge, "plan is a lora_merge_plan");
    refused_as_merge(opened.kernels, "plan is a lora_kernels");
    refused_as_merge(forward, "plan is a lora_forward_plan");
    refused_as_merge(backward, "plan is a lora_backward_plan");
    // Kernels and plan the wrong way round.
    lora_forward_projection all = tensors();
    FAILS(LORA_STATUS_HANDLE, "kernels is a lora_forward_plan",
          run_forward((void *)forward, (void *)opened.kernels, &all, &half, NULL));
    // None of them was freed.
    LORA(fill_record(&(lora_forward_record){.struct_size = sizeof(lora_forward_record)}));
    LORA(fill_backward_info(&(lora_plan_info){.struct_size = sizeof(lora_plan_info)}));
    LORA(fill_merge_info(&(lora_plan_info){.struct_size = sizeof(lora_plan_info)}));
}

static void pointers_that_are_no_handles(void) {
    uint64_t zeros[64] = {0};
    lora_kernels **address = &opened.kernels;
    unsigned char *heap = calloc(1, 512);
    CHECK(heap != NULL);
    const void *all[] = {zeros,
                         zeros + 1,
                         address,
                         &problem,
                         heap,
                         (char *)heap + 3,
                         (void *)1,
                         (void *)8,
                         (void *)0xFFF,
                         (void *)UINTPTR_MAX,
                         (void *)INTPTR_MIN,
                         "lora_kernels"};
    for (size_t index = 0; index < sizeof all / sizeof *all; index++) {
        refused_by_all(all[index], "is not a handle: give a");
    }
    free(heap);
    // An address beside a handle.
    refused_as_kernels((char *)opened.kernels + 1, "kernels is a lora_kernels that was freed");
    refused_as_forward((char *)forward + 8, "plan is a lora_forward_plan that was freed");
}

static void freed_handles(void) {
    lora_kernels *kernels = NULL;
    lora_forward_plan *of_forward = NULL;
    lora_backward_plan *of_backward = NULL;
    lora_merge_plan *of_merge = NULL;
    LORA(lora_kernels_load(0, &kernels));
    LORA(lora_forward_plan_new(&problem, &opened.device, &of_forward));
    LORA(lora_backward_plan_new(&problem, &opened.device, &of_backward));
    LORA(lora_merge_plan_new(&merge_problem, &opened.device, &of_merge));
    lora_kernels_free(kernels);
    lora_forward_plan_free(of_forward);
    lora_backward_plan_free(of_backward);
    lora_merge_plan_free(of_merge);
    // The heap gives the freed memory out again.
    lora_forward_plan *later[100];
    for (size_t index = 0; index < 100; index++) {
        LORA(lora_forward_plan_new(&problem, &opened.device, &later[index]));
        CHECK(later[index] != of_forward);
    }
    // The functions include those that free.
    refused_as_kernels(kernels, "kernels is a lora_kernels that was freed");
    refused_as_forward(of_forward, "plan is a lora_forward_plan that was freed");
    refused_as_backward(of_backward, "plan is a lora_backward_plan that was freed");
    refused_as_merge(of_merge, "plan is a lora_merge_plan that was freed");
    for (size_t index = 0; index < 100; index++) {
        CHECK(lora_forward_plan_description(later[index]) != NULL);
        lora_forward_plan_free(later[index]);
    }
}

// One thread frees what another uses: each call of that one works or is refused.
static void *use(void *plan) {
    lora_plan_info info = {.struct_size = sizeof info};
    lora_status status;
    do {
        status = lora_forward_plan_info(plan, &info);
    } while (status == LORA_STATUS_OK);
    CHECK(status == LORA_STATUS_HANDLE);
    return NULL;
}

static void freed_in_use(void) {
    for (int round = 0; round < 20; round++) {
        lora_forward_plan *plan = NULL;
        pthread_t thread;
        LORA(lora_forward_plan_new(&problem, &opened.device, &plan));
        CHECK(pthread_create(&thread, NULL, use, plan) == 0);
        lora_forward_plan_free(plan);
        CHECK(pthread_join(thread, NULL) == 0);
    }
}

// What another copy of the library made is none of this one's.
static void handles_of_another_copy(const char *path) {
    void *copy = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(copy != NULL);
    lora_status (*make)(const lora_problem *, const lora_device *, lora_forward_plan **);
    lora_status (*info_of)(const lora_forward_plan *, lora_plan_info *);
    void (*release)(lora_forward_plan *);
    *(void **)&make = dlsym(copy, "lora_forward_plan_new");
    *(void **)&info_of = dlsym(copy, "lora_forward_plan_info");
    *(void **)&release = dlsym(copy, "lora_forward_plan_free");
    CHECK(make != NULL && info_of != NULL && release != NULL && make != lora_forward_plan_new);
    lora_plan_info info = {.struct_size = sizeof info};
    lora_forward_plan *plan = NULL;
    CHECK(make(&problem, &opened.device, &plan) == LORA_STATUS_OK);
    refused_as_forward(plan, "or that another copy of the library made");
    CHECK(info_of(forward, &info) == LORA_STATUS_HANDLE);
    CHECK(info_of(plan, &info) == LORA_STATUS_OK);
    release(plan);
    CHECK(info_of(plan, &info) == LORA_STATUS_HANDLE);
}

// The text of an error outlives calls that succeed.
static void last_error(void) {
    FAILS(LORA_STATUS_NULL_ARGUMENT, "kernels is a null pointer", lora_kernels_load(0, NULL));
    const char *text = lora_last_error();
    for (size_t index = 0; index < sizeof filled / sizeof *filled; index++) {
        unsigned char out[512];
        memcpy(out, &filled[index].size, sizeof filled[index].size);
        LORA(filled[index].fill(out));
    }
    CHECK(text == lora_last_error() && strcmp(text, "kernels is a null pointer") == 0);
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    open_all();
    last_error();
    sizes_of_results();
    sizes_of_arguments();
    any_alignment();
    names();
    handles_of_other_kinds();
    pointers_that_are_no_handles();
    freed_handles();
    freed_in_use();
    handles_of_another_copy(arguments[1]);
    close_all();
    return 0;
}
