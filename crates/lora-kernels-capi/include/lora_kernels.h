// C ABI of lora-kernels: CUDA kernels for linear layers with low-rank adapters (LoRA).
//
//   forward    y  = x*W^T + bias + s*drop(x)*A^T*B^T
//   backward   dx = dy*W + mask o (s*dy*B*A)/(1-p)
//              dA = (s*dy*B)^T*drop(x)
//              dB = s*dy^T*(drop(x)*A^T)
//   merge      W += sum of s*B*A
//
// Made by cbindgen from src/, checked by tests/c/header.rs. How to build, link and use the library:
// README.md.
//
// Structs. Each starts with struct_size: set it to sizeof of the struct, and what you don't need to
// zero, which is the default of every field that has one. A program compiled with an older header
// gives a smaller struct: the fields it lacks count as zero. A smaller size that no published
// header had is refused. A program compiled with a newer header gives a larger struct: it is
// refused unless the fields that this library doesn't know are zero, and if it is more than twice
// as large. A struct that a function fills in must have the size of a published header that this
// library knows: nothing is written into another, or behind it. Elements of an array all have the
// same struct_size, and lie that far apart. A uint32_t that says yes or no is 1 or 0, anything else
// is refused. So is a negative number that C has converted to a size_t.
//
// Pointers. Structs, arrays and results may lie at any address, aligned or not. That there is
// memory behind a pointer can't be checked: one that isn't null must be valid.
//
// Handles. lora_kernels and plans are handles: not addresses, but numbers that the library looks
// up. One that is freed, of another kind, or of another version or copy of the library is refused
// with LORA_STATUS_HANDLE, and so is a pointer to anything else. A freed handle is refused for as
// long as the program runs (until 2^32 others have been made). What a call in another thread uses
// while it is freed lives until that call returns.
//
// Versions. A program runs with every library whose LORA_VERSION agrees with that of its header in
// major and minor. Between patches, structs that functions fill in stay as large as they are, and
// others only grow. The shared library's soname is liblora_kernels.so.MAJOR.MINOR, so the loader
// gives a program no other.
//
// Errors. A function that returns lora_status returns LORA_STATUS_OK, which is 0, or a number that
// never changes its meaning. lora_last_error() then has a sentence on what was given, what is
// allowed and what to do, until the thread's next call that fails or the thread's end. Every
// argument is checked before anything is launched.
//
// Memory on the device is the caller's: no function allocates any after lora_kernels_load. Matrices
// are row-major, columns contiguous. Device addresses are uint64_t, as CUdeviceptr; from a pointer
// of the CUDA runtime, (uint64_t)(uintptr_t)pointer.
//
// Threads. All functions may be called from any thread at any time, also with the same handle or
// plan. A call that is under way while another thread frees what it uses goes on as if that had not
// been freed, and frees it when it returns. lora_last_error() is the calling thread's. Every
// function leaves the calling thread's current CUDA context as it was.


#ifndef LORA_KERNELS_H
#define LORA_KERNELS_H

#include <stddef.h>
#include <stdint.h>

// Of this header: major << 16 | minor << 8 | patch. Numbers and layouts stay as they are where
// major and minor do.
#define LORA_VERSION 256

// As many projections as can share x.
#define LORA_MAX_PROJECTIONS 8

// What the addresses of saved, workspace and report must be a multiple of, in bytes.
#define LORA_BUFFER_ALIGNMENT 16

// As many adapters as one call merges.
#define LORA_MAX_ADAPTERS 8

// Bytes of a report in device memory.
#define LORA_MERGE_REPORT_BYTES 48

