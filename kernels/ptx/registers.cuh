// setmaxnreg: registers move from warps that need few to warps that need many (PTX ISA,
// "Miscellaneous Instructions: setmaxnreg"). All warps of a warpgroup must execute it.
#pragma once

namespace ptx {

// Gives up all but `Count` registers per thread.
template <int Count>
__device__ __forceinline__ void release_registers() {
    static_assert(Count % 8 == 0 && Count >= 24 && Count <= 256, "what setmaxnreg takes");
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(Count));
}

// Waits until there are `Count` registers per thread.
template <int Count>
__device__ __forceinline__ void claim_registers() {
    static_assert(Count % 8 == 0 && Count >= 24 && Count <= 256, "what setmaxnreg takes");
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(Count));
}

}  // namespace ptx
