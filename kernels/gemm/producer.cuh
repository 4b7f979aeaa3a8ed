// The steps of one product A (m, k) * B (k, n) of a work item, as copies into the stages of the
// main loop: first the tail step, with what the depth has beyond full steps, then the full steps,
// of which each k-slice takes a part.
#pragma once
#include "gemm/operand.cuh"
#include "gemm/schedule.cuh"
#include "gemm/step_copies.cuh"

// Only what a full step needs is kept: registers are scarce. What other steps need, operands and
// the work item, the caller computes anew. Without `Vectorised` the caller issues all steps, and
// the producer counts them.
template <typename T, typename Loop, int Threads, bool Vectorised>
struct Producer {
    static constexpr int kBlockK = Loop::ATile::kColumns;
    static constexpr Major kBMajor = Loop::kBMajor;

    int next;       // the full step that is issued next
    int direction;  // 1 or -1
    int full;       // full steps left
    bool tail;      // whether the tail step is still to come
    StepCopies<Threads, Major::kK, typename Loop::ATile, T> a_copies;
    StepCopies<Threads, kBMajor, typename Loop::BTile, T> b_copies;

    __device__ __forceinline__ void start(const Operand<T>& a, const Operand<T>& b,
                                          const WorkItem& item, int k_slices) {
        const int steps = a.k / kBlockK;
        const auto part = [&](int k_slice) {
            return static_cast<int>(static_cast<int64_t>(steps) * k_slice / k_slices);
        };
        const int begin = part(item.k_slice);
        const int end = part(item.k_slice + 1);
        full = end - begin;
        tail = item.k_slice == 0 && a.k % kBlockK != 0;
        next = item.reversed ? end - 1 : begin;
        direction = item.reversed ? -1 : 1;
        if constexpr (Vectorised) {
            a_copies.start(a.source(), item.row0, next * kBlockK, direction);
            b_copies.start(b.source(), item.column0, next * kBlockK, direction);
        }
    }

    // Steps left, of both kinds.
    __device__ __forceinline__ int count() const { return full + (tail ? 1 : 0); }

    // The next full step, 16 bytes at a time.
    __device__ __forceinline__ void issue_full(uint32_t stage) {
        const uint32_t tile = ptx::shared_address(Loop::stage_data(stage));
        a_copies.issue(tile, direction);
        b_copies.issue(tile + Loop::ATile::kBytes, direction);
        --full;
    }

    // The tail step, 16 bytes at a time within bounds.
    __device__ __forceinline__ void issue_tail(uint32_t stage, const Operand<T>& a,
                                               const Operand<T>& b, const WorkItem& item) {
        const int k0 = take_tail(a.k);
        load_tile<Threads>(Loop::a_tile(stage), a.source(), item.row0, k0, true);
        const bool k_major = kBMajor == Major::kK;
        load_tile<Threads>(Loop::b_tile(stage), b.source(), k_major ? item.column0 : k0,
                           k_major ? k0 : item.column0, true);
    }

    // Where the next full step begins, which the caller issues.
    __device__ __forceinline__ int take_full() {
        const int k0 = next * kBlockK;
        next += direction;
        --full;
        return k0;
    }

    // Where the tail step of a depth begins, which the caller issues.
    __device__ __forceinline__ int take_tail(int k) {
        tail = false;
        return k / kBlockK * kBlockK;
    }
};
