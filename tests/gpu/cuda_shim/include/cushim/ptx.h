// What translated inline PTX calls. Registers are their bits, in unsigned integers of their width; predicates are bools.
#pragma once
#include <type_traits>

#include "cushim/intrinsics.h"
#include "cushim/tensor_map.h"

namespace cushim::ptx {

// --- registers -----------------------------------------------------------------------------------------------------

template <size_t bytes>
struct UnsignedOf;
template <>
struct UnsignedOf<1> {
    using type = uint8_t;
};
template <>
struct UnsignedOf<2> {
    using type = uint16_t;
};
template <>
struct UnsignedOf<4> {
    using type = uint32_t;
};
template <>
struct UnsignedOf<8> {
    using type = uint64_t;
};

// The operand of an asm statement as a register of type R, and back.
template <class R, class T>
R in(const T& value) {
    if constexpr (std::is_array_v<T>)
        return R(reinterpret_cast<uintptr_t>(&value[0]));
    else if constexpr (std::is_pointer_v<T>)
        return R(reinterpret_cast<uintptr_t>(value));
    else if constexpr (sizeof(T) == sizeof(R) && !std::is_same_v<T, bool>)
        return bits<R>(value);
    else
        return R(int64_t(value));
}
template <class T, class R>
void out(T& place, R value) {
    if constexpr (sizeof(T) == sizeof(R) && !std::is_same_v<T, bool>)
        memcpy(&place, &value, sizeof value);
    else
        place = T(value);
}

// A register, or an immediate, as a number of type T; and a number put into a register.
template <class T, class R>
T as(R value) {
    if constexpr (std::is_floating_point_v<R>)
        return T(value);
    else if constexpr (std::is_same_v<T, bool>)
        return value != 0;
    else
        return bits<T>(typename UnsignedOf<sizeof(T)>::type(value));
}
template <class R, class T>
void set(R& place, T value) {
    if constexpr (std::is_integral_v<T>)
        place = std::is_signed_v<T> ? R(int64_t(value)) : R(uint64_t(value));
    else
        place = R(bits<typename UnsignedOf<sizeof(T)>::type>(value));
}

// --- numbers -------------------------------------------------------------------------------------------------------

template <class T>
T smaller(T a, T b) {
    if constexpr (std::is_integral_v<T>)
        return b < a ? b : a;
    else
        return T(fminf(float(a), float(b)));
}
template <class T>
T greater(T a, T b) {
    if constexpr (std::is_integral_v<T>)
        return b > a ? b : a;
    else
        return T(fmaxf(float(a), float(b)));
}
inline double smaller(double a, double b) { return fmin(a, b); }
inline double greater(double a, double b) { return fmax(a, b); }
inline __half2 smaller(__half2 a, __half2 b) { return __hmin2(a, b); }
inline __half2 greater(__half2 a, __half2 b) { return __hmax2(a, b); }
inline __nv_bfloat162 smaller(__nv_bfloat162 a, __nv_bfloat162 b) { return __hmin2(a, b); }
inline __nv_bfloat162 greater(__nv_bfloat162 a, __nv_bfloat162 b) { return __hmax2(a, b); }
inline float fused(float a, float b, float c) { return fmaf(a, b, c); }
inline double fused(double a, double b, double c) { return fma(a, b, c); }
inline __half fused(__half a, __half b, __half c) { return __hfma(a, b, c); }
inline __half2 fused(__half2 a, __half2 b, __half2 c) { return __hfma2(a, b, c); }
inline __nv_bfloat16 fused(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) { return __hfma(a, b, c); }
inline __nv_bfloat162 fused(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) { return __hfma2(a, b, c); }
template <class T>
T exp_2(T a) {
    return T(exp2f(float(a)));
}
inline __half2 exp_2(__half2 a) { return h2exp2(a); }
inline __nv_bfloat162 exp_2(__nv_bfloat162 a) { return h2exp2(a); }
template <class T>
T hyperbolic_tangent(T a) {
    return T(tanhf(float(a)));
}
inline __half2 hyperbolic_tangent(__half2 a) { return {htanh(a.x), htanh(a.y)}; }
inline __nv_bfloat162 hyperbolic_tangent(__nv_bfloat162 a) { return {htanh(a.x), htanh(a.y)}; }
template <class T>
T shift_left(T a, uint32_t by) {
    return by >= sizeof(T) * 8 ? T(0) : T(a << by);
}
template <class T>
T shift_right(T a, uint32_t by) {
    const uint32_t most = sizeof(T) * 8 - 1;
    if (by > most) return std::is_signed_v<T> ? T(a >> most) : T(0);
    return T(a >> by);
}
inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
    uint32_t r = 0;
    for (int i = 0; i < 8; i++)
        if (table >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return r;
}
template <class T>
T extract_bits(T a, uint32_t from, uint32_t count) {
    using U = std::make_unsigned_t<T>;
    const uint32_t width = sizeof(T) * 8;
    from &= 255, count &= 255;
    if (!count) return 0;
    if (from >= width) return std::is_signed_v<T> && a < 0 ? T(-1) : T(0);
    if (from + count > width) count = width - from;
    return T(T(U(a) << (width - from - count)) >> (width - count));
}
template <class T>
T insert_bits(T a, T b, uint32_t from, uint32_t count) {
    for (uint32_t i = 0; i < count && from + i < sizeof(T) * 8; i++)
        b = (b & ~(T(1) << (from + i))) | ((a >> i & 1) << (from + i));
    return b;
}
inline uint32_t funnel_left(uint32_t a, uint32_t b, uint32_t c) { return uint32_t((uint64_t(b) << 32 | a) << (c & 31) >> 32); }
inline uint32_t funnel_right(uint32_t a, uint32_t b, uint32_t c) { return uint32_t((uint64_t(b) << 32 | a) >> (c & 31)); }

// Conversion of numbers: integers from real ones are clamped and NaN gives 0, as in PTX.
template <class To, class From>
To whole(From value) {
    const double v = double(value);
    if (v != v) return 0;
    const double low = std::is_signed_v<To> ? -ldexp(1.0, sizeof(To) * 8 - 1) : 0.0;
    const double high = ldexp(1.0, int(sizeof(To) * 8) - int(std::is_signed_v<To>));
    if (v <= low) return To(std::is_signed_v<To> ? To(1) << (sizeof(To) * 8 - 1) : To(0));
    if (v >= high) return std::is_signed_v<To> ? To(~(To(1) << (sizeof(To) * 8 - 1))) : To(~To(0));
    return To(v);
}
template <class To, class From>
To saturate_whole(From value) {
    return whole<To>(double(value));
}
// Round to nearest, ties away from zero, to tf32's 10 bits of mantissa.
inline float to_tf32(float a) {
    uint32_t u = bits<uint32_t>(a);
    if ((u & 0x7f800000) != 0x7f800000) u += 0x1000;
    return bits<float>(u & 0xffffe000);
}

// --- memory --------------------------------------------------------------------------------------------------------

// What brackets hold: a generic 64-bit address, or a 32-bit one of the shared window.
inline char* shared(uint64_t address, size_t bytes) { return static_cast<char*>(shared_pointer(uint32_t(address), bytes, bytes)); }
char* generic(uint64_t address, size_t bytes);
template <class T>
T load(const char* p) {
    T value;
    __builtin_memcpy(&value, p, sizeof value);
    return value;
}
template <class T>
void store(char* p, T value) {
    __builtin_memcpy(p, &value, sizeof value);
}
// Loads that others' stores are waited for with: the others get their turn first.
inline void polling() { spin(); }

uint32_t special(const char* name);
uint64_t special64(const char* name);
bool elect(uint32_t mask, uint32_t& leader);
uint32_t shuffle32(ShuffleMode mode, uint32_t value, uint32_t by, uint32_t clamp, uint32_t mask, bool& inside);
void proxy_fence();

// --- matrices ------------------------------------------------------------------------------------------------------

enum Element { f16, bf16, tf32, f32, f64, s8, u8, s32, e4m3, e5m2 };
struct Mma {
    int m, n, k;
    Element d, a, b, c;
    bool saturate;
};
void mma(const Mma& what, uint64_t* d, const uint64_t* a, const uint64_t* b, const uint64_t* c);
void load_matrix(uint32_t* registers, int count, bool transposed, uint64_t address);
void store_matrix(const uint32_t* registers, int count, bool transposed, uint64_t address);

struct Wgmma {
    int n, k;
    Element d, a, b;
    bool a_in_registers, accumulate, transpose_a, transpose_b;
    int scale_a, scale_b;
};
// `d`: where the accumulators of this thread are; they are written when the operation is carried out, which may be late.
void wgmma(const Wgmma& what, void* const* d, const uint64_t* a, uint64_t b);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(unsigned left);

// --- asynchronous copies -------------------------------------------------------------------------------------------

void copy_async(uint64_t to, uint64_t from, unsigned bytes, unsigned filled_from);
void copy_commit();
void copy_wait(unsigned left);
void copy_wait_all();
void copy_arrive(uint64_t barrier, bool counted_before);

void barrier_init(uint64_t barrier, uint32_t count);
void barrier_invalidate(uint64_t barrier);
uint64_t barrier_arrive(uint64_t barrier, uint32_t count, int64_t expected_bytes, bool drop);
void barrier_expect(uint64_t barrier, int64_t bytes);
bool barrier_test(uint64_t barrier, uint32_t parity, bool wait);

void bulk_load(uint64_t to, uint64_t from, uint32_t bytes, uint64_t barrier, int multicast);
void bulk_store(uint64_t to, uint64_t from, uint32_t bytes);
void tensor_load(uint64_t to, uint64_t map, const int32_t* at, int rank, uint64_t barrier, int multicast);
enum Reduction { none, add, minimum, maximum };
void tensor_store(uint64_t map, const int32_t* at, int rank, uint64_t from, Reduction reduction);
void bulk_commit();
void bulk_wait(unsigned left);

}  // namespace cushim::ptx
