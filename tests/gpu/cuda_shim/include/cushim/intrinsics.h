// CUDA's built-in names: indices, barriers, shuffles, votes, atomics, mathematics.
#pragma once
#include "cushim/half.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __maxnreg__(...)
#define __grid_constant__
#define __constant__ static
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __CUDACC__ 1
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 900
#endif

#define threadIdx (cushim::current->thread_idx)
#define blockIdx (cushim::current->block_idx)
#define blockDim (cushim::current->block_dim)
#define gridDim (cushim::current->grid_dim)
constexpr int warpSize = 32;

// --- barriers and votes --------------------------------------------------------------------------------------------

#define __syncthreads() (cushim::at(__LINE__), (void)cushim::block_barrier(0, 0, false))
#define __syncthreads_count(p) (cushim::at(__LINE__), cushim::block_barrier(0, 0, false, cushim::Vote::popc, !!(p)))
#define __syncthreads_and(p) (cushim::at(__LINE__), cushim::block_barrier(0, 0, false, cushim::Vote::all, !!(p)))
#define __syncthreads_or(p) (cushim::at(__LINE__), cushim::block_barrier(0, 0, false, cushim::Vote::any, !!(p)))
#define __syncwarp(...) (cushim::at(__LINE__), cushim::sync_warp(__VA_ARGS__))
#define __activemask() (cushim::at(__LINE__), cushim::active_mask())

namespace cushim {

inline void nothing(void* const*) {}
inline void sync_warp(uint32_t mask = 0xffffffffu) {
    warp_memory_order(mask);
    meet("__syncwarp", mask, nullptr, nothing, false);
    warp_memory_order(mask);
}

enum ShuffleMode { up, down, xor_, idx };
struct Shuffled {
    uint64_t value, result;
    uint32_t by, clamp;
    ShuffleMode mode;
    bool inside;
};
void combine_shuffle(void* const* lanes);
void combine_ballot(void* const* lanes);
void combine_match(void* const* lanes);
void combine_reduce(void* const* lanes);
struct Voted {
    uint64_t value;
    uint32_t ballot, present;
};
struct Reduced {
    uint32_t value, result;
    int operation;  // 0 add, 1 min, 2 max, 3 and, 4 or, 5 xor
    bool is_signed;
};

inline Shuffled shuffle(ShuffleMode mode, uint32_t mask, uint64_t value, uint32_t by, uint32_t clamp) {
    Shuffled s{value, 0, by, clamp, mode, false};
    static const char* const names[] = {"shfl.up", "shfl.down", "shfl.bfly", "shfl.idx"};
    meet(names[mode], mask, &s, combine_shuffle, false);
    return s;
}
template <class T>
T shuffle_of(ShuffleMode mode, uint32_t mask, T value, uint32_t by, int width) {
    static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    const uint32_t clamp = uint32_t(32 - width) << 8 | (mode == up ? 0 : 31);
    word = shuffle(mode, mask, word, by, clamp).result;
    memcpy(&value, &word, sizeof value);
    return value;
}
inline Voted vote(uint32_t mask, uint64_t value) {
    Voted v{value, 0, 0};
    meet("vote", mask, &v, combine_ballot, false);
    return v;
}
inline uint32_t match_any(uint32_t mask, uint64_t value) {
    Voted v{value, 0, 0};
    meet("match.any", mask, &v, combine_match, false);
    return v.ballot;
}
inline uint32_t reduce(uint32_t mask, uint32_t value, int operation, bool is_signed) {
    Reduced r{value, 0, operation, is_signed};
    meet("redux", mask, &r, combine_reduce, false);
    return r.result;
}

}  // namespace cushim