// What became of a call. The numbers are fixed. From 100 on they are the C ABI's own; those below
// are of the library's computations.
enum lora_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Done, or enqueued.
    LORA_STATUS_OK = 0,
    // A size of zero or too large.
    LORA_STATUS_DIMENSION = 1,
    // No projection, or more than LORA_MAX_PROJECTIONS.
    LORA_STATUS_PROJECTIONS = 2,
    // No projection has a rank.
    LORA_STATUS_NOT_ADAPTED = 3,
    // A projection that the problem doesn't have.
    LORA_STATUS_NO_PROJECTION = 4,
    // A type that the adapters can't have.
    LORA_STATUS_ADAPTER_DTYPE = 5,
    // A tensor that can't be accumulated into.
    LORA_STATUS_ACCUMULATE = 6,
    // A row stride that makes rows overlap or offsets overflow.
    LORA_STATUS_STRIDE = 7,
    // A layout with an impossible alignment.
    LORA_STATUS_LAYOUT_ALIGNMENT = 8,
    // A dropout probability outside [0, 1).
    LORA_STATUS_DROPOUT_PROBABILITY = 9,
    // A scaling that is not finite.
    LORA_STATUS_SCALING = 10,
    // The device lacks what the kernels need.
    LORA_STATUS_DEVICE = 11,
    // A grid larger than a launch can have.
    LORA_STATUS_GRID = 12,
    // A matrix of another shape than the plan's.
    LORA_STATUS_SHAPE = 13,
    // A row stride other than the plan's.
    LORA_STATUS_PLANNED_STRIDE = 14,
    // A buffer too small for its matrix.
    LORA_STATUS_BOUNDS = 15,
    // A device address less aligned than the plan was made for.
    LORA_STATUS_ALIGNMENT = 16,
    // Elements of another type than the plan's.
    LORA_STATUS_PLANNED_DTYPE = 17,
    // An optional argument that disagrees with the plan: given without being planned, or planned
    // and not given.
    LORA_STATUS_OPTIONAL = 18,
    // Another number of projections than the plan's.
    LORA_STATUS_PROJECTION_COUNT = 19,
    // A saved, workspace or report buffer that is too small.
    LORA_STATUS_BUFFER = 20,
    // A saved, workspace or report buffer at a misaligned address.
    LORA_STATUS_BUFFER_ALIGNMENT = 21,
    // A device address of 0.
    LORA_STATUS_NULL = 22,
    // A stream or buffer of another CUDA context.
    LORA_STATUS_CONTEXT = 23,
    // No CUDA driver on this machine.
    LORA_STATUS_NO_DRIVER = 24,
    // The library was built without its kernels.
    LORA_STATUS_KERNELS_NOT_BUILT = 25,
    // A CUDA driver call failed: see lora_last_cuda_result().
    LORA_STATUS_DRIVER = 26,
    // No adapter to merge, or more than LORA_MAX_ADAPTERS.
    LORA_STATUS_ADAPTERS = 27,
    // An adapter that the merge doesn't have.
    LORA_STATUS_NO_ADAPTER = 28,
    // A tensor that the problem does not have.
    LORA_STATUS_NO_PART = 29,
    // A merge in place of a plan that has another layout for the result.
    LORA_STATUS_IN_PLACE = 30,
    // Another number of adapters than the plan's.
    LORA_STATUS_ADAPTER_COUNT = 31,
    // No kernel of the library does it.
    LORA_STATUS_NO_KERNEL = 32,
    // A type that a tensor can't have beside those of the others.
    LORA_STATUS_FORMAT = 33,
    // A matrix of another shape than the other arguments ask for.
    LORA_STATUS_FIT = 34,
    // Some projections with a bias and some without.
    LORA_STATUS_SOME_BIASES = 35,
    // A backward that is not the one of its forward: other sizes, types, dropout or scalings.
    LORA_STATUS_OTHER_FORWARD = 36,
    // A plan made for another device than the handle's.
    LORA_STATUS_OTHER_DEVICE = 37,
    // An output that shares memory with an input or another output.
    LORA_STATUS_OVERLAP = 38,
    // A device address at which a tensor or buffer would reach beyond the last address.
    LORA_STATUS_ADDRESS_RANGE = 39,
    // A dropout mask that can't begin there.
    LORA_STATUS_MASK_ORIGIN = 40,
    // Dropout from device memory at an address, or with an offset, that can't be.
    LORA_STATUS_DROPOUT_WORDS = 41,
    // Fewer or more adapters per row than a list has places.
    LORA_STATUS_ROW_ADAPTERS = 42,
    // A rank that no adapter of the table can have.
    LORA_STATUS_TABLE_RANK = 43,
    // A row stride that no adapter of the table can have.
    LORA_STATUS_TABLE_STRIDE = 44,
    // An error of a kind that has no number of its own yet.
    LORA_STATUS_OTHER = 99,
    // A null pointer to host memory.
    LORA_STATUS_NULL_ARGUMENT = 100,
    // A struct_size that can't be right, or differs between the elements of an array.
    LORA_STATUS_STRUCT_SIZE = 101,
    // A struct larger than this library's, with something in what it doesn't know.
    LORA_STATUS_UNKNOWN_FIELDS = 102,
    // A number that is none of an enum's.
    LORA_STATUS_ENUMERATION = 103,
    // A yes or no that is neither 1 nor 0.
    LORA_STATUS_FLAG = 104,
    // Something other than 0 in a reserved field.
    LORA_STATUS_RESERVED = 105,
    // More layouts than there are tensors.
    LORA_STATUS_LAYOUTS = 106,
    // A negative device ordinal.
    LORA_STATUS_ORDINAL = 107,
    // A device name that is not known.
    LORA_STATUS_DEVICE_NAME = 108,
    // saved given as one buffer and as two.
    LORA_STATUS_SAVED_TWICE = 109,
    // A pointer that is no handle of the kind asked for: of another kind, freed, of another
    // version or copy of the library, or none at all.
    LORA_STATUS_HANDLE = 110,
    // A bug in the library. No handle or plan was made; of a forward, backward or merge, a part
    // may have been launched.
    LORA_STATUS_INTERNAL = 199,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lora_status lora_status;
#else
typedef int32_t lora_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// An element type.
enum lora_dtype
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // IEEE 754 binary16.
    LORA_DTYPE_F16 = 1,
    // bfloat16: f32's exponent, 8 bits of significand.
    LORA_DTYPE_BF16 = 2,
    // IEEE 754 binary32.
    LORA_DTYPE_F32 = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lora_dtype lora_dtype;
#else
typedef uint32_t lora_dtype;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What a tensor is in a layer. Shapes, row-major: M = tokens, K = in_features, N = out_features,
// r = rank.
enum lora_role
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Input, (M, K).
    LORA_ROLE_X = 0,
    // Base weight W, (N, K), or (K, N) as LORA_WEIGHT_LAYOUT_IN_OUT.
    LORA_ROLE_WEIGHT = 1,
    // lora_A, (r, K).
    LORA_ROLE_LORA_A = 2,
    // lora_B, (N, r).
    LORA_ROLE_LORA_B = 3,
    // Output, (M, N).
    LORA_ROLE_Y = 4,
    // Gradient of the output, (M, N).
    LORA_ROLE_DY = 5,
    // Gradient of the input, (M, K).
    LORA_ROLE_DX = 6,
    // Gradient of lora_A, (r, K).
    LORA_ROLE_D_LORA_A = 7,
    // Gradient of lora_B, (N, r).
    LORA_ROLE_D_LORA_B = 8,
    // Bias, (N).
    LORA_ROLE_BIAS = 9,
    // Merged weight W + sum of scaling*B*A, in the shape of the weight.
    LORA_ROLE_MERGED = 10,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lora_role lora_role;
