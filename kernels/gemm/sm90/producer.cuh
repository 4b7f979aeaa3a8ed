// The producer of a block: one thread that fills the ring's stages with bulk copies.
#pragma once
#include "common/params.cuh"
#include "gemm/sm90/ring.cuh"
#include "gemm/sm90/walk.cuh"
#include "ptx/dependency.cuh"
#include "ptx/tma.cuh"

namespace sm90 {

template <typename G>
struct Producer {
    Ring<G> ring;
    Cluster cluster;

    // A stage that is being filled
    struct Slot {
        uint32_t a, b;  // where the operands go
        uint32_t full;  // the barrier that their copies complete on
    };

    // The next stage, as soon as it is free. All blocks of the cluster together bring `bytes` into
    // it, whole boxes: what lies outside of a matrix comes as zeros and counts.
    __device__ __forceinline__ Slot take(int bytes) {
        ptx::mbarrier_wait(ring.empty(ring.stage), ring.parity ^ 1);
        const uint32_t data = ring.data(ring.stage);
        const Slot slot{data, data + G::kABytes, ring.full(ring.stage)};
        ptx::mbarrier_arrive_expect(slot.full, bytes);
        ring.advance();
        return slot;
    }

    // A (rows, k)
    __device__ __forceinline__ void load_a(const Slot& slot, const TensorMap& map, int row0,
                                           int k0) {
        ptx::tma_load(slot.a, &map, k0, row0, slot.full);
    }

    // B, whose boxes the blocks of the cluster share out among them: each brings its own to all.
    // They go to `b` in the slot.
    template <typename B>
    __device__ __forceinline__ void load_b(const Slot& slot, uint32_t b, const TensorMap& map,
                                           int column0, int k0) {
        const int share = B::kBoxes / cluster.size;
#pragma unroll 1
        for (int i = 0; i < share; ++i) {
            const int box = cluster.rank * share + i;
            const int column = column0 + box * B::kBoxColumns;
            const uint32_t to = b + box * B::kBoxBytes;
            const int inner = B::kTransposed ? column : k0;
            const int outer = B::kTransposed ? k0 : column;
            if (cluster.size == 1) {
                ptx::tma_load(to, &map, inner, outer, slot.full);
            } else {
                ptx::tma_load_multicast(to, &map, inner, outer, slot.full,
                                        static_cast<uint16_t>((1 << cluster.size) - 1));
            }
        }
    }

    // The stages of A * B over `steps`
    __device__ __forceinline__ void product(const TensorMap& a, const TensorMap& b,
                                            const WorkItem& item, const Steps& steps) {
#pragma unroll 1
        for (int i = 0; i < steps.count; ++i) {
            const int k0 = steps.k0(i);
            const Slot slot = take(G::kStageBytes);
            load_a(slot, a, item.row0, k0);
            load_b<typename G::B>(slot, slot.b, b, item.column0, k0);
        }
    }
};

}  // namespace sm90