template <class T>
T __shfl_sync(unsigned mask, T v, int lane, int width = 32) {
    return cushim::shuffle_of(cushim::idx, mask, v, unsigned(lane), width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
    return cushim::shuffle_of(cushim::up, mask, v, by, width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
    return cushim::shuffle_of(cushim::down, mask, v, by, width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int by, int width = 32) {
    return cushim::shuffle_of(cushim::xor_, mask, v, unsigned(by), width);
}
inline unsigned __ballot_sync(unsigned mask, int p) { return cushim::vote(mask, p != 0).ballot; }
inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
inline int __all_sync(unsigned mask, int p) {
    const cushim::Voted v = cushim::vote(mask, p != 0);
    return v.ballot == v.present;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    return cushim::match_any(mask, word);
}
inline unsigned __reduce_add_sync(unsigned m, unsigned v) { return cushim::reduce(m, v, 0, false); }
inline int __reduce_add_sync(unsigned m, int v) { return int(cushim::reduce(m, unsigned(v), 0, true)); }
inline unsigned __reduce_min_sync(unsigned m, unsigned v) { return cushim::reduce(m, v, 1, false); }
inline int __reduce_min_sync(unsigned m, int v) { return int(cushim::reduce(m, unsigned(v), 1, true)); }
inline unsigned __reduce_max_sync(unsigned m, unsigned v) { return cushim::reduce(m, v, 2, false); }
inline int __reduce_max_sync(unsigned m, int v) { return int(cushim::reduce(m, unsigned(v), 2, true)); }

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) { cushim::spin(); }
[[noreturn]] inline void __trap() { cushim::fail("trap"); }
inline size_t __cvta_generic_to_shared(const void* p) { return cushim::shared_address(p); }
inline void* __cvta_shared_to_generic(size_t a) { return cushim::shared_pointer(uint32_t(a), 1, 1); }
inline size_t __cvta_generic_to_global(const void* p) { return size_t(p); }
inline bool __isShared(const void* p) { return cushim::is_shared(p); }
inline bool __isGlobal(const void* p) { return !cushim::is_shared(p); }

// --- atomics: one thread runs at a time, so an update is atomic as it is ---------------------------------------------

#define CUSHIM_ATOMIC(NAME, EXPRESSION)                    \
    template <class T, class U>                            \
    T NAME(T* p, U by) {                                   \
        cushim::note_atomic(p, sizeof(T));                 \
        T old;                                             \
        cushim::peek(&old, p, sizeof old);                 \
        const T value = T(by), result = T(EXPRESSION);     \
        cushim::poke(p, &result, sizeof old);              \
        return old;                                        \
    }                                                      \
    template <class T, class U>                            \
    T NAME##_block(T* p, U by) {                           \
        return NAME(p, by);                                \
    }
CUSHIM_ATOMIC(atomicAdd, old + value)
CUSHIM_ATOMIC(atomicSub, old - value)
CUSHIM_ATOMIC(atomicMin, value < old ? value : old)
CUSHIM_ATOMIC(atomicMax, value > old ? value : old)
CUSHIM_ATOMIC(atomicAnd, old & value)
CUSHIM_ATOMIC(atomicOr, old | value)
CUSHIM_ATOMIC(atomicXor, old ^ value)
CUSHIM_ATOMIC(atomicExch, value)
CUSHIM_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
CUSHIM_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef CUSHIM_ATOMIC
template <class T, class U, class V>
T atomicCAS(T* p, U compare, V value) {
    cushim::note_atomic(p, sizeof(T));
    T old;
    cushim::peek(&old, p, sizeof old);
    if (old == T(compare)) {
        const T result = T(value);
        cushim::poke(p, &result, sizeof old);
    } else {
        cushim::spin();  // a lock that somebody else holds
    }
    return old;
}

// --- memory and bits -----------------------------------------------------------------------------------------------

#define CUSHIM_LOAD(NAME)                                  \
    template <class T>                                     \
    T NAME(const T* p) {                                   \
        return *p;                                         \
    }
CUSHIM_LOAD(__ldg)
CUSHIM_LOAD(__ldcg)
CUSHIM_LOAD(__ldca)
CUSHIM_LOAD(__ldcs)
CUSHIM_LOAD(__ldlu)
CUSHIM_LOAD(__ldcv)
#undef CUSHIM_LOAD
#define CUSHIM_STORE(NAME)                                 \
    template <class T>                                     \
    void NAME(T* p, T v) {                                 \
        *p = v;                                            \
    }
CUSHIM_STORE(__stwb)
CUSHIM_STORE(__stcg)
CUSHIM_STORE(__stcs)
CUSHIM_STORE(__stwt)
#undef CUSHIM_STORE

inline int __float_as_int(float a) { return cushim::bits<int>(a); }
inline unsigned __float_as_uint(float a) { return cushim::bits<unsigned>(a); }
inline float __int_as_float(int a) { return cushim::bits<float>(a); }
inline float __uint_as_float(unsigned a) { return cushim::bits<float>(a); }
inline long long __double_as_longlong(double a) { return cushim::bits<long long>(a); }
inline double __longlong_as_double(long long a) { return cushim::bits<double>(a); }
inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __clz(unsigned a) { return a ? __builtin_clz(a) : 32; }
inline int __ffs(unsigned a) { return __builtin_ffs(int(a)); }
inline unsigned __brev(unsigned a) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (a >> i & 1) << (31 - i);
    return r;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const uint64_t both = uint64_t(b) << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned s = selector >> 4 * i & 15;
        unsigned byte = both >> 8 * (s & 7) & 255;
        if (s & 8) byte = byte & 128 ? 255 : 0;
        r |= byte << 8 * i;
    }
    return r;
}
inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
template <class A, class B>
int dot4_(unsigned a, unsigned b, int c) {
    for (int i = 0; i < 4; i++) c += int(A(a >> 8 * i)) * int(B(b >> 8 * i));
    return c;
}
inline int __dp4a(int a, int b, int c) { return dot4_<int8_t, int8_t>(unsigned(a), unsigned(b), c); }
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) { return unsigned(dot4_<uint8_t, uint8_t>(a, b, int(c))); }

