// The main loop that forward and grad_x share: acc (BlockM, BlockN) += A (BlockM, k) * B (k,
// BlockN), BlockK of the depth per step, through `Stages` buffers in shared memory that cp.async
// fills ahead.
//
// A step waits once and meets at one barrier. The fragments of the next k16 are read while the
// tensor cores work on the current ones, also across the barrier, so the tensor cores seldom wait
// for shared memory.
#pragma once
#include "common/accumulator.cuh"

// Where a lane's rows of ldmatrix lie in the tiles of an operand of 16-bit elements. All its
// addresses differ from the first by a constant: the swizzle of a lane is the same for every
// fragment, so what selects a chunk is XORed and what selects 16 rows is added.
template <Major Layout, typename TileType>
struct FragmentAddress {
    uint32_t first;
    static constexpr int kRowBytes = TileType::kRowBytes;

    // The warp begins at `mn0` of the tile; the lane's address is for `lane_mn` further on and for
    // `lane_k` of the depth.
    __device__ __forceinline__ void start(const TileType& tile, int mn0, int lane_mn, int lane_k) {
        if constexpr (Layout == Major::kK) {  // tile (mn, k)
            first = tile.chunk_address(mn0 + lane_mn, lane_k / TileType::kChunkElements);
        } else {  // tile (k, mn)
            first = tile.chunk_address(lane_k, (mn0 + lane_mn) / TileType::kChunkElements);
        }
    }
    // The same `mn` rows or columns and `k` of the depth further on, in another stage.
    __device__ __forceinline__ uint32_t at(uint32_t stage, int mn, int k) const {
        constexpr int kElement = TileType::kElementBytes;
        if constexpr (Layout == Major::kK) {
            return ((first + stage) ^ (k * kElement)) + mn * kRowBytes;
        } else {
            return ((first + stage) ^ (mn * kElement)) + k * kRowBytes;
        }
    }
};

template <typename T, int BlockM, int BlockN, int BlockK, int WarpM, int WarpN, int Stages,
          Major BMajor>
struct MainLoop {
    static constexpr int kMmaSteps = BlockK / kMmaK;
    static constexpr Major kBMajor = BMajor;
    using ATile = Tile<T, BlockM, BlockK>;
    using BTile =
        std::conditional_t<BMajor == Major::kK, Tile<T, BlockN, BlockK>, Tile<T, BlockK, BlockN>>;
    static constexpr uint32_t kStageBytes = ATile::kBytes + BTile::kBytes;
    static constexpr uint32_t kLastStage = (Stages - 1) * kStageBytes;
    static_assert(Stages >= 2, "one buffer is read while another is filled");
    static_assert(kMmaSteps % 2 == 0 || !kTensorCore<T>,
                  "fragments alternate between two sets of registers");

    Accumulator<WarpM, WarpN> acc;
    uint32_t read;  // bytes to the stage that is read next
    FragmentAddress<Major::kK, ATile> a_address;
    FragmentAddress<BMajor, BTile> b_address;
    uint32_t a[2][WarpM / 16][4];  // fragments of this k16 and of the next
    uint32_t b[2][WarpN / 16][4];

    __device__ __forceinline__ static unsigned char* stage_data(uint32_t stage) {
        extern __shared__ __align__(128) unsigned char stages[];
        return stages + stage;
    }
    __device__ __forceinline__ static ATile a_tile(uint32_t stage) {
        return {reinterpret_cast<T*>(stage_data(stage))};
    }
    template <typename Tile = BTile>
    __device__ __forceinline__ static Tile b_tile(uint32_t stage) {
        return {reinterpret_cast<T*>(stage_data(stage + ATile::kBytes))};
    }

    static constexpr int kWarpsM = BlockM / WarpM;
    // First row and column of this warp in the block's tile.
    __device__ __forceinline__ static int warp_row() { return threadIdx.x / 32 % kWarpsM * WarpM; }
    __device__ __forceinline__ static int warp_column() {
        return threadIdx.x / 32 / kWarpsM * WarpN;
    }

