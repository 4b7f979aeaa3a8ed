// Pairs of kernels about Hopper: bulk copies, tensor maps, wgmma, clusters. Of each `bug_NAME`
// there is a correct `ok_NAME`. Compiled by tests/fixtures/regenerate.sh.
//
// in: values below 1 << 10 as int; out; map_a, map_b: tensor maps of bf16 matrices (rows x 64 boxes
// of 64 columns, 128-byte swizzle); map_o: one of the result.
#include <cuda_bf16.h>
#include <stdint.h>

struct alignas(64) Map {
    uint64_t words[16];
};

#define ARGS                                                                                       \
    const int *in, int *out, const __grid_constant__ Map map_a, const __grid_constant__ Map map_b, \
        const __grid_constant__ Map map_o, int n
#define PASS in, out, map_a, map_b, map_o, n
#define SIGNATURE \
    const int *in, int *out, const Map &map_a, const Map &map_b, const Map &map_o, int n
#define PAIR(name, bounds)                                                   \
    template <bool BUG>                                                      \
    __device__ __forceinline__ void name(SIGNATURE);                         \
    extern "C" __global__ void bounds bug_##name(ARGS) { name<true>(PASS); } \
    extern "C" __global__ void bounds ok_##name(ARGS) { name<false>(PASS); } \
    template <bool BUG>                                                      \
    __device__ __forceinline__ void name(SIGNATURE)
#define DEV __device__ __forceinline__

DEV uint32_t sh(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
DEV void init(uint64_t* bar, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sh(bar)), "r"(count) : "memory");
}
DEV void fence_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEV void fence_async() { asm volatile("fence.proxy.async;" ::: "memory"); }
DEV void expect(uint64_t* bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sh(bar)), "r"(bytes)
                 : "memory");
}
DEV void expect_only(uint64_t* bar, int bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(sh(bar)),
                 "r"(bytes)
                 : "memory");
}
DEV void arrive(uint64_t* bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(sh(bar)) : "memory");
}
DEV void arrive_at(uint64_t* bar, int rank) {
    asm volatile(
        "{ .reg .b32 r; mapa.shared::cluster.u32 r, %0, %1; "
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [r]; }" ::"r"(sh(bar)),
        "r"(rank)
        : "memory");
}
DEV bool try_wait(uint64_t* bar, int parity) {
    int done;
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, "
        "p; }"
        : "=r"(done)
        : "r"(sh(bar)), "r"(parity)
        : "memory");
    return done;
}
DEV void wait(uint64_t* bar, int parity) { while (!try_wait(bar, parity)); }
DEV void wait_cluster(uint64_t* bar, int parity) {
    int done = 0;
    while (!done)
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2; "
            "selp.b32 %0, 1, 0, p; }"
            : "=r"(done)
            : "r"(sh(bar)), "r"(parity)
            : "memory");
}
DEV void bulk(void* to, const void* from, int bytes, uint64_t* bar) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(sh(to)),
        "l"(from), "r"(bytes), "r"(sh(bar))
        : "memory");
}
DEV void load(void* to, const Map* map, int column, int row, uint64_t* bar) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, "
        "{%2, %3}], [%4];" ::"r"(sh(to)),
        "l"(map), "r"(column), "r"(row), "r"(sh(bar))
        : "memory");
}
DEV void load_multicast(void* to, const Map* map, int column, int row, uint64_t* bar,
                        uint16_t blocks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::"
        "cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(sh(to)),
        "l"(map), "r"(column), "r"(row), "r"(sh(bar)), "h"(blocks)
        : "memory");
}
DEV void store(const Map* map, int column, int row, const void* from) {
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
        "r"(column), "r"(row), "r"(sh(from))
        : "memory");
}
DEV void commit_bulk() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
DEV void wait_bulk_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
DEV void wait_bulk() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
DEV uint32_t rank() {
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
DEV void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
DEV void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
DEV void cluster_sync() {
    cluster_arrive();
    cluster_wait();
}
DEV uint32_t mapa(const void* p, int r) {
    uint32_t a;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(a) : "r"(sh(p)), "r"(r));
    return a;
}
DEV int remote(uint32_t a) {
    int v;
    asm volatile("ld.shared::cluster.s32 %0, [%1];" : "=r"(v) : "r"(a) : "memory");
    return v;
}
DEV void remote_store(uint32_t a, int v) {
    asm volatile("st.shared::cluster.s32 [%0], %1;" ::"r"(a), "r"(v) : "memory");
}