#else
typedef uint32_t lora_role;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Where backward finds which elements of x the dropout has kept.
enum lora_mask
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // In saved, one bit per element of x, where forward has stored it.
    LORA_MASK_STORED = 0,
    // Nowhere: it is drawn again, for arithmetic instead of memory.
    LORA_MASK_REDRAWN = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lora_mask lora_mask;
#else
typedef uint32_t lora_mask;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Which way round the base weight is stored. The adapters' matrices are (r, K) and (N, r) in
// either case.
enum lora_weight_layout
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // (out_features, in_features), as torch.nn.Linear has it.
    LORA_WEIGHT_LAYOUT_OUT_IN = 0,
    // (in_features, out_features), as GPT-2's Conv1D has it: PEFT's fan_in_fan_out.
    LORA_WEIGHT_LAYOUT_IN_OUT = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum lora_weight_layout lora_weight_layout;
#else
typedef uint32_t lora_weight_layout;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What a backward launches, as lora_forward_plan.
typedef struct lora_backward_plan lora_backward_plan;

// What a forward launches. It is made once, for any number of calls, and belongs to no handle.
typedef struct lora_forward_plan lora_forward_plan;

// All kernels, loaded into the primary context of a device. There may be several for one device.
typedef struct lora_kernels lora_kernels;

// What a merge launches, as lora_forward_plan.
typedef struct lora_merge_plan lora_merge_plan;

// What a plan needs to know of a device: asked of a handle by lora_kernels_device, looked up by
// lora_device_named, or filled in by hand.
typedef struct lora_device {
    // sizeof(lora_device)
    uint32_t struct_size;
    // Major compute capability, at least 8.
    uint32_t compute_major;
    // Minor compute capability.
    uint32_t compute_minor;
    // Streaming multiprocessors; 0 counts as 1.
    uint32_t multiprocessors;
    // Shared memory that one block may use after opting in, bytes.
    uint32_t shared_per_block;
    // Shared memory that the blocks of a multiprocessor have together, bytes.
    uint32_t shared_per_multiprocessor;
    // Size of the L2 cache, bytes.
    uint64_t l2_bytes;
    // Streaming multiprocessors that plans count on, where others use the device too. 0: all. A
    // plan runs on devices that agree with its own in everything but this.
    uint32_t planned_multiprocessors;
    // 0
    uint32_t reserved;
} lora_device;

// One linear layer of those that share x.
typedef struct lora_projection {
    // sizeof(lora_projection)
    uint32_t struct_size;
    // 0
    uint32_t reserved;
    // Columns of y: N.
    size_t out_features;
    // Rank of the adapter: r. 0 where the layer has none; at least one layer has one.
    size_t rank;
} lora_projection;

// How one matrix lies in memory, where it isn't contiguous and 16-byte aligned.
typedef struct lora_layout {
    // sizeof(lora_layout)
    uint32_t struct_size;
    // A lora_role.
    uint32_t role;
    // Which projection's, or in a merge which adapter's, counted from 0; of no meaning for x and
    // dx, and in a merge for weight and merged.
    size_t index;
    // Elements from the start of one row to the start of the next, at least the number of columns.
    // 0: the number of columns.
    int64_t row_stride;
    // What the address of the first element is a multiple of, in bytes: a power of two, at least
    // the element's size. 0: 16, but an element's size for bias, d_lora_A and d_lora_B, and in a
    // merge for lora_A and lora_B, where more is of no use. A plan made for 16 can choose the fast
    // kernels; an address that turns out less aligned is refused.
    size_t alignment;
} lora_layout;

// Adapted linear layers applied to a batch of tokens: one, or several that share x.
typedef struct lora_problem {
    // sizeof(lora_problem)
    uint32_t struct_size;
    // A lora_dtype: of every tensor but the adapters' matrices and gradients. It has no default.
    uint32_t dtype;
    // Rows of x: M. Without any, y is empty and the gradients of the adapters are 0.
    size_t tokens;
    // Columns of x: K.
    size_t in_features;
    // The layers that share x.
    const struct lora_projection *projections;
    // How many: 1 to LORA_MAX_PROJECTIONS.
    size_t projection_count;
    // A lora_dtype: of lora_A, lora_B and their gradients, dtype or LORA_DTYPE_F32. 0: as dtype.
    uint32_t adapter_dtype;
    // A lora_weight_layout, of all weights.
    uint32_t weight_layout;
    // 1: a bias is added to every y.
    uint32_t bias;
    // 1: the adapters' input goes through dropout, all of them under the same mask.
    uint32_t dropout;
    // A lora_mask.
    uint32_t mask;
    // 1: backward computes no dx.
    uint32_t no_input_gradient;
    // 1: y is added to what its memory holds, in f32 and rounded once. 0: it is overwritten.
    uint32_t accumulate_y;
    // 1: dx is added to.
    uint32_t accumulate_dx;
    // 1: d_lora_A is added to, in all projections.
    uint32_t accumulate_d_lora_a;
    // 1: d_lora_B is added to, in all projections.
    uint32_t accumulate_d_lora_b;
    // Layouts of matrices that aren't contiguous and 16-byte aligned. The last one for a matrix
    // holds.
    const struct lora_layout *layouts;
    // How many; may be 0.
    size_t layout_count;
    // 1: no backward follows, so forward saves nothing. Up to 64 tokens take one launch then.
    uint32_t inference;
    // 1: the bits of a row of y depend on nothing but this row, its adapters and the weights.
    uint32_t batch_invariant;
    // 1: the adapters' part alone, without the base product: y is added to, and the weights are
    // not read. Set accumulate_y too.
    uint32_t delta_only;
    // 1: lora_dropout's seed is the device address of two uint64_t, seed and offset, at a multiple
    // of 8, and its offset is 0. So a replayed graph draws the mask of what stands there then.
    uint32_t dropout_from_memory;
    // First row (token) of this problem's dropout mask in that of the whole layer, of which this
    // is a shard.
    uint64_t mask_row;
    // First column of x in the mask of the whole layer: a multiple of 8.
    uint64_t mask_column;
    // 0: each projection has the adapter of the call. Otherwise the slots of the table that
    // lora_rows names; the rank of a projection is the largest that an adapter may have there.
    size_t adapter_slots;
    // The most adapters that a row goes through, 1 to 4. 0 exactly if adapter_slots is 0.
    size_t adapters_per_row;
} lora_problem;