    __device__ __forceinline__ MainLoop() {
        if constexpr (kTensorCore<T>) {
            const int lane = threadIdx.x % 32;
            a_address.start(a_tile(0), warp_row(), lane % 16, lane / 16 * 8);
            start_b(b_address, lane);
        }
    }

    __device__ __forceinline__ static void next(uint32_t& stage) {
        stage = stage == kLastStage ? 0 : stage + kStageBytes;
    }

    // Issues one step less than there are stages: what a work item begins with. The stages must be
    // free. The last one stays so until the first arrive(): an epilogue may use it meanwhile, whose
    // own accesses that barrier orders before the copies that fill() issues after it.
    template <typename Issue>
    __device__ __forceinline__ void prologue(Issue&& issue) {
        read = 0;
#pragma unroll 1
        for (uint32_t stage = 0; stage < kLastStage; stage += kStageBytes) {
            issue(stage);
            ptx::cp_async_commit();
        }
    }

    // Fills the stage that was read last. One group is committed per step, empty ones at the end
    // too, so the count of pending groups always names a step's.
    template <typename Issue>
    __device__ __forceinline__ void fill(Issue&& issue) {
        issue(read == 0 ? kLastStage : read - kStageBytes);
        ptx::cp_async_commit();
    }

    // After it the tiles of the next step are visible to all, and all have done with the stage that
    // is filled next.
    __device__ __forceinline__ static void arrive() {
        ptx::cp_async_wait<Stages - 2>();
        __syncthreads();
    }

    // Before the first of a run of full steps.
    __device__ __forceinline__ void begin() {
        if constexpr (kTensorCore<T>) {
            arrive();
            load(0, 0, b_address);
        }
    }

    // One full step, and the next stage filled. It leaves the first fragments of the step that
    // follows in registers; a plain step has no use for them.
    template <typename Issue>
    __device__ __forceinline__ void full_step(Issue&& issue) {
        if constexpr (kTensorCore<T>) {
#pragma unroll
            for (int k = 0; k < kMmaSteps; ++k) {
                if (k == kMmaSteps - 1) {
                    next(read);
                    arrive();
                    load(0, 0, b_address);
                } else {
                    load((k + 1) % 2, k + 1, b_address);
                }
                if (k == 0) {
                    fill(issue);
                }
                multiply(k % 2);
            }
        } else {
            plain_step<BMajor, BTile>(BlockK, issue);
        }
    }

    // One step of which `depth` is used, and the next stage filled. A work item has few of these,
    // so they are short instead of fast. B may have another layout in shared memory than the
    // weight.
    template <Major Layout, typename Tile, typename Issue>
    __device__ __forceinline__ void plain_step(int depth, Issue&& issue) {
        arrive();
        fill(issue);
        if constexpr (!kTensorCore<T>) {
#pragma unroll 1
            for (int k = 0; k < depth; k += kMmaK) {
                warp_fma<Major::kK, Layout>(acc, a_tile(read), warp_row(), b_tile<Tile>(read),
                                            warp_column(), k);
            }
        } else if constexpr (Layout == BMajor) {
            multiply_steps(depth, b_address);
        } else {
            FragmentAddress<Layout, Tile> address;
            uint32_t lane = threadIdx.x % 32;
            pin(lane);
            start_b(address, lane);
            multiply_steps(depth, address);
        }
        next(read);
    }

    // As plain_step, and the step's product is multiplied by `scaling` in f32 before it is added.
    template <Major Layout, typename Tile, typename Issue>
    __device__ __forceinline__ void scaled_step(int depth, float scaling, Issue&& issue) {
        arrive();
        fill(issue);
        if constexpr (!kTensorCore<T>) {
            warp_fma_scaled<Major::kK, Layout>(acc, scaling, a_tile(read), warp_row(),
                                               b_tile<Tile>(read), warp_column(), depth);
        } else {
            FragmentAddress<Layout, Tile> address;
            uint32_t lane = threadIdx.x % 32;
            pin(lane);
            start_b(address, lane);
            multiply_scaled(depth, scaling, address);
        }
        next(read);
    }

