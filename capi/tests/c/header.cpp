// The header as C++, and before any other.
#include "lora_kernels.h"

#include <type_traits>

static_assert(std::is_standard_layout<lora_problem>::value, "structs are C's");
static_assert(std::is_same<decltype(lora_forward_args::x), uint64_t>::value, "device addresses are integers");

int main() {
    lora_device device = {};
    device.struct_size = sizeof device;
    lora_problem problem = {};
    problem.dtype = LORA_DTYPE_BF16;
    return lora_device_named("a100", &device) == LORA_STATUS_OK && lora_version() == LORA_VERSION ? 0 : 1;
}