// The memory that calls with a plan need.
typedef struct lora_plan_info {
    // sizeof(lora_plan_info)
    uint32_t struct_size;
    // Kernels that a call launches.
    uint32_t launches;
    // Bytes of the buffer that carries S and the dropout mask from forward to backward. A forward
    // needs it without a backward too, a merge has none.
    size_t saved_bytes;
    // Bytes of scratch memory; may be 0. Neither buffer needs initialising, and nothing of this
    // one is needed after the call.
    size_t workspace_bytes;
    // Columns of S: the ranks of all projections, each rounded up to 16.
    size_t padded_ranks;
    // Where in saved S = drop(x)*A^T lies, in bytes: (tokens, padded_ranks) in the
    // problem's dtype, rows contiguous.
    size_t s_offset;
    // Bytes of S.
    size_t s_bytes;
    // Where in saved the dropout mask lies, in bytes: 64-bit words (ceil(in_features / 64),
    // tokens); bit c of word (b, row) is set where x (row, 64*b + c) is kept, and clear beyond the
    // last column.
    size_t mask_offset;
    // Bytes of the mask; 0 if none is stored.
    size_t mask_bytes;
    // Bytes of a forward's flags; may be 0.
    size_t flags_bytes;
} lora_plan_info;

// One projection of lora_forward_args.
typedef struct lora_forward_projection {
    // sizeof(lora_forward_projection)
    uint32_t struct_size;
    // lora_alpha / rank, or lora_alpha / sqrt(rank) for rsLoRA; of no meaning where the rank is 0.
    float scaling;
    // (out_features, in_features), or transposed as the problem says.
    uint64_t weight;
    // (out_features), 0 where the problem has none.
    uint64_t bias;
    // (rank, in_features), 0 where the rank is.
    uint64_t lora_a;
    // (out_features, rank), 0 where the rank is.
    uint64_t lora_b;
    // Out: (tokens, out_features).
    uint64_t y;
} lora_forward_projection;

// Dropout on the adapters' input: each element of x is zeroed with probability p, the others
// divided by 1 - p. The base product sees x undropped. The mask is a function of seed, offset, row
// and column alone (Philox4x32-10): the same on every run, device and tiling. Draw a new one by
// changing offset, say to the training step.
typedef struct lora_dropout {
    // sizeof(lora_dropout)
    uint32_t struct_size;
    // Probability in [0, 1). Rounded to a multiple of 2^-16, and 1 / (1 - p) is taken of the
    // rounded value.
    float p;
    // Philox key.
    uint64_t seed;
    // High half of the Philox counter.
    uint64_t offset;
} lora_dropout;

// What a forward was, for lora_backward_args: a backward with other sizes, types, dropout or
// scalings would read saved as something else than it holds.
//
// lora_forward fills it in. It can't tell whether x, lora_A or what saved holds has changed since:
// no call reads device memory on the host.
typedef struct lora_forward_record {
    // sizeof(lora_forward_record)
    uint32_t struct_size;
    // A lora_dtype: of every tensor but the adapters' matrices and gradients.
    uint32_t dtype;
    // A lora_dtype: of the adapters' matrices and gradients.
    uint32_t adapter_dtype;
    // A lora_mask.
    uint32_t mask;
    // 1: with dropout.
    uint32_t dropout;
    // Dropout probability.
    float p;
    // Philox key.
    uint64_t seed;
    // High half of the Philox counter.
    uint64_t offset;
    // Rows of x: M.
    size_t tokens;
    // Columns of x: K.
    size_t in_features;
    // Projections that share x.
    size_t projection_count;
    // Of each projection.
    size_t out_features[LORA_MAX_PROJECTIONS];
    // Of each projection; 0 where it has no adapter.
    size_t rank[LORA_MAX_PROJECTIONS];
    // Of each projection; 0 where it has no adapter.
    float scaling[LORA_MAX_PROJECTIONS];
    // 1: seed is the device address of seed and offset.
    uint32_t dropout_from_memory;
    // 0
    uint32_t reserved;
    // First row of the mask in that of the whole layer.
    uint64_t mask_row;
    // First column of it.
    uint64_t mask_column;
    // Places in the list of a row; 0 without a table of adapters.
    size_t adapters_per_row;
} lora_forward_record;

