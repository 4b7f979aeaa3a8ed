// What the functions that build.rs makes of kernels/table.toml need: the kinds of access, and the
// comparison of an entry with the kernel that is compiled for it.
#pragma once

// How a kernel reads its streamed operands: 16 bytes at a time with a weight that is (n, k) or, Kn,
// (k, n); or element by element, of any alignment and either weight.
enum class Access { kVectorised, kVectorisedKn, kAny };

// The table's number comes first, the kernel's second: where they differ, the compiler names both
// and the line of the entry.
namespace table {

template <int Stated, int Compiled>
constexpr bool threads_are() {
    static_assert(Stated == Compiled,
                  "`threads` in the table (Stated) is not what the kernel has (Compiled)");
    return true;
}

template <int Stated, int Compiled>
constexpr bool shared_is() {
    static_assert(Stated == Compiled,
                  "`shared` in the table (Stated) is not the bytes the kernel uses (Compiled)");
    return true;
}

template <int StatedRows, int CompiledRows, int StatedColumns, int CompiledColumns>
constexpr bool block_is() {
    static_assert(StatedRows == CompiledRows && StatedColumns == CompiledColumns,
                  "`block` in the table (Stated) is not what the kernel covers (Compiled)");
    return true;
}

}  // namespace table
