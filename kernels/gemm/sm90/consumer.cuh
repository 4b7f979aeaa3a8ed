// A consumer of a block: a warpgroup that multiplies its part of a tile out of the ring's stages,
// into its registers.
#pragma once
#include "gemm/sm90/ring.cuh"
#include "ptx/wgmma.cuh"

namespace sm90 {

template <typename G>
struct Consumer {
    static constexpr int kBlocks = G::kGroupM / kWgmmaRows;

    // Of the consumer's part of the tile: sum[b][j][e] is row 64 * b + 16 * warp + lane / 4 + 8 *
    // (e / 2), column 8 * j + 2 * (lane % 4) + e % 2.
    float sum[kBlocks][G::kGroupN / 8][4];
    int fresh = 1;  // whether the next product overwrites the sums; a bool costs the loop more
    int group;      // which consumer
    Ring<G> ring;

    __device__ __forceinline__ explicit Consumer(int group) : group(group) {
        const Cluster cluster;
        const uint32_t lane = threadIdx.x % 32;
        arrives = lane < cluster.size;
        empty = ptx::cluster_address(ring.empty(0), arrives ? lane : 0);
    }

    // sum += A * B over the next `stages` stages, whole ones. B lies as `Layout` says.
    template <typename Layout>
    __device__ __forceinline__ void multiply(int stages) {
        pin_sums();
        const Operands first = operands<Layout>();
#pragma unroll 1
        for (; stages > 0; --stages) {
            const Operands at = begin_stage(first);
            ptx::wgmma_fence();
#pragma unroll
            for (int i = 0; i < G::kBlockK / kWgmmaK; ++i) {
                k16<Layout>(at, i);
            }
            ptx::wgmma_commit();
            // The tensor cores go on with this stage while the next is waited for.
            ptx::wgmma_wait<1>();
            end_stage();
        }
    }

    // sum += A * B over the first `count` k16 of the next stage, at least one
    template <typename Layout>
    __device__ __forceinline__ void multiply_part(int count) {
        pin_sums();
        const Operands at = begin_stage(operands<Layout>());
        // Every k16 is a group of its own: ptxas makes products wait for each other where it finds
        // a loop within a group.
        int i = 0;
#pragma unroll 1
        do {
            ptx::wgmma_fence();
            k16<Layout>(at, i);
            ptx::wgmma_commit();
            ptx::wgmma_wait<1>();
        } while (++i < count);
        end_stage();
    }

    // Waits for all products, so that the sums can be read and changed.
    __device__ __forceinline__ void finish() {
        ptx::wgmma_wait<0>();
        pin_sums();
        release();
        held = 0;
    }

    // sum *= factor, after finish.
    __device__ __forceinline__ void scale(float factor) {
        for_each([&](float& value) { value *= factor; });
    }

    // Calls f(value) for every sum of this thread.
    template <typename F>
    __device__ __forceinline__ void for_each(F&& f) {
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
            for (int j = 0; j < G::kGroupN / 8; ++j) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    f(sum[b][j][e]);
                }
            }
        }
    }

   private:
    bool arrives;       // this lane at a block's empty barriers
    uint32_t empty;     // the first of them
    uint32_t held = 0;  // the one of the stage that the youngest products read; 0 without

    struct Operands {
        uint32_t a, b;  // of this consumer's part of a stage, as halves of descriptors
    };

    // Those of the first stage
    template <typename Layout>
    __device__ __forceinline__ Operands operands() const {
        const uint32_t a = ring.data(0) + G::group_row(group) * kLineBytes;
        const uint32_t b = ring.data(0) + G::kABytes + Layout::column_bytes(G::group_column(group));
        return {warp_uniform(ptx::wgmma_start(a, 0)),
                warp_uniform(ptx::wgmma_start(b, Layout::kLeadingBytes))};
    }

    // Waits for the next stage; its operands.
    __device__ __forceinline__ Operands begin_stage(const Operands& first) {
        ptx::mbarrier_wait(ring.full(ring.stage), ring.parity);
        const uint32_t on = ring.stage * (G::kStageBytes / 16);
        return {first.a + on, first.b + on};
    }

    template <typename Layout>
    __device__ __forceinline__ void k16(const Operands& at, int i) {
        const uint64_t b = ptx::wgmma_descriptor(at.b + i * Layout::kK16Bytes / 16, kAtomBytes);
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
            const uint32_t a = at.a + (block * kWgmmaRows * kLineBytes + i * 2 * kWgmmaK) / 16;
            ptx::wgmma_k16<typename G::T, Layout::kTransposed>(
                sum[block], ptx::wgmma_descriptor(a, kAtomBytes), b, fresh ? 0 : 1);
        }
        fresh = 0;
    }

    // The youngest products of this stage are under way; those of the stage before are done, so
    // that one is free.
    __device__ __forceinline__ void end_stage() {
        release();
        held = empty + ring.stage * ptx::kMbarrierBytes;
        ring.advance();
    }

    // Gives the held stage back, for this warp: all its lanes have come through wgmma_wait. Lane i
    // tells block i of the cluster.
    __device__ __forceinline__ void release() {
        if (arrives && held != 0) {
            ptx::mbarrier_arrive_cluster(held);
        }
    }

    // The compiler keeps what it does to the sums on its side of this.
    __device__ __forceinline__ void pin_sums() {
        for_each([](float& value) { asm volatile("" : "+f"(value)::"memory"); });
    }
};

}  // namespace sm90