// The adapters that the rows of a call go through. All of it is device memory, and may change
// between calls, and between replays of a graph.
typedef struct lora_rows {
    // sizeof(lora_rows)
    uint32_t struct_size;
    // 0
    uint32_t reserved;
    // The table, (adapter_slots, projections) of what lora_table_entry_of makes, rows contiguous,
    // at a multiple of 8. Zeros are an empty slot.
    uint64_t entries;
    // (tokens, adapters_per_row) of int32_t: the slots of each row's adapters, negative for none.
    uint64_t slots;
    // (tokens, adapters_per_row) of float: what the deltas are multiplied by; 0 for 1 everywhere.
    uint64_t weights;
    // 0, or a uint32_t that becomes 1 where a row names a slot that is empty or doesn't exist.
    // Such a row has no adapter there.
    uint64_t wrong;
    // Of a backward: where the gradients of each entry go, (adapter_slots, projections) of what
    // lora_gradient_entry_of makes, at a multiple of 8; of a forward 0. Zeros are an entry whose
    // gradients nobody wants.
    uint64_t gradients;
} lora_rows;

// Device addresses and numbers of a forward. Shapes, strides and alignments are those of the
// plan's problem.
typedef struct lora_forward_args {
    // sizeof(lora_forward_args)
    uint32_t struct_size;
    // 0
    uint32_t reserved;
    // (tokens, in_features).
    uint64_t x;
    // As many as the problem has.
    const struct lora_forward_projection *projections;
    // How many.
    size_t projection_count;
    // Null exactly if the problem has no dropout.
    const struct lora_dropout *dropout;
    // Out: S and the dropout mask, for backward. A multiple of LORA_BUFFER_ALIGNMENT; 0 where they
    // are in two buffers, or the plan's saved_bytes is 0.
    uint64_t saved;
    // Bytes of saved: at least the plan's saved_bytes.
    size_t saved_bytes;
    // Scratch, at a multiple of LORA_BUFFER_ALIGNMENT; may be 0 if the plan's workspace_bytes is.
    uint64_t workspace;
    // Bytes of workspace: at least the plan's workspace_bytes.
    size_t workspace_bytes;
    // Instead of saved, which is 0 then: S in a buffer of its own, at a multiple of
    // LORA_BUFFER_ALIGNMENT.
    uint64_t saved_s;
    // Bytes of saved_s: at least the plan's s_bytes.
    size_t saved_s_bytes;
    // With saved_s, and exactly if the plan's mask_bytes isn't 0: the mask in a buffer of its own,
    // at a multiple of LORA_BUFFER_ALIGNMENT.
    uint64_t saved_mask;
    // Bytes of saved_mask: at least the plan's mask_bytes.
    size_t saved_mask_bytes;
    // Out: what this forward was, its struct_size set. Null: not wanted.
    struct lora_forward_record *record;
    // Words that are zero before the first call that is given them; every call leaves them zero. A
    // multiple of LORA_BUFFER_ALIGNMENT; may be 0 if the plan's flags_bytes is. Calls that may run
    // at the same time need flags of their own.
    uint64_t flags;
    // Bytes of flags: at least the plan's flags_bytes.
    size_t flags_bytes;
    // The adapters of each row. Null exactly if the problem's adapter_slots is 0; no projection
    // has lora_a and lora_b otherwise.
    const struct lora_rows *rows;
} lora_forward_args;

// One projection of lora_backward_args.
typedef struct lora_backward_projection {
    // sizeof(lora_backward_projection)
    uint32_t struct_size;
    // As in forward.
    float scaling;
    // (tokens, out_features).
    uint64_t dy;
    // (out_features, in_features), or transposed as the problem says.
    uint64_t weight;
    // (rank, in_features), 0 where the rank is.
    uint64_t lora_a;
    // (out_features, rank), 0 where the rank is.
    uint64_t lora_b;
    // Out: (rank, in_features), 0 where the rank is.
    uint64_t d_lora_a;
    // Out: (out_features, rank), 0 where the rank is.
    uint64_t d_lora_b;
} lora_backward_projection;

// Device addresses and numbers of a backward. Shapes, strides and alignments are those of the
// plan's problem.
typedef struct lora_backward_args {
    // sizeof(lora_backward_args)
    uint32_t struct_size;
    // 0
    uint32_t reserved;
    // (tokens, in_features).
    uint64_t x;
    // As many as the problem has.
    const struct lora_backward_projection *projections;
    // How many.
    size_t projection_count;
    // As in forward.
    const struct lora_dropout *dropout;
    // What the forward of the same problem and inputs saved.
    uint64_t saved;
    // Bytes of saved: at least the plan's saved_bytes.
    size_t saved_bytes;
    // Out: (tokens, in_features), 0 where the problem has no input gradient.
    uint64_t dx;
    // Scratch, at a multiple of LORA_BUFFER_ALIGNMENT; may be 0 if the plan's workspace_bytes is.
    uint64_t workspace;
    // Bytes of workspace: at least the plan's workspace_bytes.
    size_t workspace_bytes;
    // Instead of saved, which is 0 then: S in a buffer of its own, at a multiple of
    // LORA_BUFFER_ALIGNMENT.
    uint64_t saved_s;
    // Bytes of saved_s: at least the plan's s_bytes.
    size_t saved_s_bytes;
    // With saved_s, and exactly if the plan's mask_bytes isn't 0: the mask in a buffer of its own,
    // at a multiple of LORA_BUFFER_ALIGNMENT.
    uint64_t saved_mask;
    // Bytes of saved_mask: at least the plan's mask_bytes.
    size_t saved_mask_bytes;
    // What forward filled in: a backward that doesn't fit it is refused. Null: nobody checks.
    const struct lora_forward_record *record;
    // The adapters of each row, as in forward, and where their gradients go. Null exactly if the
    // problem's adapter_slots is 0; no projection has adapters or gradients otherwise.
    const struct lora_rows *rows;
} lora_backward_args;