// ---- bulk copies without tensor maps; block of 128
constexpr int T = 128;
PAIR(bulk_wait, ) {  // the other warps don't wait for the barrier
    __shared__ alignas(128) int s[T];
    __shared__ uint64_t bar;
    int t = threadIdx.x;
    if (t == 0) {
        init(&bar, 1);
        fence_init();
    }
    __syncthreads();
    if (t == 0) {
        expect(&bar, sizeof s);
        bulk(s, in, sizeof s, &bar);
    }
    if (BUG ? t == 0 : true) wait(&bar, 0);
    out[t] = s[T - 1 - t] * 2;
}
PAIR(bulk_bytes, ) {  // more bytes are expected than come
    __shared__ alignas(128) int s[T];
    __shared__ uint64_t bar;
    int t = threadIdx.x;
    if (t == 0) {
        init(&bar, 1);
        fence_init();
    }
    __syncthreads();
    if (t == 0) {
        expect(&bar, BUG ? sizeof s + 16 : sizeof s);
        bulk(s, in, sizeof s, &bar);
    }
    wait(&bar, 0);
    out[t] = s[T - 1 - t] * 2;
}
PAIR(bulk_count, ) {  // two arrivals wanted, one comes
    __shared__ alignas(128) int s[T];
    __shared__ uint64_t bar;
    int t = threadIdx.x;
    if (t == 0) {
        init(&bar, BUG ? 2 : 1);
        fence_init();
    }
    __syncthreads();
    if (t == 0) {
        expect(&bar, sizeof s);
        bulk(s, in, sizeof s, &bar);
    }
    wait(&bar, 0);
    out[t] = s[T - 1 - t] * 2;
}
PAIR(bulk_parity, ) {  // the second round is waited for with the parity of the first
    __shared__ alignas(128) int s[2][T];
    __shared__ uint64_t bar;
    int t = threadIdx.x;
    if (t == 0) {
        init(&bar, 1);
        fence_init();
    }
    __syncthreads();
    int sum = 0;
    for (int r = 0; r < 2; r++) {
        if (t == 0) {
            expect(&bar, sizeof s[0]);
            bulk(s[r], in + r * T, sizeof s[0], &bar);
        }
        wait(&bar, BUG ? 0 : r & 1);
        sum += s[r][T - 1 - t];
        __syncthreads();
    }
    out[t] = sum;
}
PAIR(bulk_late_expect, ) {  // correct in both: bytes are expected after the copies; the bug reads
                            // the other half too early
    __shared__ alignas(128) int s[T];
    __shared__ uint64_t bar;
    int t = threadIdx.x;
    if (t == 0) {
        init(&bar, 1);
        fence_init();
    }
    __syncthreads();
    if (t == 0) {
        bulk(s, in, sizeof s / 2, &bar);
        bulk(s + T / 2, in + T / 2, sizeof s / 2, &bar);
        expect(&bar, BUG ? sizeof s / 2 : sizeof s);
    }
    wait(&bar, 0);
    out[t] = s[T - 1 - t] * 2;
}
PAIR(bulk_store_fence, ) {  // ordinary stores, then a bulk copy out of shared memory
    __shared__ alignas(128) int s[T];
    int t = threadIdx.x;
    s[t] = in[T - 1 - t] * 2;
    if (!BUG) fence_async();
    __syncthreads();
    if (t == 0) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(out),
                     "r"(sh(s)), "r"((int)sizeof s)
                     : "memory");
        commit_bulk();
        wait_bulk();
    }
}
PAIR(bulk_store_overwritten, ) {  // the source is written again while the copy still reads it
    __shared__ alignas(128) int s[T];
    int t = threadIdx.x;
    for (int r = 0; r < 2; r++) {
        s[t] = in[r * T + t] * 2;
        fence_async();
        __syncthreads();
        if (t == 0) {
            asm volatile(
                "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(out + r * T),
                "r"(sh(s)), "r"((int)sizeof s)
                : "memory");
            commit_bulk();
            if (!BUG) wait_bulk_read();
        }
        __syncthreads();
    }
    if (t == 0) wait_bulk();
}
PAIR(bulk_reused, ) {  // a ring of one stage: the next copy must wait until all have read the last
                       // one
    __shared__ alignas(128) int s[T];
    __shared__ uint64_t full, empty;
    int t = threadIdx.x;
    if (t == 0) {
        init(&full, 1);
        init(&empty, T);
        fence_init();
    }
    __syncthreads();
    int sum = 0;
    for (int r = 0; r < 4; r++) {
        if (t == 0) {
            if (!BUG) wait(&empty, ~r & 1);
            expect(&full, sizeof s);
            bulk(s, in + r * T, sizeof s, &full);
        }
        __syncwarp();
        wait(&full, r & 1);
        sum += s[T - 1 - t] * (r + 1);
        arrive(&empty);
    }
    out[t] = sum;
}

