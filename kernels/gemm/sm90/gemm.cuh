// What the parts of a Hopper GEMM have in common: its tile, and how shared memory is divided.
//
// A block has three warpgroups. The third is the producer: one thread of it brings the operands
// into a ring of stages by bulk copies (producer.cuh). The first two are consumers: each multiplies
// its part of the tile out of the ring (consumer.cuh) and stores it (epilogue.cuh). All walk the
// same work items (walk.cuh). What they multiply, forward.cuh and grad_x.cuh say.
#pragma once
#include "common/tile.cuh"
#include "gemm/sm90/epilogue.cuh"

namespace sm90 {

inline constexpr int kConsumerGroups = 2;
inline constexpr int kConsumerThreads = kConsumerGroups * kWarpgroup;
inline constexpr int kThreads = kConsumerThreads + kWarpgroup;
inline constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

inline constexpr int kLineBytes = 128;             // of shared memory: a row of a box
inline constexpr int kLineElements = 64;           // of 16 bits
inline constexpr int kAtomBytes = 8 * kLineBytes;  // the swizzle repeats
inline constexpr int kWgmmaRows = 64, kWgmmaK = 16;

// How B (BlockN columns, `Depth`) lies in a stage: boxes that follow each other along its columns.
// A K-major box has half of the columns, a line each with 64 of the depth. An MN-major box has
// `Depth` lines with 64 columns each. Where `Depth` is less than the stage's, such pieces of the
// depth follow each other.
template <Major Layout, int BlockN, int Depth = kLineElements>
struct BLayout {
    static constexpr bool kTransposed = Layout == Major::kMN;
    static constexpr int kBoxColumns = kTransposed ? kLineElements : BlockN / 2;
    static constexpr int kBoxes = BlockN / kBoxColumns;
    static constexpr int kBoxBytes = (kTransposed ? Depth : kBoxColumns) * kLineBytes;
    static constexpr int kBytes = kBoxes * kBoxBytes;
    static constexpr int kLeadingBytes = kTransposed ? kBoxBytes : 0;
    // From a k16 to the next: within the boxes, or in the next piece
    static constexpr int kK16Bytes = !kTransposed       ? 2 * kWgmmaK
                                     : Depth == kWgmmaK ? kBytes
                                                        : kWgmmaK * kLineBytes;
    // From the first column to `column`, a multiple of 64
    __device__ __forceinline__ static int column_bytes(int column) {
        return kTransposed ? column / kLineElements * kBoxBytes : column * kLineBytes;
    }
};

// `Shape` is a tile of kernels/table.toml; `warp` there is a consumer's part of it. B has the
// layout `BMajor`; A is K-major.
template <typename ElementType, typename Shape, Major BMajor>
struct Gemm {
    using T = ElementType;
    static constexpr int kBlockM = Shape::kRows, kBlockN = Shape::kColumns, kBlockK = Shape::kDepth;
    static constexpr int kGroupM = Shape::kWarpRows, kGroupN = Shape::kWarpColumns;
    static constexpr int kStages = Shape::kStages;
    static_assert(kBlockK == kLineElements, "a stage is a line of the depth");
    static_assert(kBlockM / kGroupM * (kBlockN / kGroupN) == kConsumerGroups,
                  "every consumer has a part");

    using B = BLayout<BMajor, kBlockN>;
    static constexpr int kABytes = kBlockM * kLineBytes;
    static constexpr int kStageBytes = kABytes + B::kBytes;

    // First row and column of a consumer's part
    __device__ __forceinline__ static int group_row(int group) {
        return kBlockM == kGroupM ? 0 : group * kGroupM;
    }
    __device__ __forceinline__ static int group_column(int group) {
        return kBlockN == kGroupN ? 0 : group * kGroupN;
    }

    using TileEpilogue = Epilogue<T, kGroupM / kWgmmaRows, kGroupN>;

    // Shared memory: the stages, the consumers' staging, the barriers of the ring and those of the
    // epilogues.
    static constexpr int kStagingOffset = kStages * kStageBytes;
    static constexpr int kRingOffset =
        kStagingOffset + kConsumerGroups * TileEpilogue::kStagingBytes;
    static constexpr int kEpilogueOffset = kRingOffset + 2 * kStages * ptx::kMbarrierBytes;
    static constexpr int kSharedBytes =
        kEpilogueOffset + kConsumerGroups * TileEpilogue::kBarrierBytes;

    __device__ __forceinline__ static uint32_t shared(int offset) {
        extern __shared__ __align__(1024) unsigned char stages_of_boxes[];
        return ptx::shared_address(stages_of_boxes) + offset;
    }
    // A consumer's epilogue, with its part of the staging
    __device__ __forceinline__ static TileEpilogue epilogue(int group) {
        return {shared(kStagingOffset) + group * TileEpilogue::kStagingBytes,
                shared(kEpilogueOffset) + group * TileEpilogue::kBarrierBytes};
    }
};

}  // namespace sm90