// --- mathematics ---------------------------------------------------------------------------------------------------

inline float max(float a, float b) { return fmaxf(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
#define CUSHIM_MINMAX(T)                                   \
    inline T max(T a, T b) { return a > b ? a : b; }       \
    inline T min(T a, T b) { return a < b ? a : b; }
CUSHIM_MINMAX(int)
CUSHIM_MINMAX(unsigned)
CUSHIM_MINMAX(long)
CUSHIM_MINMAX(unsigned long)
CUSHIM_MINMAX(long long)
CUSHIM_MINMAX(unsigned long long)
#undef CUSHIM_MINMAX
inline float __expf(float a) { return expf(a); }
inline float __exp10f(float a) { return powf(10.0f, a); }
inline float exp10f(float a) { return powf(10.0f, a); }
inline float __logf(float a) { return logf(a); }
inline float __log2f(float a) { return log2f(a); }
inline float __log10f(float a) { return log10f(a); }
inline float __powf(float a, float b) { return powf(a, b); }
inline float __sinf(float a) { return sinf(a); }
inline float __cosf(float a) { return cosf(a); }
inline float __tanf(float a) { return tanf(a); }
inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
inline float __frsqrt_rn(float a) { return 1.0f / sqrtf(a); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __saturatef(float a) { return a != a ? 0.0f : fminf(fmaxf(a, 0.0f), 1.0f); }
inline int __float2int_rn(float a) { return int(rintf(a)); }
inline int __float2int_rz(float a) { return int(a); }
inline int __float2int_rd(float a) { return int(floorf(a)); }
inline int __float2int_ru(float a) { return int(ceilf(a)); }
inline unsigned __float2uint_rn(float a) { return unsigned(rintf(a)); }
inline float __int2float_rn(int a) { return float(a); }
inline float normcdff(float a) { return 0.5f * erfcf(-a * 0.70710678118654752440f); }