// An adapter of a table in one projection.
typedef struct lora_table_adapter {
    // sizeof(lora_table_adapter)
    uint32_t struct_size;
    // lora_alpha / rank, or lora_alpha / sqrt(rank) for rsLoRA.
    float scaling;
    // From 1 to the projection's in the problem; 0: the adapter leaves the projection alone.
    size_t rank;
    // (rank, in_features), a device address.
    uint64_t lora_a;
    // (out_features, rank), a device address.
    uint64_t lora_b;
    // Elements from a row of lora_A to the next; 0: in_features.
    int64_t lora_a_stride;
    // Elements from a row of lora_B to the next; 0: rank.
    int64_t lora_b_stride;
} lora_table_adapter;

// An entry of a table, as it stands in device memory. lora_table_entry_of makes it.
typedef struct lora_table_entry {
    // Copy them as they are.
    uint64_t words[6];
} lora_table_entry;

// Where the gradients of an adapter of a table go in one projection.
typedef struct lora_table_gradients {
    // sizeof(lora_table_gradients)
    uint32_t struct_size;
    // 0
    uint32_t reserved;
    // The adapter's rank in the projection; 0: nobody wants gradients there.
    size_t rank;
    // Out: (rank, in_features), a device address.
    uint64_t d_lora_a;
    // Out: (out_features, rank), a device address.
    uint64_t d_lora_b;
    // Elements from a row of d_lora_A to the next; 0: in_features.
    int64_t d_lora_a_stride;
    // Elements from a row of d_lora_B to the next; 0: rank.
    int64_t d_lora_b_stride;
} lora_table_gradients;

// An entry of a table of gradients, as it stands in device memory. lora_gradient_entry_of makes
// it.
typedef struct lora_gradient_entry {
    // Copy them as they are.
    uint64_t words[4];
} lora_gradient_entry;

// Adding adapters to a base weight: merged = W + sum of scaling*B*A, summed in f32 and rounded
// once. A negative scaling takes an adapter out again.
typedef struct lora_merge_problem {
    // sizeof(lora_merge_problem)
    uint32_t struct_size;
    // A lora_dtype: of the weight and the merged one. It has no default.
    uint32_t dtype;
    // Outputs of the layer: N.
    size_t out_features;
    // Inputs of the layer: K.
    size_t in_features;
    // The adapters' ranks.
    const size_t *ranks;
    // How many adapters: 1 to LORA_MAX_ADAPTERS.
    size_t adapter_count;
    // A lora_dtype: of lora_A and lora_B, dtype or LORA_DTYPE_F32. 0: as dtype.
    uint32_t adapter_dtype;
    // A lora_weight_layout, of the weight and the merged one.
    uint32_t weight_layout;
    // 1: nothing is written if a merged element would be a NaN or an infinity. It takes two more
    // launches, and a report, which tells.
    uint32_t safe;
    // 1: a report is written, by one more launch. A safe merge has one always.
    uint32_t report;
    // Layouts of weight, merged, lora_A or lora_B that aren't contiguous and 16-byte aligned. The
    // weight's is the merged one's too, unless a later one says otherwise.
    const struct lora_layout *layouts;
    // How many; may be 0.
    size_t layout_count;
} lora_merge_problem;

// One adapter of lora_merge_args.
typedef struct lora_merge_adapter {
    // sizeof(lora_merge_adapter)
    uint32_t struct_size;
    // lora_alpha / rank or lora_alpha / sqrt(rank), times the adapter's own weight among several;
    // negative to take it out.
    float scaling;
    // (rank, in_features).
    uint64_t lora_a;
    // (out_features, rank).
    uint64_t lora_b;
} lora_merge_adapter;

// Device addresses and numbers of a merge. Shapes, strides and alignments are those of the plan's
// problem.
typedef struct lora_merge_args {
    // sizeof(lora_merge_args)
    uint32_t struct_size;
    // 0
    uint32_t reserved;
    // (out_features, in_features), or transposed as the problem says.
    uint64_t weight;
    // Out: as the weight; the weight's own address to merge in place, else apart from it.
    uint64_t merged;
    // As many as the problem has.
    const struct lora_merge_adapter *adapters;
    // How many.
    size_t adapter_count;
    // Out: for lora_merge_report_read once it is copied to the host; 0 where the problem has no
    // report.
    uint64_t report;
    // Bytes of report: at least LORA_MERGE_REPORT_BYTES.
    size_t report_bytes;
    // Scratch; may be 0 where the plan's workspace_bytes is.
    uint64_t workspace;
    // Bytes of workspace: at least the plan's workspace_bytes.
    size_t workspace_bytes;
} lora_merge_args;

