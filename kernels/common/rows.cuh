// Which adapters each row of x goes through: a table of adapters in device memory, and a list of
// its slots for every row. Both may change between launches, and between replays of a graph.
#pragma once
#include "common/params.cuh"

inline constexpr int kMaxRowAdapters = 4;  // in the list of a row

// Bits of AdapterEntry::flags.
inline constexpr uint32_t kEntryPresent = 1;      // the slot holds an adapter
inline constexpr uint32_t kEntryAVectorised = 2;  // of the tensors' type, and lora_A may be read 16
                                                  // bytes at a time
inline constexpr uint32_t kEntryBVectorised = 4;  // the same of lora_B

// One projection's part of an adapter. All zero where the slot is empty.
struct AdapterEntry {
    const void* lora_a;  // (rank, k)
    const void* lora_b;  // (n, rank)
    int64_t a_stride, b_stride;
    int32_t rank;  // 0 where the adapter leaves this projection alone
    float scaling;
    uint32_t flags;
    int32_t pad;
};

// S and T have a row for every row of x. Its columns are, projection by projection and for each
// place in the row's list, `s_rank` for the ranks of the adapter that stands there: column
// s_first[projection] + place * s_rank[projection] + rank. Those between an adapter's rank and the
// next multiple of 16 are zero, and no one reads those beyond.
struct RowAdapterParams {
    const AdapterEntry*
        entries;          // (slots, projections); null: `one` is slot 0, and all rows name it
    const int32_t* slot;  // (m, per_row); a negative one names none
    const float* weight;  // (m, per_row), by which deltas are multiplied; null: 1
    uint32_t* wrong;  // null, or becomes 1 where a row names a slot that is empty or doesn't exist
    int32_t slots, per_row;
    int32_t adapter_f32;
    int32_t s_stride;  // columns of S
    int32_t s_first[kMaxProjections];
    int32_t s_rank[kMaxProjections];  // a multiple of 16; 0 where no adapter has this projection
    AdapterEntry one[kMaxProjections];
};
