// wgmma: D (64, N) = A (64, 16) * B (16, N) + D by the four warps of a warpgroup, with 16-bit A and
// B in shared memory and f32 D in registers (PTX ISA, "Asynchronous Warpgroup Level Matrix
// Multiply- Accumulate Instructions").
//
// With w the warp of the warpgroup, d[j][e] is row 16 * w + lane / 4 + 8 * (e / 2), column
// 8 * j + 2 * (lane % 4) + e % 2.
//
// Products are asynchronous: between wgmma_k16 and the wgmma_wait that covers it, nothing but other
// products may touch their D, and their A and B have to stay.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace ptx {

// Where an operand lies, with its rows of 128 bytes in the 128-byte swizzle. Eight rows are an atom
// of 1024 bytes, at a multiple of that. K-major: a row has 64 of the depth; atoms follow each other
// along M or N after `stride_bytes`; `leading_bytes` counts for nothing. MN-major: a row has 64
// along M or N; atoms follow each other along the depth after `stride_bytes`, and along M or N
// after `leading_bytes`.
//
// This is the half of a descriptor that says where; it moves on by as many sixteenths as bytes.
__device__ __forceinline__ uint32_t wgmma_start(uint32_t shared, int leading_bytes) {
    return (shared & 0x3ffff) >> 4 | static_cast<uint32_t>(leading_bytes) >> 4 << 16;
}
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t start, int stride_bytes) {
    constexpr uint32_t kSwizzle128 = 1u << 30;
    const uint32_t high = static_cast<uint32_t>(stride_bytes) >> 4 | kSwizzle128;
    return static_cast<uint64_t>(high) << 32 | start;
}

// Orders this warp's accesses to the registers of sums before the products that follow.
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}

// Closes the group of the products before it.
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

// Waits until at most `Pending` of the youngest groups are still under way.
template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(Pending) : "memory");
}

// The types and the number of columns stand in an instruction's text, and every register of D is
// an operand of its own. So the text is put together by macros, here only.
#define LORA_QUAD(d) "+f"((d)[0]), "+f"((d)[1]), "+f"((d)[2]), "+f"((d)[3])
#define LORA_QUADS(d, j)                                                                    \
    LORA_QUAD((d)[j]), LORA_QUAD((d)[j + 1]), LORA_QUAD((d)[j + 2]), LORA_QUAD((d)[j + 3]), \
        LORA_QUAD((d)[j + 4]), LORA_QUAD((d)[j + 5]), LORA_QUAD((d)[j + 6]), LORA_QUAD((d)[j + 7])
#define LORA_SUMS_32                                               \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11"             \
    ", %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23" \
    ", %24, %25, %26, %27, %28, %29, %30, %31"
#define LORA_SUMS_64                                               \
    LORA_SUMS_32                                                   \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43" \
    ", %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55" \
    ", %56, %57, %58, %59, %60, %61, %62, %63"
#define LORA_SUMS_128                                              \
    LORA_SUMS_64                                                   \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73"           \
    ", %74, %75, %76, %77, %78, %79, %80, %81, %82, %83"           \
    ", %84, %85, %86, %87, %88, %89, %90, %91, %92, %93"           \
    ", %94, %95, %96, %97, %98, %99, %100, %101, %102, %103"       \
    ", %104, %105, %106, %107, %108, %109, %110, %111, %112, %113" \
    ", %114, %115, %116, %117, %118, %119, %120, %121, %122, %123" \
    ", %124, %125, %126, %127"
#define LORA_WGMMA(columns, type, sums, a, b, add, trans_b, ...)                               \
    asm volatile(                                                                              \
        "{\n"                                                                                  \
        ".reg .pred add;\n"                                                                    \
        "setp.ne.b32 add, " add                                                                \
        ", 0;\n"                                                                               \
        "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type " {" sums "}, " a \
        ", " b ", add, 1, 1, 0, " trans_b                                                      \
        ";\n"                                                                                  \
        "}\n"                                                                                  \
        : __VA_ARGS__                                                                          \
        : "l"(a_descriptor), "l"(b_descriptor), "r"(add_to_d), "n"(BTransposed ? 1 : 0))
#define LORA_WGMMA_N64(type) \
    LORA_WGMMA("64", type, LORA_SUMS_32, "%32", "%33", "%34", "%35", LORA_QUADS(d, 0))
#define LORA_WGMMA_N128(type)                                                           \
    LORA_WGMMA("128", type, LORA_SUMS_64, "%64", "%65", "%66", "%67", LORA_QUADS(d, 0), \
               LORA_QUADS(d, 8))
#define LORA_WGMMA_N256(type)                                                                \
    LORA_WGMMA("256", type, LORA_SUMS_128, "%128", "%129", "%130", "%131", LORA_QUADS(d, 0), \
               LORA_QUADS(d, 8), LORA_QUADS(d, 16), LORA_QUADS(d, 24))

// D = A * B, plus D where `add_to_d` is not 0. A is K-major; B is, too, unless `BTransposed`.
template <typename T, bool BTransposed, int Octets>
__device__ __forceinline__ void wgmma_k16(float (&d)[Octets][4], uint64_t a_descriptor,
                                          uint64_t b_descriptor, int add_to_d) {
    constexpr bool kHalf = std::is_same_v<T, __half>;
    static_assert(kHalf || std::is_same_v<T, __nv_bfloat16>, "16-bit elements");
    static_assert(Octets == 8 || Octets == 16 || Octets == 32, "64, 128 or 256 columns");
    if constexpr (Octets == 8 && kHalf) {
        LORA_WGMMA_N64("f16");
    } else if constexpr (Octets == 8) {
        LORA_WGMMA_N64("bf16");
    } else if constexpr (Octets == 16 && kHalf) {
        LORA_WGMMA_N128("f16");
    } else if constexpr (Octets == 16) {
        LORA_WGMMA_N128("bf16");
    } else if constexpr (kHalf) {
        LORA_WGMMA_N256("f16");
    } else {
        LORA_WGMMA_N256("bf16");
    }
}

#undef LORA_WGMMA_N256
#undef LORA_WGMMA_N128
#undef LORA_WGMMA_N64
#undef LORA_WGMMA
#undef LORA_SUMS_128
#undef LORA_SUMS_64
#undef LORA_SUMS_32
#undef LORA_QUADS
#undef LORA_QUAD

}  // namespace ptx