// What merging changed, and what storing the result in the weight's type lost of it.
typedef struct lora_merge_report {
    // sizeof(lora_merge_report)
    uint32_t struct_size;
    // 0
    uint32_t reserved;
    // Elements of the weight.
    uint64_t elements;
    // Elements with a delta, sum of scaling*B*A, that is not 0.
    uint64_t nonzero;
    // Of those, elements that the merge leaves as they were: the delta was rounded away.
    uint64_t unchanged;
    // Elements with a merged value that is a NaN or an infinity. A safe merge has then written
    // nothing.
    uint64_t non_finite;
    // Sum of delta^2, over elements with a finite merged value.
    double delta_squares;
    // Sum of (stored merged - W - delta)^2, over elements with a finite merged value.
    double error_squares;
    // unchanged / nonzero; 0 where there are none.
    double unchanged_share;
    // |stored change - delta| / |delta|: 0 is exact, 1 as if nothing had been merged; 0 where
    // there is no delta.
    double relative_error;
} lora_merge_report;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// LORA_VERSION of the library, which a program can compare with that of the header it was compiled
// with.
uint32_t lora_version(void);

// What went wrong in the last call of this thread that failed, in a sentence; empty if none has.
//
// The text is the library's, not to be freed. It is valid until this thread calls a function of
// the library that fails, or ends: copy it to keep it longer, or to give it to another thread. A
// call that succeeds leaves it as it is.
const char *lora_last_error(void);

// The CUresult of the last call of this thread that failed, if its status was LORA_STATUS_DRIVER;
// else 0.
int32_t lora_last_cuda_result(void);

// The name of a lora_status, such as "LORA_STATUS_STRIDE"; "unknown" for a number that is none.
// Always valid.
const char *lora_status_name(int32_t status);

// The properties of a GPU that the library knows, for plans on a machine without it.
//
// name: such as "h100"; the error about an unknown one lists the known ones.
// device: out, its struct_size set.
lora_status lora_device_named(const char *name, struct lora_device *device);

// Plans a forward. No driver and no GPU are needed.
//
// problem: what is to be computed; nothing of it is needed after.
// device: what it is to run on.
// plan: out, to be freed by lora_forward_plan_free; untouched on failure.
lora_status lora_forward_plan_new(const struct lora_problem *problem,
                                  const struct lora_device *device,
                                  struct lora_forward_plan **plan);

// The memory that a forward needs.
//
// info: out, its struct_size set.
lora_status lora_forward_plan_info(const struct lora_forward_plan *plan,
                                   struct lora_plan_info *info);

// The plan in words: its kernels, their grids, and why. It lives as long as the plan. Null, and an
// error, if the plan is null or not a plan.
const char *lora_forward_plan_description(const struct lora_forward_plan *plan);

// Frees a plan. What was enqueued with it doesn't need it any more. Null is nothing to do; what is
// no such plan, or no longer, is left alone, and lora_last_error() says so.
void lora_forward_plan_free(struct lora_forward_plan *plan);

// Plans a backward, as lora_forward_plan_new plans a forward.
//
// plan: out, to be freed by lora_backward_plan_free; untouched on failure.
lora_status lora_backward_plan_new(const struct lora_problem *problem,
                                   const struct lora_device *device,
                                   struct lora_backward_plan **plan);

// The memory that a backward needs; saved is the forward's.
//
// info: out, its struct_size set.
lora_status lora_backward_plan_info(const struct lora_backward_plan *plan,
                                    struct lora_plan_info *info);

// The plan in words, as lora_forward_plan_description.
const char *lora_backward_plan_description(const struct lora_backward_plan *plan);

// Frees a plan. What was enqueued with it doesn't need it any more. Null is nothing to do; what is
// no such plan, or no longer, is left alone, and lora_last_error() says so.
void lora_backward_plan_free(struct lora_backward_plan *plan);

// Bytes of workspace that suffice for a forward on any number of tokens up to a maximum: for one
// buffer that serves batches of changing sizes. What a plan needs does not grow steadily with the
// tokens.
//
// problem: its layers; whatever number of tokens it has.
// max_tokens: the largest number of tokens.
// device: what it is to run on.
// bytes: out; untouched on failure.
lora_status lora_forward_workspace_bound(const struct lora_problem *problem,
                                         size_t max_tokens,
                                         const struct lora_device *device,
                                         size_t *bytes);

// Bytes of workspace that suffice for a backward, as lora_forward_workspace_bound says for a
// forward.
lora_status lora_backward_workspace_bound(const struct lora_problem *problem,
                                          size_t max_tokens,
                                          const struct lora_device *device,
                                          size_t *bytes);

// Retains the primary context of a device, the one that the CUDA runtime uses too, and loads the
// kernels into it. Do it once, not while a stream is being captured; lora_kernels_free undoes it.
//
// device: its ordinal, from 0.
// kernels: out, the handle; untouched on failure.
//
// LORA_STATUS_NO_DRIVER without a driver, LORA_STATUS_KERNELS_NOT_BUILT if the library was built
// without its kernels, LORA_STATUS_DEVICE on a GPU before compute capability 8.0,
// LORA_STATUS_DRIVER if the driver has no such device or refuses the kernels.
lora_status lora_kernels_load(int32_t device, struct lora_kernels **kernels);

// Waits for all work of the context, unloads the kernels and releases the context. A CUDA graph
// that was captured from calls with this handle must not be launched any more. Null is nothing to
// do; what is no such handle, or no longer, is left alone, and lora_last_error() says so.
//
// Waiting invalidates a capture of a stream of this context, in whatever thread: do it while none
// is under way. Where nothing else retains the primary context, it ends with its last handle: no
// thread may have it current then, the calling one included. The CUDA runtime retains it.
void lora_kernels_free(struct lora_kernels *kernels);

