// y = x * W^T + bias + sum over a row's adapters of factor * S * B^T for every projection, on
// Hopper. The base product is that of gemm/sm90/forward.cuh. Behind it come the adapters that the
// tile's rows have, in ascending order of their slots. A group of 16 ranks is multiplied from zero,
// and rows that have the adapter add it: a NaN of one adapter stays out of the other rows.
#pragma once
#include "common/table.cuh"
#include "gemm/sm90/block.cuh"
#include "gemm/sm90/combine.cuh"
#include "rows/sm90/adapter_steps.cuh"
#include "rows/sm90/forward_params.cuh"

template <typename T, typename Shape, Access A>
struct ForwardRowsSm90 {
    using P = RowsForwardSm90Params;
    using G = sm90::Gemm<T, Shape, A == Access::kVectorisedKn ? Major::kMN : Major::kK>;
    using Consumer = sm90::Consumer<G>;
    static constexpr int kBlockRows = G::kBlockM, kBlockColumns = G::kBlockN;
    static constexpr int kThreads = sm90::kThreads;

    // Behind what the base product needs: a header for each stage, and two sets of words in which
    // the producer's warps meet.
    using Header = sm90::StepHeader<G::kBlockM>;
    static constexpr int kHeadersOffset = (G::kSharedBytes + 15) / 16 * 16;
    static constexpr int kWordsOffset =
        kHeadersOffset + G::kStages * static_cast<int>(sizeof(Header));
    static constexpr int kSetWords = sm90::kWarpgroup / 32;
    static constexpr int kSharedBytes = kWordsOffset + 2 * kSetWords * 4;

    struct Headers {
        __device__ __forceinline__ static Header& at(uint32_t stage) {
            return reinterpret_cast<Header*>(memory() + kHeadersOffset)[stage];
        }
        __device__ __forceinline__ static int* words(uint32_t set) {
            return reinterpret_cast<int*>(memory() + kWordsOffset) + set * kSetWords;
        }
        __device__ __forceinline__ static unsigned char* memory() {
            extern __shared__ __align__(1024) unsigned char stages_of_boxes[];
            return stages_of_boxes;
        }
    };

    // The producer's threads hold rows' adapters, and consumers a second product.
    static constexpr int kProducerRegisters = 72, kConsumerRegisters = 216;

    __device__ static void run(const P& p) {
        if (threadIdx.x == 0) {
            sm90::Ring<G>::init(sm90::Cluster{});
            for (int group = 0; group < sm90::kConsumerGroups; ++group) {
                G::TileEpilogue::init_barriers(G::epilogue(group).barriers);
            }
            ptx::mbarrier_fence_init();
        }
        __syncthreads();
        const uint32_t warp = warp_uniform(threadIdx.x / 32);
        if (warp >= sm90::kConsumerThreads / 32) {
            ptx::release_registers<kProducerRegisters>();
            produce(p, warp == sm90::kConsumerThreads / 32);
        } else {
            ptx::claim_registers<kConsumerRegisters>();
            Consumer consumer(warp / (sm90::kWarpgroup / 32));
            consume(p, consumer);
        }
    }

   private:
    using Walk = sm90::Walk<G::kBlockM>;
    using Steps = sm90::Steps;
    using LoraB = sm90::BLayout<Major::kK, G::kBlockN>;  // (n, r)
    static_assert(LoraB::kBytes <= G::B::kBytes, "a low-rank step fits a stage");

    __device__ __forceinline__ static WorkItem item_at(const P& p, const Walk& walk) {
        int tile_column;
        WorkItem item = walk.item(tile_column);
        while (item.projection + 1 < p.projections &&
               tile_column >= p.projection[item.projection + 1].first_tile) {
            ++item.projection;
        }
        item.column0 = (tile_column - p.projection[item.projection].first_tile) * G::kBlockN;
        return item;
    }

    // Whether low-rank steps may follow the base product of a work item.
    __device__ __forceinline__ static bool has_adapters(const P& p, const WorkItem& item) {
        return item.k_slice == 0 && p.rows.s_rank[item.projection] > 0;
    }

