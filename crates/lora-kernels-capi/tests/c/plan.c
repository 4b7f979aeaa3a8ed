// Plans on a machine without a driver, and what handles are there: this program is not linked with
// libcuda.

#include <stddef.h>

#include "support.h"

int main(void) {
    CHECK(lora_version() == LORA_VERSION);
    lora_kernels *kernels = NULL;
    FAILS(LORA_STATUS_NO_DRIVER, "install the NVIDIA driver", lora_kernels_load(0, &kernels));
    CHECK(kernels == NULL);
    lora_kernels_free(NULL);
    lora_forward_plan_free(NULL);
    lora_backward_plan_free(NULL);

    lora_device named = {.struct_size = sizeof named};
    LORA(lora_device_named("h100", &named));
    CHECK(named.compute_major == 9 && named.multiprocessors == 132 &&
          named.struct_size == sizeof named);
    lora_device device = {sizeof device, 9, 0, 132, 227 << 10, 228 << 10, 50 << 20, 0, 0};
    CHECK(memcmp(&device, &named, sizeof device) == 0);

    lora_projection qkv[] = {
        {sizeof *qkv, 0, 4096, 16}, {sizeof *qkv, 0, 1024, 0}, {sizeof *qkv, 0, 1024, 16}};
    lora_problem problem = {
        .struct_size = sizeof problem,
        .dtype = LORA_DTYPE_BF16,
        .tokens = 4096,
        .in_features = 4096,
        .projections = qkv,
        .projection_count = 3,
        .dropout = 1,
    };
    lora_forward_plan *forward = NULL;
    lora_backward_plan *backward = NULL;
    LORA(lora_forward_plan_new(&problem, &device, &forward));
    LORA(lora_backward_plan_new(&problem, &device, &backward));
    lora_plan_info info = {.struct_size = sizeof info};
    LORA(lora_forward_plan_info(forward, &info));
    CHECK(info.padded_ranks == 32 && info.s_bytes == 4096 * 32 * 2 &&
          info.mask_bytes == 4096 * 4096 / 8);
    CHECK(info.saved_bytes >= info.s_bytes + info.mask_bytes);
    CHECK(strstr(lora_forward_plan_description(forward), "forward of tokens 4096") != NULL);
    CHECK(strstr(lora_backward_plan_description(backward), "backward of tokens 4096") != NULL);
    printf("%s\n%s\n", lora_forward_plan_description(forward),
           lora_backward_plan_description(backward));

    // One workspace for all numbers of tokens: no plan needs more, and the largest is not always
    // that of the most tokens.
    size_t forward_bound = 0, backward_bound = 0;
    LORA(lora_forward_workspace_bound(&problem, 4096, &device, &forward_bound));
    LORA(lora_backward_workspace_bound(&problem, 4096, &device, &backward_bound));
    for (size_t tokens = 0; tokens <= 4096; tokens += tokens < 64 ? 1 : 61) {
        lora_problem some = problem;
        some.tokens = tokens;
        lora_forward_plan *some_forward = NULL;
        lora_backward_plan *some_backward = NULL;
        LORA(lora_forward_plan_new(&some, &device, &some_forward));
        LORA(lora_backward_plan_new(&some, &device, &some_backward));
        LORA(lora_forward_plan_info(some_forward, &info));
        CHECK(info.workspace_bytes <= forward_bound);
        LORA(lora_backward_plan_info(some_backward, &info));
        CHECK(info.workspace_bytes <= backward_bound);
        lora_forward_plan_free(some_forward);
        lora_backward_plan_free(some_backward);
    }
    FAILS(LORA_STATUS_NULL_ARGUMENT, "bytes is a null pointer",
          lora_forward_workspace_bound(&problem, 4096, &device, NULL));
    FAILS(LORA_STATUS_DIMENSION, "max_tokens is -5: it must not be negative",
          lora_backward_workspace_bound(&problem, (size_t)-5, &device, &backward_bound));

    // A size that no header ever had is a mistake, such as that of a pointer, and nothing is
    // written to it.
    lora_plan_info short_info;
    memset(&short_info, 0xFF, sizeof short_info);
    short_info.struct_size = sizeof(lora_plan_info *);
    FAILS(LORA_STATUS_STRUCT_SIZE, "sizeof(lora_plan_info), which is 72",
          lora_forward_plan_info(forward, &short_info));
    CHECK(short_info.launches == UINT32_MAX && short_info.saved_bytes == SIZE_MAX);

    // A program whose header knows more than this library, and doesn't use it.
    struct {
        lora_problem known;
        uint64_t unknown;
    } newer = {problem, 0};
    newer.known.struct_size = sizeof newer;
    lora_forward_plan *third = NULL;
    LORA(lora_forward_plan_new(&newer.known, &device, &third));
    CHECK(strcmp(lora_forward_plan_description(third), lora_forward_plan_description(forward)) ==
          0);
    newer.unknown = 1;
    lora_forward_plan *none = NULL;
    FAILS(LORA_STATUS_UNKNOWN_FIELDS, "newer library",
          lora_forward_plan_new(&newer.known, &device, &none));
    CHECK(none == NULL);

    lora_forward_plan_free(third);
    lora_forward_plan_free(forward);
    lora_backward_plan_free(backward);
    return 0;
}