// What plans need to know of the handle's device.
//
// device: out, its struct_size set.
lora_status lora_kernels_device(const struct lora_kernels *kernels, struct lora_device *device);

// The CUcontext of the handle: streams and device addresses given to calls with it are of this
// context.
//
// context: out.
lora_status lora_kernels_context(const struct lora_kernels *kernels, void **context);

// Enqueues a forward on a stream: y = x*W^T + bias + scaling*drop(x)*A^T*B^T for every projection.
// Nothing on the device is allocated or waited for, so the stream may be capturing. The same bits
// on every run.
//
// stream: a CUstream or cudaStream_t of the handle's context; null is the default stream.
//
// Any status but LORA_STATUS_DRIVER and LORA_STATUS_INTERNAL means that nothing was launched. What
// goes wrong on the device, say by a device address with too little memory behind it, shows when
// the stream is waited for. No output, saved or workspace may share memory with another argument:
// that is LORA_STATUS_OVERLAP. Addresses, shapes and strides decide it, so column ranges of one
// buffer may be outputs. All memory stays valid until the stream has run the call.
lora_status lora_forward(const struct lora_kernels *kernels,
                         const struct lora_forward_plan *plan,
                         const struct lora_forward_args *args,
                         void *stream);

// Enqueues a backward on a stream, as lora_forward does a forward: with T = scaling*dy*B of every
// projection, dx = sum of dy*W + mask o (sum of T*A)/(1-p), d_lora_A = T^T*drop(x), d_lora_B =
// scaling*dy^T*(drop(x)*A^T).
lora_status lora_backward(const struct lora_kernels *kernels,
                          const struct lora_backward_plan *plan,
                          const struct lora_backward_args *args,
                          void *stream);

// Makes the entry of an adapter in a table, for a copy to lora_rows.entries: entry (slot,
// projection) of (adapter_slots, projections). Ranks, strides and addresses are checked against
// the plan's problem. All plans with the same projections, in_features and types can use the
// entry. No driver and no GPU are needed.
//
// The copy is the program's, ordered before the calls that read it; a call captured in a graph
// reads what stands there when it runs. The adapter's memory stays valid until the entry has been
// overwritten and all calls before that have run. Zeros make a slot empty.
//
// projection: of the plan's problem, counted from 0.
// adapter: what it is there. Every projection of a slot needs an entry; one that the adapter
// leaves alone has a rank of 0.
// entry: out; untouched on failure.
lora_status lora_table_entry_of(const struct lora_forward_plan *plan,
                                size_t projection,
                                const struct lora_table_adapter *adapter,
                                struct lora_table_entry *entry);

// Makes the entry of an adapter's gradients in a table, for a copy to lora_rows.gradients: entry
// (slot, projection) of (adapter_slots, projections). Rank, strides and addresses are checked
// against the plan's problem. The rank is that of the adapter's entry in the table of adapters
// when a backward runs; nobody can check that. No driver and no GPU are needed.
//
// The copy is the program's, ordered before the calls that read it, and the gradients' memory
// stays valid as that of lora_table_entry_of. A backward writes the gradients of the adapters that
// its rows name, or adds to them if the problem accumulates them; those of other adapters stay as
// they are.
//
// projection: of the plan's problem, counted from 0.
// gradients: where they go there. Every projection of a slot needs an entry.
// entry: out; untouched on failure.
lora_status lora_gradient_entry_of(const struct lora_backward_plan *plan,
                                   size_t projection,
                                   const struct lora_table_gradients *gradients,
                                   struct lora_gradient_entry *entry);

// Plans a merge. No driver and no GPU are needed.
//
// problem: what is to be merged; nothing of it is needed after.
// device: what it is to run on.
// plan: out, to be freed by lora_merge_plan_free; untouched on failure.
lora_status lora_merge_plan_new(const struct lora_merge_problem *problem,
                                const struct lora_device *device,
                                struct lora_merge_plan **plan);

// The scratch memory that a merge needs: workspace_bytes. What a lora_plan_info has of saved is 0.
//
// info: out, its struct_size set.
lora_status lora_merge_plan_info(const struct lora_merge_plan *plan, struct lora_plan_info *info);

// The plan in words, as lora_forward_plan_description.
const char *lora_merge_plan_description(const struct lora_merge_plan *plan);

// Frees a plan. What was enqueued with it doesn't need it any more. Null is nothing to do; what is
// no such plan, or no longer, is left alone, and lora_last_error() says so.
void lora_merge_plan_free(struct lora_merge_plan *plan);

// Enqueues a merge on a stream, as lora_forward does a forward: merged = W + sum of scaling*B*A,
// every bit determined. merged, report and workspace may share memory with no other argument, but
// merged with weight if both have one address and layout: in place.
//
// stream: a CUstream or cudaStream_t of the handle's context; null is the default stream.
lora_status lora_merge(const struct lora_kernels *kernels,
                       const struct lora_merge_plan *plan,
                       const struct lora_merge_args *args,
                       void *stream);

// Makes a report of the LORA_MERGE_REPORT_BYTES that a merge wrote, after they were copied to the
// host.
//
// bytes: the copy, of any alignment.
// report: out, its struct_size set.
lora_status lora_merge_report_read(const void *bytes, struct lora_merge_report *report);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LORA_KERNELS_H */