    // One thread brings x and W. Meanwhile the other warps look up their rows' adapters, and then
    // the whole warpgroup brings S and lora_B.
    __device__ __forceinline__ static void produce(const P& p, bool first_warp) {
        sm90::AdapterSteps<G, Headers> adapters(p.rows, p.s, p.m, p.projections);
        bool waits = true;  // for the launch before, which writes S
        for (Walk walk(p.schedule, gridDim.x); walk.more(); walk.next()) {
            const WorkItem item = item_at(p, walk);
            const auto& layer = p.projection[item.projection];
            const Steps steps(p.k, item, p.schedule.k_slices);
            if (first_warp) {
                if (ptx::elect_one()) {
                    sm90::Producer<G> producer;
                    producer.ring = adapters.ring;
                    producer.product(p.x, layer.weight, item, steps);
                }
                __syncwarp();
            }
            adapters.skip(steps.count);
            if (has_adapters(p, item)) {
                if (waits) {
                    ptx::wait_for_earlier_launch();
                    waits = false;
                }
                adapters.fill(item.projection, layer.n, item.row0, item.column0);
            }
        }
        // The end of this launch is the end of the earlier one, too, whoever has waited for it.
        ptx::wait_for_earlier_launch();
    }

    __device__ __forceinline__ static void consume(const P& p, Consumer& consumer) {
        typename G::TileEpilogue epilogue = G::epilogue(consumer.group);
        for (Walk walk(p.schedule, gridDim.x); walk.more(); walk.next()) {
            const WorkItem item = item_at(p, walk);
            const int steps = Steps(p.k, item, p.schedule.k_slices).count;
            // Without this, ptxas finds a way past the products, and lets all of them wait for each
            // other (C7515).
            __builtin_assume(steps > 0);
            consumer.template multiply<typename G::B>(steps);
            consumer.finish();
            consumer.fresh = 1;
            if (has_adapters(p, item)) {
                add_adapters(consumer);
            }
            store(p, item, consumer, epilogue);
        }
        epilogue.finish();
    }

    // A product of 64 rows and 64 columns, out of sums
    static constexpr int kPartColumns = 64;
    using Part = float[kPartColumns / 8][4];
    static constexpr int kPartsAcross = G::kGroupN / kPartColumns;
    static constexpr int kParts = Consumer::kBlocks * kPartsAcross;
    // The tensor cores work on a product while the one before is added, where registers allow.
    static constexpr int kAtOnce = G::kGroupM * G::kGroupN <= 64 * 128 ? 2 : 1;

    // sums += factor * S * B^T for the steps of the ring up to the one that is the last
    __device__ __forceinline__ static void add_adapters(Consumer& consumer) {
        auto& ring = consumer.ring;
        Part part[kAtOnce];
#pragma unroll 1
        for (;;) {
            ptx::mbarrier_wait(ring.full(ring.stage), ring.parity);
            const Header& header = Headers::at(ring.stage);
            const uint32_t groups = warp_uniform(header.groups);
            const int first_row = G::group_row(consumer.group);
            uint32_t members = 0;
#pragma unroll
            for (int word = 0; word < G::kGroupM / 32; ++word) {
                members |= header.members[first_row / 32 + word];
            }
            if (groups > 0 && warp_uniform(members) != 0) {
                add_step(consumer, header, part, groups);
            }
            __syncwarp();
            if (threadIdx.x % 32 == 0) {
                ptx::mbarrier_arrive_expect(ring.empty(ring.stage), 0);
            }
            ring.advance();
            if (groups == 0) {
                return;
            }
        }
    }

