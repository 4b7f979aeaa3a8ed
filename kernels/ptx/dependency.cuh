// griddepcontrol: a launch that starts before the launch it depends on has ended (PTX ISA,
// "Parallel Synchronization and Communication Instructions: griddepcontrol"). Without the launch's
// attribute both do nothing.
#pragma once

namespace ptx {

// The dependent launch may start once all blocks have come here, or ended.
__device__ __forceinline__ void launch_dependents() {
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
}

// Waits until the earlier launch has ended, and sees all that it has written.
__device__ __forceinline__ void wait_for_earlier_launch() {
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
}

}  // namespace ptx
