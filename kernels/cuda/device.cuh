// Device primitives: memory, warps, tensor cores, conversions. The only file that contains PTX; it needs no CUDA header.
// tests/cuda_emulator/device.cuh implements the same names on a CPU with the same semantics.
#pragma once

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

#define DEVICE __device__ __forceinline__
// Define a kernel. The last argument is a template instance that takes the kernel's arguments by reference.
#define KERNEL(name, Arguments, threads, ...)                                               \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(const Arguments arguments) { \
        allow_next_launch();                                                                \
        __VA_ARGS__(arguments);                                                             \
    }

template <class T>
using Global = T*;
template <class T>
using Shared = T*;

// A view of the dynamic shared memory; offset in bytes, a multiple of 16.
template <class T>
DEVICE Shared<T> shared_at(u32 offset) {
    extern __shared__ uint4 shared_words[];
    return reinterpret_cast<T*>(reinterpret_cast<char*>(shared_words) + offset);
}

DEVICE u32 thread() { return threadIdx.x; }
DEVICE u32 threads() { return blockDim.x; }
DEVICE u32 block_x() { return blockIdx.x; }
DEVICE u32 block_y() { return blockIdx.y; }
DEVICE u32 block_z() { return blockIdx.z; }
DEVICE u32 blocks_x() { return gridDim.x; }
DEVICE u32 blocks_z() { return gridDim.z; }

// Programmatic dependent launch: from sm_90 on, consecutive launches of a stream may overlap. After `allow_next_launch` the
// next kernel may start; it blocks at its `wait_for_previous`. Code before `wait_for_previous` must not read what an
// earlier launch writes, and must not write anything.
DEVICE void allow_next_launch() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
DEVICE void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Prefetch `bytes` (a multiple of 16) from element i on into the L2 cache, asynchronously.
template <class T>
DEVICE void prefetch(Global<const T> p, long long i, u32 bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p + i), "r"(bytes));
#endif
}

// Load a value that an earlier launch may have written. Not through the read-only cache: with overlapping launches that
// launch may end after this one began.
template <class T>
DEVICE T load(Global<const T> p, long long i) {
    return p[i];
}
// The same if `enabled`, else 0 without a load. Predicated, because a branch would keep loads from being batched.
DEVICE uint2 load_if(bool enabled, Global<const uint2> p, long long i) {
    uint2 v;
    asm volatile(
        "{\n.reg .pred enabled;\nsetp.ne.u32 enabled, %3, 0;\nmov.u32 %0, 0;\nmov.u32 %1, 0;\n"
        "@enabled ld.global.v2.u32 {%0, %1}, [%2];\n}"
        : "=&r"(v.x), "=&r"(v.y)
        : "l"(p + i), "r"(static_cast<u32>(enabled)));
    return v;
}
// Load a value that no launch writes, through the read-only cache.
template <class T>
DEVICE T load_constant(Global<const T> p, long long i) {
    return __ldg(p + i);
}
// The same for a weight word, if `enabled`. It is read once, so it must not evict anything from L1.
DEVICE uint4 load_once_if(bool enabled, Global<const uint4> p, long long i) {
    uint4 v;
    asm("{\n.reg .pred enabled;\nsetp.ne.u32 enabled, %5, 0;\nmov.u32 %0, 0;\nmov.u32 %1, 0;\nmov.u32 %2, 0;\nmov.u32 %3, 0;\n"
        "@enabled ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
        : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w)
        : "l"(p + i), "r"(static_cast<u32>(enabled)));
    return v;
}
// Load a value that another block of the same launch may have written: from L2, past this SM's L1 cache.
template <class T>
DEVICE T load_fresh(Global<T> p, long long i) {
    return __ldcg(p + i);
}
template <class T>
DEVICE void store(Global<T> p, long long i, T v) {
    p[i] = v;
}
DEVICE u32 add_global(Global<u32> p, long long i, u32 v) { return atomicAdd(p + i, v); }
DEVICE void add_shared(Shared<int> p, u32 i, int v) { atomicAdd(p + i, v); }

DEVICE void sync_block() { __syncthreads(); }
DEVICE void fence() { __threadfence(); }
template <class T>
DEVICE T shuffle_xor(T v, u32 lanes) {
    return __shfl_xor_sync(0xffffffffu, v, lanes);
}

DEVICE int largest_in_warp(int v) { return __reduce_max_sync(0xffffffffu, v); }
DEVICE int sum_in_warp(int v) { return __reduce_add_sync(0xffffffffu, v); }

// Copy 16 bytes from global to shared memory asynchronously; both addresses are multiples of 16.
DEVICE void copy_async(Shared<uint4> to, u32 i, Global<const uint4> from, long long j) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(to + i));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from + j) : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Wait until at most `Pending` of this thread's newest copy groups are in flight.
template <int Pending>
DEVICE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// c += popcount(a & b): (16 rows x 256 bits) times (256 bits x 8 columns).
DEVICE void mma_b1(int (&c)[4], const uint4& a, const uint2& b) {
    asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}
// The same over 128 bits.
DEVICE void mma_b1_half(int (&c)[4], u32 a0, u32 a1, u32 b) {
    asm("mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(b));
}
// c += a b: (16 rows x 32 unsigned bytes) times (32 unsigned bytes x 8 columns).
DEVICE void mma_u8(int (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Intrinsics round once and are never contracted to a fused multiply-add, so outputs equal the reference bit for bit.
DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
DEVICE float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
DEVICE float square_root(float a) { return __fsqrt_rn(a); }
DEVICE float exponential(float a) { return expf(a); }
DEVICE float to_float(int a) { return __int2float_rn(a); }
DEVICE float round_even(float a) { return rintf(a); }
DEVICE float bits_as_float(u32 a) { return __uint_as_float(a); }
DEVICE u32 float_as_bits(float a) { return __float_as_uint(a); }

DEVICE u16 to_half(float a) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(a));
    return h;
}
DEVICE u16 to_bfloat(float a) {
    u16 h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(a));
    return h;
}
DEVICE float from_half(u16 h) {
    float a;
    asm("cvt.f32.f16 %0, %1;" : "=f"(a) : "h"(h));
    return a;
}
DEVICE float from_bfloat(u16 h) { return bits_as_float(static_cast<u32>(h) << 16); }