    // At the end of a work item, before the prologue of the next: no copy is under way, and all
    // have done with every stage.
    __device__ __forceinline__ static void end() {
        ptx::cp_async_wait<0>();
        __syncthreads();
    }

   private:
    template <Major Layout, typename Tile>
    __device__ __forceinline__ static void start_b(FragmentAddress<Layout, Tile>& address,
                                                   int lane) {
        if constexpr (Layout == Major::kK) {
            address.start(b_tile<Tile>(0), warp_column(), lane % 8 + lane / 16 * 8,
                          lane / 8 % 2 * 8);
        } else {
            address.start(b_tile<Tile>(0), warp_column(), lane / 16 * 8, lane % 16);
        }
    }

    // The fragments of a k16, the k-th of a stage.
    template <Major Layout, typename Tile>
    __device__ __forceinline__ void load(int set, int k,
                                         const FragmentAddress<Layout, Tile>& b_at) {
#pragma unroll
        for (int i = 0; i < WarpM / 16; ++i) {
            ptx::ldmatrix_x4(a[set][i], a_address.at(read, 16 * i, kMmaK * k));
        }
#pragma unroll
        for (int j = 0; j < WarpN / 16; ++j) {
            load_b(b[set][j], b_at, 16 * j, kMmaK * k);
        }
    }

    template <typename Address>
    __device__ __forceinline__ void multiply_steps(int depth, const Address& b_at) {
#pragma unroll 1
        for (int k = 0; k < depth / kMmaK; ++k) {
            load(0, k, b_at);
            multiply(0);
        }
    }

    // acc += scaling * the product, 16 columns at a time: that takes no more registers than the
    // fragments of a full step, which are free here.
    template <Major Layout, typename Tile>
    __device__ __forceinline__ void multiply_scaled(int depth, float scaling,
                                                    const FragmentAddress<Layout, Tile>& b_at) {
#pragma unroll
        for (int j = 0; j < WarpN / 16; ++j) {
            float part[WarpM / 16][2][4] = {};
#pragma unroll 1
            for (int k = 0; k < depth; k += kMmaK) {
                uint32_t b_fragment[4];  // k16n16
                load_b(b_fragment, b_at, 16 * j, k);
#pragma unroll
                for (int i = 0; i < WarpM / 16; ++i) {
                    uint32_t a_fragment[4];  // m16k16
                    ptx::ldmatrix_x4(a_fragment, a_address.at(read, 16 * i, k));
                    ptx::mma_m16n8k16<T>(part[i][0], a_fragment, b_fragment[0], b_fragment[1]);
                    ptx::mma_m16n8k16<T>(part[i][1], a_fragment, b_fragment[2], b_fragment[3]);
                }
            }
#pragma unroll
            for (int i = 0; i < WarpM / 16; ++i) {
#pragma unroll
                for (int e = 0; e < 8; ++e) {
                    float& sum = acc.value[i][2 * j + e / 4][e % 4];
                    sum = fmaf(scaling, part[i][e / 4][e % 4], sum);
                }
            }
        }
    }

    template <Major Layout, typename Tile>
    __device__ __forceinline__ void load_b(uint32_t (&fragment)[4],
                                           const FragmentAddress<Layout, Tile>& b_at, int n,
                                           int k) {
        if constexpr (Layout == Major::kK) {
            ptx::ldmatrix_x4(fragment, b_at.at(read, n, k));
        } else {
            ptx::ldmatrix_x4_trans(fragment, b_at.at(read, n, k));
        }
    }

    __device__ __forceinline__ void multiply(int set) {
#pragma unroll
        for (int j = 0; j < WarpN / 16; ++j) {
#pragma unroll
            for (int i = 0; i < WarpM / 16; ++i) {
                ptx::mma_m16n8k16<T>(acc.value[i][2 * j], a[set][i], b[set][j][0], b[set][j][1]);
                ptx::mma_m16n8k16<T>(acc.value[i][2 * j + 1], a[set][i], b[set][j][2],
                                     b[set][j][3]);
            }
        }
    }
};
