// The work items of a block, which its producer and its consumers go through alike. The blocks of a
// cluster take tiles below each other.
#pragma once
#include "gemm/schedule.cuh"
#include "gemm/sm90/ring.cuh"

namespace sm90 {

template <int BlockM>
struct Walk {
    ScheduleParams schedule;  // of a cluster, whose tile is as high as those of its blocks together
    Cluster cluster;
    uint32_t index;     // of the work item
    uint32_t clusters;  // of the grid

    // `blocks` of the grid take part, whole clusters.
    __device__ __forceinline__ Walk(const ScheduleParams& of_blocks, uint32_t blocks)
        : schedule(of_blocks) {
        schedule.tiles_m = (schedule.tiles_m + cluster.size - 1) / cluster.size;
        index = blockIdx.x / cluster.size;
        clusters = blocks / cluster.size;
    }
    __device__ __forceinline__ bool more() const { return index < work_items(schedule); }
    __device__ __forceinline__ void next() { index += clusters; }

    // The last block's tile may lie below the output. It takes part like any other, brings zeros
    // and stores nothing.
    __device__ __forceinline__ WorkItem item(int& tile_column) const {
        WorkItem item = work_item<BlockM>(schedule, index, clusters, tile_column);
        item.row0 = item.row0 * cluster.size + cluster.rank * BlockM;
        return item;
    }
};

// The steps of a product's depth that a work item multiplies, one stage each. A k-slice that no
// step is left for has one beyond the depth, which brings zeros.
struct Steps {
    int first, count, direction;

    __device__ __forceinline__ Steps(int depth, const WorkItem& item, int k_slices) {
        const int steps = (depth + kLineElements - 1) / kLineElements;
        const auto part = [&](int k_slice) {
            return static_cast<int>(static_cast<int64_t>(steps) * k_slice / k_slices);
        };
        const int begin = part(item.k_slice), end = part(item.k_slice + 1);
        count = max(end - begin, 1);
        first = begin == end ? steps : item.reversed ? end - 1 : begin;
        direction = item.reversed ? -1 : 1;
    }
    // Where step i begins
    __device__ __forceinline__ int k0(int i) const {
        return (first + i * direction) * kLineElements;
    }
};

}  // namespace sm90