// ---- clusters of 2
#define CLUSTER2 __cluster_dims__(2, 1, 1)
PAIR(cluster_read, CLUSTER2) {  // the neighbour's value is read with no barrier of the cluster
    __shared__ int s[T];
    int t = threadIdx.x, r = rank();
    s[t] = in[r * T + t];
    if (BUG)
        __syncthreads();
    else
        cluster_sync();
    out[r * T + t] = remote(mapa(s + (T - 1 - t), r ^ 1)) * 2;
    cluster_sync();
}
PAIR(cluster_exit, CLUSTER2) {  // a block exits while the other still reads its memory
    __shared__ int s[T];
    int t = threadIdx.x, r = rank();
    s[t] = in[r * T + t];
    cluster_sync();
    if (!BUG || r == 1)
        out[r * T + t] = remote(mapa(s + (T - 1 - t), r ^ 1)) * 2;
    else
        out[r * T + t] = in[(r ^ 1) * T + T - 1 - t] * 2;
    if (!BUG) cluster_sync();
}
PAIR(cluster_push, CLUSTER2) {  // values are pushed; a remote arrival tells of them
    __shared__ int s[T];
    __shared__ uint64_t bar;
    int t = threadIdx.x, r = rank();
    if (t == 0) {
        init(&bar, T);
        fence_init();
    }
    cluster_sync();
    remote_store(mapa(s + t, r ^ 1), in[r * T + t]);
    arrive_at(&bar, r ^ 1);
    if (BUG)
        wait(&bar, 1);
    else
        wait_cluster(&bar, 0);
    out[r * T + t] = s[T - 1 - t] * 2;
    cluster_sync();
}
PAIR(cluster_init, CLUSTER2) {  // a remote barrier is used before its block has made it
    __shared__ int s[T];
    __shared__ uint64_t bar;
    int t = threadIdx.x, r = rank();
    if (t == 0) {
        init(&bar, T);
        fence_init();
    }
    if (BUG)
        __syncthreads();
    else
        cluster_sync();
    remote_store(mapa(s + t, r ^ 1), in[r * T + t]);
    arrive_at(&bar, r ^ 1);
    wait_cluster(&bar, 0);
    out[r * T + t] = s[T - 1 - t] * 2;
    cluster_sync();
}
PAIR(cluster_multicast,
     CLUSTER2) {  // block 0 loads for both; the bug: block 1 doesn't expect the bytes
    __shared__ alignas(1024) __nv_bfloat16 s[64 * 64];
    __shared__ uint64_t bar;
    int t = threadIdx.x, r = rank();
    if (t == 0) {
        init(&bar, 1);
        fence_init();
    }
    cluster_sync();
    if (t == 0) {
        if (BUG && r == 1)
            arrive(&bar);
        else
            expect(&bar, sizeof s);
        if (r == 0) load_multicast(s, &map_a, 0, 0, &bar, 3);
    }
    wait(&bar, 0);
    for (int i = t; i < 64 * 64; i += T) {
        int row = i / 64, column = i % 64;
        out[r * 64 * 64 + i] =
            (int)__bfloat162float(s[row * 64 + (((column / 8) ^ (row % 8)) * 8 + column % 8)]);
    }
    cluster_sync();
}

