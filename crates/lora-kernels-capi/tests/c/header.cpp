// The header as C++, and before any other.
#include <type_traits>

#include "lora_kernels.h"

static_assert(std::is_standard_layout<lora_problem>::value, "structs are C's");
static_assert(std::is_same<decltype(lora_forward_args::x), uint64_t>::value,
              "device addresses are integers");

int main() {
    lora_device device = {};
    device.struct_size = sizeof device;
    lora_problem problem = {};
    problem.struct_size = sizeof problem;
    problem.dtype = LORA_DTYPE_BF16;
    problem.tokens = problem.in_features = 1;
    lora_forward_plan *plan = nullptr;
    bool known = lora_device_named("a100", &device) == LORA_STATUS_OK;
    return known && lora_forward_plan_new(&problem, &device, &plan) == LORA_STATUS_PROJECTIONS &&
                   plan == nullptr
               ? 0
               : 1;
}
