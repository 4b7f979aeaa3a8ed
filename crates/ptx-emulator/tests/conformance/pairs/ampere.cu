// Pairs of kernels about ordering and undefined data: of each `bug_NAME` there is a correct
// `ok_NAME`, which the template parameter BUG tells apart. Compiled by
// tests/fixtures/regenerate.sh.
#include <cuda_fp16.h>
#include <stdint.h>

#define ARGS const int *in, int *out, int *tmp, int n
#define PAIR(name)                                                               \
    template <bool BUG>                                                          \
    DEV void name(ARGS);                                                         \
    extern "C" __global__ void bug_##name(ARGS) { name<true>(in, out, tmp, n); } \
    extern "C" __global__ void ok_##name(ARGS) { name<false>(in, out, tmp, n); } \
    template <bool BUG>                                                          \
    DEV void name(ARGS)
#define DEV __device__ __forceinline__

constexpr int T = 128;

DEV uint32_t sh(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
DEV void copy4(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(sh(to)), "l"(from) : "memory");
}
DEV void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
DEV void waitg() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
DEV int ldacq(const int* p) {
    int v;
    asm volatile("ld.acquire.gpu.b32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
DEV int ldacq_cta(const int* p) {
    int v;
    asm volatile("ld.acquire.cta.b32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
DEV void strel(int* p, int v) {
    asm volatile("st.release.gpu.b32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
DEV int addrel(int* p, int v) {
    int o;
    asm volatile("atom.add.acq_rel.gpu.s32 %0, [%1], %2;" : "=r"(o) : "l"(p), "r"(v) : "memory");
    return o;
}
DEV int ldnc(const int* p) {
    int v;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
DEV void redadd(int* p) {
    asm volatile("red.relaxed.gpu.global.add.s32 [%0], 1;" ::"l"(p) : "memory");
}
DEV void redrel(int* p) {
    asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(p) : "memory");
}
DEV int relaxed_add(int* p, int v) {
    int o;
    asm volatile("atom.add.relaxed.gpu.s32 %0, [%1], %2;" : "=r"(o) : "l"(p), "r"(v) : "memory");
    return o;
}
DEV int ldrelaxed(const int* p) {
    int v;
    asm volatile("ld.relaxed.gpu.b32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
DEV void strelaxed(int* p, int v) {
    asm volatile("st.relaxed.gpu.b32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
DEV void bar_sync(int id, int n) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory"); }
DEV void bar_arrive(int id, int n) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n) : "memory");
}
// ---------- one block of 128
PAIR(sh_nosync) {
    __shared__ int s[T];
    int t = threadIdx.x;
    s[t] = in[t];
    if (!BUG) __syncthreads();
    out[t] = s[T - 1 - t];
}
PAIR(sh_volatile) {
    __shared__ volatile int s[T];
    int t = threadIdx.x;
    s[t] = in[t];
    if (!BUG) __syncthreads();
    out[t] = s[T - 1 - t];
}
PAIR(sh_war) {
    __shared__ int s[T];
    int t = threadIdx.x;
    s[t] = in[t];
    __syncthreads();
    int v = s[T - 1 - t];
    if (!BUG) __syncthreads();
    s[t] = v;
    __syncthreads();
    out[t] = s[T - 1 - t];
}
PAIR(sh_lane) {
    __shared__ int s[T];
    int t = threadIdx.x;
    s[t] = in[t];
    if (!BUG) __syncwarp();
    out[t] = s[t ^ 5];
}
PAIR(sh_halfwarp) {
    __shared__ int s[T];
    int t = threadIdx.x, l = t % 32;
    s[t] = in[t];
    if (BUG) {
        if (l < 16)
            __syncwarp(0xffff);
        else
            __syncwarp(0xffff0000);
    } else
        __syncwarp();
    out[t] = s[t ^ 16];
}
PAIR(sh_halfvote) {
    __shared__ int s[T];
    int t = threadIdx.x, l = t % 32;
    s[t] = in[t];
    if (BUG) {
        if (l < 16) {
            if (__any_sync(0xffff, in[t] == 12345)) s[t] = 0;
        }
    } else
        __syncwarp();
    out[t] = s[t ^ 16];
}
PAIR(sh_3readers) {
    __shared__ int s[4];
    int t = threadIdx.x;
    if (t == 0) s[0] = in[5];
    __syncthreads();
    int v = 0;
    if (t < 96) v = s[0];
    if (!BUG) __syncthreads();
    if (t == 96) s[0] = 7;
    out[t] = t < 96 ? v : 0;
}
PAIR(sh_3readers_first) {
    __shared__ int s[4];
    int t = threadIdx.x;
    if (t == 96) s[0] = in[5];
    __syncthreads();
    int v = 0;
    if (t >= 32) v = s[0];
    __syncwarp();
    if (!BUG) __syncthreads();
    if (t == 0) s[0] = 7;
    out[t] = t >= 32 ? v : 0;
}
PAIR(sh_bytes) {
    __shared__ unsigned char s[T];
    int t = threadIdx.x;
    s[(t % 4) * 32 + t / 4] = t;
    __syncthreads();
    int v = s[t];
    if (!BUG) __syncthreads();
    s[(t + 32) % T] = v;
    __syncthreads();
    out[t] = s[t];
}
PAIR(sh_half16) {
    __shared__ short s[2 * T];
    int t = threadIdx.x;
    s[(t % 32) * 4 + t / 32] = t;
    if (!BUG)
        __syncthreads();
    else if (t >= 96)
        __syncwarp();
    out[t] = s[(t % 32) * 4 + (t / 32 + 1) % 4];
}
PAIR(sh_atomic_lane) {  // lane 1's data, lane 0's release, another warp's acquire
    __shared__ int d;
    __shared__ int f;
    int t = threadIdx.x;
    if (t == 0) f = 0;
    __syncthreads();
    if (t < 32) {
        if (t == 1) d = in[3];
        if (!BUG) __syncwarp();
        if (t == 0) {
            __threadfence_block();
            atomicExch(&f, 1);
        }
    }
    int v = 0;
    if (t == 64) {
        while (atomicAdd(&f, 0) == 0);
        __threadfence_block();
        v = d;
    }
    out[t] = v;
}
PAIR(sh_acquire_lane) {  // lane 0 acquires, lane 1 reads
    __shared__ int d;
    __shared__ int f;
    int t = threadIdx.x;
    if (t == 0) f = 0;
    __syncthreads();
    if (t == 64) {
        d = in[3];
        __threadfence_block();
        atomicExch(&f, 1);
    }
    int v = 0;
    if (t < 32) {
        if (t == 0) {
            while (atomicAdd(&f, 0) == 0);
            __threadfence_block();
        }
        if (!BUG) __syncwarp();
        if (t == 1) v = d;
    }
    out[t] = v;
}
PAIR(sh_named) {  // warps 0 and 1 meet at barrier 1, warp 2 reads with them, or not
    __shared__ int s[T];
    int t = threadIdx.x;
    s[t] = in[t];
    if (t < 64) bar_sync(1, 64);
    if (!BUG) __syncthreads();
    out[t] = t >= 64 ? s[t - 64] : s[t ^ 32];
}
PAIR(bar_counts) {  // one barrier, two counts
    __shared__ int s[T];
    int t = threadIdx.x;
    s[t] = in[t];
    if (t < 64)
        bar_sync(1, BUG ? 64 : 128);
    else
        bar_sync(1, 128);
    out[t] = s[t];
}
PAIR(bar_producer) {  // warps 0, 1 produce for 2, 3: arrive and sync; the bug: consumer goes on
                      // without
    __shared__ int s[64];
    int t = threadIdx.x;
    int v = 0;
    for (int r = 0; r < 3; r++) {
        if (t < 64) {
            if (r > 0) bar_sync(2, 128);
            s[t] = in[t] + r;
            bar_arrive(1, 128);
        } else {
            if (BUG) {
                if (r == 0) bar_sync(1, 128);
            } else
                bar_sync(1, 128);
            v += s[t - 64];
            if (r < 2) bar_arrive(2, 128);
        }
    }
    out[t] = v;
}
PAIR(cp_source) {  // the source is written while the copy may still read it
    __shared__ __align__(16) int s[T];
    int t = threadIdx.x;
    tmp[t] = in[t];
    copy4(s + t, tmp + t);
    commit();
    if (!BUG) waitg<0>();
    tmp[t] = 0;
    if (BUG) waitg<0>();
    __syncthreads();
    out[t] = s[T - 1 - t];
}
PAIR(cp_store) {  // an ordinary store into the destination
    __shared__ __align__(16) int s[T];
    int t = threadIdx.x;
    copy4(s + t, in + t);
    commit();
    if (!BUG) {
        waitg<0>();
        __syncthreads();
    }
    if (t == 0) s[64] = 5;
    waitg<0>();
    __syncthreads();
    out[t] = t == 63 ? 5 : s[T - 1 - t];
}
PAIR(cp_two) {  // two warps copy into one stage
    __shared__ __align__(16) int s[T];
    int t = threadIdx.x;
    copy4(s + (BUG ? t % 64 : t), in + t);
    commit();
    waitg<0>();
    __syncthreads();
    out[t] = s[t % 64];
}
PAIR(cp_wait) {
    __shared__ __align__(16) int s[T];
    int t = threadIdx.x;
    copy4(s + t, in + t);
    commit();
    if (!BUG) waitg<0>();
    __syncthreads();
    out[t] = s[T - 1 - t];
    if (BUG) waitg<0>();
}
PAIR(cp_bar) {
    __shared__ __align__(16) int s[T];
    int t = threadIdx.x;
    copy4(s + t, in + t);
    commit();
    waitg<0>();
    if (!BUG) __syncthreads();
    out[t] = s[T - 1 - t];
}
PAIR(cp_ring) {
    __shared__ __align__(16) int s[2][T];
    int t = threadIdx.x, v = 0;
    copy4(&s[0][t], in + t);
    commit();
    for (int r = 0; r < 6; r++) {
        if (r < 5) copy4(&s[~r & 1][t], in + (r + 1) * T + t);
        commit();
        waitg<1>();
        __syncthreads();
        v += s[r & 1][T - 1 - t] * (r + 1);
        if (!BUG) __syncthreads();
    }
    waitg<0>();
    out[t] = v;
}
PAIR(shfl_mask) {  // the source lane isn't in the mask
    int t = threadIdx.x, v = in[t];
    if (t % 32 < 16) v = __shfl_sync(0xffff, v, BUG ? 20 : 4);
    out[t] = v;
}
PAIR(shfl_exited) {
    int t = threadIdx.x, v = in[t];
    if (t % 32 >= 24) {
        out[t] = v;
        return;
    }
    v = __shfl_sync(0xffffff, v, BUG ? 30 : 3, 32);
    out[t] = v;
}
PAIR(out_unwritten) {
    int t = threadIdx.x;
    if (!BUG || t != 77) out[t] = t == 77 ? 0 : in[t];
}
PAIR(sh_unwritten) {
    __shared__ int s[T];
    int t = threadIdx.x;
    if (!BUG || t != 9) s[t] = in[t];
    __syncthreads();
    out[t] = s[T - 1 - t];
}
PAIR(hfma2_half) {  // one half of a pair is never written, and its result dropped
    __shared__ __half s[2 * T];
    int t = threadIdx.x;
    s[2 * t] = __float2half((float)(in[t] % 64));
    __syncthreads();
    __half2 v = *(__half2*)(s + 2 * t);
    v = __hfma2(v, __float2half2_rn(2.0f), __float2half2_rn(1.0f));
    out[t] = (int)__half2float(BUG ? __high2half(v) : __low2half(v));
}
PAIR(long_poll) {  // a bounded loop of volatile reads is no deadlock (bug: an endless one is)
    int t = threadIdx.x;
    volatile int* f = tmp;
    int k = 0;
    if (t == 0)
        while (*f == 0 && (BUG || k < 300000)) k++;
    out[t] = in[t];
}
PAIR(silent) {  // the same value twice by two warps is fine; another one isn't
    __shared__ int s[2];
    int t = threadIdx.x;
    if (t % 32 == 0) s[0] = BUG ? t : 3;
    __syncthreads();
    out[t] = s[0];
}
// ---------- between blocks
PAIR(g_half16) {  // neighbouring 16-bit elements of two blocks: fine; a third block reads one of
                  // them without order
    int t = threadIdx.x, b = blockIdx.x;
    short* h = (short*)(tmp + 64);
    if (b < 2) {
        h[2 * t + b] = (short)(in[t] + b);
        out[b * T + t] = 0;
        if (!BUG) {
            __syncthreads();
            if (t == 0) addrel(tmp + 1, 1);
        }
    } else {
        if (!BUG) {
            if (t == 0)
                while (ldacq(tmp + 1) < 2);
            __syncthreads();
        }
        out[b * T + t] = h[2 * t] + h[2 * t + 1];
    }
}
PAIR(g_bytes) {
    int t = threadIdx.x, b = blockIdx.x;
    signed char* h = (signed char*)(tmp + 64);
    h[4 * t + b] = (signed char)(b + t % 32);
    out[b * T + t] = t;
    if (BUG) h[4 * t + (b + 1) % 4] = (signed char)(b + 3);
}
PAIR(g_acq_cta) {  // producer releases at gpu, consumer acquires at cta
    int t = threadIdx.x;
    if (blockIdx.x == 0) {
        tmp[64 + t] = in[t];
        __syncthreads();
        if (t == 0) strel(tmp + 1, 1);
    } else {
        if (t == 0) {
            while (!(BUG ? ldacq_cta(tmp + 1) : ldacq(tmp + 1)));
        }
        __syncthreads();
        out[t] = tmp[64 + t];
    }
}
PAIR(g_atom_cta) {
    int t = threadIdx.x;
    if (blockIdx.x == 0) {
        tmp[64 + t] = in[t];
        __syncthreads();
        if (t == 0) {
            __threadfence();
            if (BUG)
                atomicAdd_block(tmp + 1, 1);
            else
                atomicAdd(tmp + 1, 1);
        }
    } else {
        if (t == 0) {
            while (atomicAdd(tmp + 1, 0) == 0);
            __threadfence();
        }
        __syncthreads();
        out[t] = tmp[64 + t];
    }
}
PAIR(g_fence_prod) {  // relaxed flag; fence missing at the producer
    int t = threadIdx.x;
    if (blockIdx.x == 0) {
        tmp[64 + t] = in[t];
        __syncthreads();
        if (t == 0) {
            if (!BUG) __threadfence();
            strelaxed(tmp + 1, 1);
        }
    } else {
        if (t == 0) {
            while (!ldrelaxed(tmp + 1));
            __threadfence();
        }
        __syncthreads();
        out[t] = tmp[64 + t];
    }
}
PAIR(g_fence_cons) {
    int t = threadIdx.x;
    if (blockIdx.x == 0) {
        tmp[64 + t] = in[t];
        __syncthreads();
        if (t == 0) {
            __threadfence();
            strelaxed(tmp + 1, 1);
        }
    } else {
        if (t == 0) {
            while (!ldrelaxed(tmp + 1));
            if (!BUG) __threadfence();
        }
        __syncthreads();
        out[t] = tmp[64 + t];
    }
}
PAIR(g_fence_all) {  // every thread fences, then a barrier, then one relaxed flag, and the mirror
                     // image: fine. Bug: no fence anywhere
    int t = threadIdx.x;
    if (blockIdx.x == 0) {
        tmp[64 + t] = in[t];
        if (!BUG) __threadfence();
        __syncthreads();
        if (t == 0) relaxed_add(tmp + 1, 1);
    } else {
        if (t == 0)
            while (!ldrelaxed(tmp + 1));
        __syncthreads();
        if (!BUG) __threadfence();
        out[t] = tmp[64 + t];
    }
}
PAIR(g_chain) {  // 0 -> 1 -> 2: block 2 reads what 0 wrote, told by 1. Bug: 1 doesn't acquire
    int t = threadIdx.x, b = blockIdx.x;
    if (b == 0) {
        tmp[64 + t] = in[t];
        __syncthreads();
        if (t == 0) strel(tmp + 1, 1);
    }
    if (b == 1) {
        if (t == 0) {
            if (BUG)
                while (!ldrelaxed(tmp + 1));
            else
                while (!ldacq(tmp + 1));
            strel(tmp + 2, 1);
        }
    }
    if (b == 2) {
        if (t == 0)
            while (!ldacq(tmp + 2));
        __syncthreads();
        out[t] = tmp[64 + t];
    }
}
PAIR(g_rmw_chain) {  // a release sequence goes on through another block's relaxed atomic. Bug: a
                     // plain relaxed store instead
    int t = threadIdx.x, b = blockIdx.x;
    if (b == 0) {
        tmp[64 + t] = in[t];
        __syncthreads();
        if (t == 0) addrel(tmp + 1, 1);
    }
    if (b == 1) {
        if (t == 0) {
            while (ldrelaxed(tmp + 1) == 0);
            if (BUG)
                strelaxed(tmp + 1, 2);
            else
                relaxed_add(tmp + 1, 1);
        }
    }
    if (b == 2) {
        if (t == 0)
            while (ldacq(tmp + 1) < 2);
        __syncthreads();
        out[t] = tmp[64 + t];
    }
}
PAIR(g_count) {  // waits for 3 of 4 producers
    int t = threadIdx.x, b = blockIdx.x, g = gridDim.x - 1;
    if (b < g) {
        tmp[64 + b * T + t] = in[b * T + t];
        __syncthreads();
        if (t == 0) addrel(tmp + 1, 1);
    } else {
        if (t == 0)
            while (ldacq(tmp + 1) < g - (BUG ? 1 : 0));
        __syncthreads();
        int s = 0;
        for (int i = 0; i < g; i++) s += tmp[64 + i * T + t];
        out[t] = s;
    }
}
PAIR(g_nc) {  // what const __restrict__ makes
    const int* p = tmp + 64;
    int t = threadIdx.x;
    if (blockIdx.x == 0) {
        tmp[64 + t] = in[t];
        __syncthreads();
        if (t == 0) strel(tmp + 1, 1);
    } else {
        if (t == 0)
            while (!ldacq(tmp + 1));
        __syncthreads();
        out[t] = BUG ? ldnc(p + t) : tmp[64 + t];
    }
}
PAIR(g_red_release) {
    int t = threadIdx.x;
    if (blockIdx.x == 0) {
        tmp[64 + t] = in[t];
        __syncthreads();
        if (t == 0) {
            if (BUG)
                redadd(tmp + 1);
            else
                redrel(tmp + 1);
        }
    } else {
        if (t == 0)
            while (!ldacq(tmp + 1));
        __syncthreads();
        out[t] = tmp[64 + t];
    }
}
PAIR(g_each) {  // each thread hands its own value on by its own flag. Bug: by its neighbour's
    int t = threadIdx.x;
    int* f = tmp + 1024;
    if (blockIdx.x == 0) {
        tmp[64 + t] = in[t];
        strel(f + (BUG ? (t ^ 1) : t), 1);
    } else {
        while (!ldacq(f + t));
        out[t] = tmp[64 + t];
    }
}
PAIR(g_lane_order) {  // one lane's acquire taken for the warp
    int t = threadIdx.x;
    if (blockIdx.x == 0) {
        tmp[64 + t] = in[t];
        __syncthreads();
        if (t == 0) strel(tmp + 1, 1);
    } else if (t < 32) {
        if (t == 0)
            while (!ldacq(tmp + 1));
        if (!BUG) __syncwarp();
        for (int i = 0; i < 4; i++) out[i * 32 + t] = tmp[64 + i * 32 + t];
    }
}
PAIR(g_mixed) {  // a 64-bit atomic over what another block reads plainly
    int t = threadIdx.x;
    unsigned long long* w = (unsigned long long*)(tmp + 64);
    if (blockIdx.x == 0) {
        atomicAdd(w + t, 1ull << 32 | 5);
        if (!BUG) {
            __threadfence();
            __syncthreads();
            if (t == 0) strel(tmp + 1, 1);
        }
    } else {
        if (!BUG) {
            if (t == 0)
                while (!ldacq(tmp + 1));
            __syncthreads();
        }
        out[t] = tmp[64 + 2 * t + 1] + 2;
    }
}
// how many items each block takes of one counter
extern "C" __global__ void share(ARGS) {
    __shared__ int item;
    int t = threadIdx.x, mine = 0;
    for (;;) {
        __syncthreads();
        if (t == 0) item = atomicAdd(tmp, 1);
        __syncthreads();
        if (item >= n) break;
        mine++;
    }
    if (t == 0) out[blockIdx.x] = mine;
}
extern "C" __global__ void share_thread(ARGS) {
    int mine = 0;
    if (threadIdx.x == 0)
        while (atomicAdd(tmp, 1) < n) mine++;
    if (threadIdx.x == 0) out[blockIdx.x] = mine;
}