// ---- tensor maps
// A 64x64 tile, swizzled by 128 bytes.
extern "C" __global__ void ok_map_load(ARGS) {
    __shared__ alignas(1024) __nv_bfloat16 s[64 * 64];
    __shared__ uint64_t bar;
    int t = threadIdx.x;
    if (t == 0) {
        init(&bar, 1);
        fence_init();
        expect(&bar, sizeof s);
        load(s, &map_a, 64, 64, &bar);
    }
    __syncthreads();
    wait(&bar, 0);
    for (int i = t; i < 64 * 64; i += T) {
        int row = i / 64, column = i % 64;
        out[i] = (int)__bfloat162float(
            s[row * 64 + ((column / 8) ^ (row % 8)) * 8 + column % 8]);
    }
}
PAIR(map_store_fence, ) {
    __shared__ alignas(1024) __nv_bfloat16 s[64 * 64];
    int t = threadIdx.x;
    for (int i = t; i < 64 * 64; i += T) {
        int row = i / 64, column = i % 64;
        s[row * 64 + (((column / 8) ^ (row % 8)) * 8 + column % 8)] =
            __float2bfloat16((float)in[i]);
    }
    if (!BUG) fence_async();
    __syncthreads();
    if (t == 0) {
        store(&map_o, 0, 0, s);
        commit_bulk();
        wait_bulk();
    }
}