    __device__ __forceinline__ static void add_step(Consumer& consumer, const Header& header,
                                                    Part (&part)[kAtOnce], uint32_t groups) {
        const int group = consumer.group;
        const uint32_t data = consumer.ring.data(consumer.ring.stage);
        uint32_t a =
            warp_uniform(ptx::wgmma_start(data + G::group_row(group) * sm90::kLineBytes, 0));
        uint32_t b = warp_uniform(ptx::wgmma_start(
            data + G::kABytes + LoraB::column_bytes(G::group_column(group)), LoraB::kLeadingBytes));
        float factor[Consumer::kBlocks][2];
        const int row =
            G::group_row(group) + threadIdx.x % sm90::kWarpgroup / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
        for (int block = 0; block < Consumer::kBlocks; ++block) {
            factor[block][0] = header.factor[row + block * sm90::kWgmmaRows];
            factor[block][1] = header.factor[row + block * sm90::kWgmmaRows + 8];
        }
        const auto issue = [&](int index, Part& to) {
            const int block = index / kPartsAcross, column = index % kPartsAcross * kPartColumns;
            ptx::wgmma_fence();
            ptx::wgmma_k16<T, false>(
                to,
                ptx::wgmma_descriptor(a + block * sm90::kWgmmaRows * sm90::kLineBytes / 16,
                                      sm90::kAtomBytes),
                ptx::wgmma_descriptor(b + LoraB::column_bytes(column) / 16, sm90::kAtomBytes), 0);
            ptx::wgmma_commit();
        };
#pragma unroll 1
        for (; groups > 0; --groups) {
            if constexpr (kAtOnce == 2) {
                issue(0, part[0]);
            }
#pragma unroll
            for (int index = 0; index < kParts; ++index) {
                const int ahead = index + kAtOnce - 1;
                if (ahead < kParts) {
                    issue(ahead, part[ahead % kAtOnce]);
                    ptx::wgmma_wait<kAtOnce - 1>();
                } else {
                    ptx::wgmma_wait<0>();
                }
                add(consumer, index, part[index % kAtOnce], factor[index / kPartsAcross]);
            }
            a += 2 * sm90::kWgmmaK / 16;
            b += LoraB::kK16Bytes / 16;
        }
    }

    // Rows without the adapter stay as they are, whatever it holds.
    __device__ __forceinline__ static void add(Consumer& consumer, int index, const Part& part,
                                               const float (&factor)[2]) {
        const int block = index / kPartsAcross, octet0 = index % kPartsAcross * (kPartColumns / 8);
#pragma unroll
        for (int octet = 0; octet < kPartColumns / 8; ++octet) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                add_if_factor(consumer.sum[block][octet0 + octet][e], factor[e / 2],
                              part[octet][e]);
            }
        }
    }

    // sum += factor * product, if the factor is not 0. It keeps its place behind the wait for the
    // product, and changes no register of that, or ptxas would let all products wait for each
    // other.
    __device__ __forceinline__ static void add_if_factor(float& sum, float factor,
                                                         const float& product) {
        asm volatile(
            "{\n"
            ".reg .pred has;\n"
            "setp.neu.f32 has, %1, 0f00000000;\n"
            "@has fma.rn.f32 %0, %1, %2, %0;\n"
            "}\n"
            : "+f"(sum)
            : "f"(factor), "f"(product));
    }

    // y = sums + bias, or added to y. Of several k-slices the last stores.
    __device__ __forceinline__ static void store(const P& p, const WorkItem& item,
                                                 Consumer& consumer,
                                                 typename G::TileEpilogue& epilogue) {
        if (p.schedule.k_slices > 1) {
            ptx::wait_for_earlier_launch();  // it zeroes the counters
        }
        if (!sm90::combine<sm90::kConsumerThreads>(consumer.sum, p.schedule, item.tile,
                                                   item.k_slice)) {
            return;
        }
        const RowsForwardSm90Projection& layer = p.projection[item.projection];
        const sm90::Output<T> y{
            &layer.y, static_cast<T*>(layer.y_data), layer.y_stride,   p.m,
            layer.n,  layer.output_mapped != 0,      p.accumulate != 0};  // (m, n)
        epilogue.store(consumer.sum, y, item.row0 + G::group_row(consumer.group),
                       item.column0 + G::group_column(consumer.group), 1.0f,
                       static_cast<const T*>(layer.bias));
    }
};