// ---- wgmma: one tile of 64x64, K of 64, both operands K-major, swizzled by 128 bytes
DEV uint64_t descriptor(const void* p) {
    return (uint64_t)((sh(p) & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}
DEV void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEV void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
DEV void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
DEV void wgmma(float (&d)[32], uint64_t a, uint64_t b, int scale) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %34, 0; "
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%"
        "24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, 0, 0; }"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
          "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
          "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
          "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
          "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "r"(scale));
}
DEV void tile(float (&d)[32], const __nv_bfloat16* a, const __nv_bfloat16* b, bool first) {
    for (int k = 0; k < 4; k++)
        wgmma(d, descriptor(a + 16 * k), descriptor(b + 16 * k), !(first && k == 0));
}
DEV void write(int* out, const float (&d)[32], int width) {
    int t = threadIdx.x % 128, row = t / 32 * 16 + t % 32 / 4, column = t % 4 * 2;
    for (int i = 0; i < 32; i++)
        out[(row + (i / 2 % 2) * 8) * width + column + i / 4 * 8 + i % 2] = (int)d[i];
}
template <int WHAT>
DEV void product(SIGNATURE) {
    __shared__ alignas(1024) __nv_bfloat16 a[64 * 64], b[64 * 64];
    __shared__ uint64_t bar;
    int t = threadIdx.x;
    if (t == 0) {
        init(&bar, 1);
        fence_init();
        expect(&bar, sizeof a + sizeof b);
        load(a, &map_a, 0, 0, &bar);
        load(b, &map_b, 0, 0, &bar);
    }
    __syncthreads();
    if (WHAT == 5) {
        if (t == 0) wait(&bar, 0);
    } else
        wait(&bar, 0);
    float d[32];
    for (int i = 0; i < 32; i++) d[i] = 1.0f;
    if (WHAT != 1) wgmma_fence();
    tile(d, a, b, false);
    wgmma_commit();
    if (WHAT == 2) {
        asm volatile("" : "+f"(d[3]));
        d[3] += 1.0f;
    }
    if (WHAT == 3) {
        a[t] = __float2bfloat16(0.0f);
    }
    if (WHAT != 4) wgmma_wait<0>();
    for (int i = 0; i < 32; i++) asm volatile("" : "+f"(d[i])::"memory");
    write(out, d, 64);
}
#define PRODUCT(name, what) \
    extern "C" __global__ void name(ARGS) { product<what>(PASS); }
PRODUCT(ok_product, 0)
PRODUCT(bug_wgmma_fence, 1)
PRODUCT(bug_wgmma_touched, 2)
PRODUCT(bug_wgmma_overwritten, 3)
PRODUCT(bug_wgmma_wait, 4)
PRODUCT(bug_wgmma_one_waits, 5)
PAIR(wgmma_proxy, ) {  // operands by ordinary stores
    __shared__ alignas(1024) __nv_bfloat16 a[64 * 64], b[64 * 64];
    int t = threadIdx.x;
    for (int i = t; i < 64 * 64; i += T) {
        int row = i / 64, column = i % 64,
            at = row * 64 + (((column / 8) ^ (row % 8)) * 8 + column % 8);
        a[at] = __float2bfloat16((float)in[i]);
        b[at] = __float2bfloat16((float)(in[i + 64 * 64]));
    }
    if (!BUG) fence_async();
    __syncthreads();
    float d[32];
    wgmma_fence();
    tile(d, a, b, true);
    wgmma_commit();
    wgmma_wait<0>();
    write(out, d, 64);
}

// ---- a GEMM of n / 64 steps: a producer warp, two consumer warpgroups (rows 0..63 and 64..127), a
// ring of 2 stages
enum {
    RIGHT,
    ONE_ARRIVES,
    NO_EMPTY,
    EMPTY_PARITY,
    FULL_PARITY,
    ARRIVE_EARLY,
    WRONG_EMPTY_COUNT,
    CLUSTER_WINDOW,  // every warp arrives through the cluster's window
    CLUSTER_WINDOW_EARLY
};
template <int WHAT>
DEV void gemm(SIGNATURE) {
    extern __shared__ __align__(1024) uint8_t dynamic[];
    constexpr int S = 2, A = 128 * 64 * 2, B = 64 * 64 * 2;
    __shared__ uint64_t full[S], empty[S];
    int t = threadIdx.x, group = t / 128, steps = n / 64;
    uint8_t* stages = dynamic;
    if (t == 0) {
        for (int s = 0; s < S; s++) {
            init(&full[s], 1);
            init(&empty[s], WHAT == ONE_ARRIVES ? 2 : WHAT == WRONG_EMPTY_COUNT ? 7 : 8);
        }
        fence_init();
    }
    __syncthreads();
    if (group == 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (t == 256) {
            for (int k = 0; k < steps; k++) {
                int s = k % S, phase = k / S & 1;
                if (WHAT != NO_EMPTY) wait(&empty[s], WHAT == EMPTY_PARITY ? phase : phase ^ 1);
                uint8_t* stage = stages + s * (A + B);
                expect(&full[s], A + B);
                load(stage, &map_a, k * 64, 0, &full[s]);
                load(stage + A / 2, &map_a, k * 64, 64, &full[s]);
                load(stage + A, &map_b, k * 64, 0, &full[s]);
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        float d[32];
        for (int i = 0; i < 32; i++) d[i] = 0.0f;
        for (int k = 0; k < steps; k++) {
            int s = k % S, phase = k / S & 1;
            wait(&full[s], WHAT == FULL_PARITY ? phase ^ 1 : phase);
            uint8_t* stage = stages + s * (A + B);
            for (int i = 0; i < 32; i++) asm volatile("" : "+f"(d[i])::"memory");
            wgmma_fence();
            tile(d, (__nv_bfloat16*)(stage + group * A / 2), (__nv_bfloat16*)(stage + A), false);
            wgmma_commit();
            if (WHAT == ARRIVE_EARLY && t % 32 == 0) arrive(&empty[s]);
            if (WHAT == CLUSTER_WINDOW_EARLY && t % 32 == 0) arrive_at(&empty[s], rank());
            wgmma_wait<0>();
            for (int i = 0; i < 32; i++) asm volatile("" : "+f"(d[i])::"memory");
            if (WHAT == CLUSTER_WINDOW) {
                if (t % 32 == 0) arrive_at(&empty[s], rank());
            } else if (WHAT == ONE_ARRIVES
                           ? t % 128 == 0
                           : WHAT != ARRIVE_EARLY && WHAT != CLUSTER_WINDOW_EARLY && t % 32 == 0) {
                arrive(&empty[s]);
            }
        }
        write(out + group * 64 * 64, d, 64);
    }
}
#define GEMM(name, what) \
    extern "C" __global__ void __launch_bounds__(384) name(ARGS) { gemm<what>(PASS); }
GEMM(ok_gemm, RIGHT)
GEMM(bug_gemm_one_arrives, ONE_ARRIVES)
GEMM(bug_gemm_no_empty, NO_EMPTY)
GEMM(bug_gemm_empty_parity, EMPTY_PARITY)
GEMM(bug_gemm_full_parity, FULL_PARITY)
GEMM(bug_gemm_arrive_early, ARRIVE_EARLY)
GEMM(bug_gemm_empty_count, WRONG_EMPTY_COUNT)
GEMM(ok_gemm_cluster_window, CLUSTER_WINDOW)
GEMM(bug_gemm_cluster_window, CLUSTER_WINDOW_EARLY)
