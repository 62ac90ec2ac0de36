// CUDA's 16-bit floating-point types: bits, conversions with round to nearest even, arithmetic in float with one rounding.
#pragma once
#include <math.h>

#include "cushim/vectors.h"

struct __half;
struct __nv_bfloat16;

namespace cushim {

template <class To, class From>
inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "a change of type keeps the size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

inline float half_to_float(uint16_t h) { return float(bits<_Float16>(h)); }
inline uint16_t float_to_half(float f) { return bits<uint16_t>(_Float16(f)); }
inline uint16_t double_to_half(double d) { return bits<uint16_t>(_Float16(d)); }

inline float bfloat_to_float(uint16_t b) { return bits<float>(uint32_t(b) << 16); }
inline uint16_t float_to_bfloat(float f) {
    const uint32_t u = bits<uint32_t>(f);
    if (f != f) return 0x7fff;
    return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
inline uint16_t double_to_bfloat(double d) {
    // Rounded to odd in float first, so that the second rounding sees what the first one cut off.
    float f = float(d);
    if (double(f) != d && !isnan(d) && !isinf(f)) {
        uint32_t u = bits<uint32_t>(f);
        if (fabs(double(f)) > fabs(d)) u--;
        f = bits<float>(u | 1);
    }
    return float_to_bfloat(f);
}

inline float widen(__half h);
inline float widen(__nv_bfloat16 b);

}  // namespace cushim

#define CUSHIM_FLOAT16(NAME, FROM_FLOAT, FROM_DOUBLE, TO_FLOAT)                          \
    struct NAME {                                                                        \
        uint16_t raw;                                                                    \
        NAME() = default;                                                                \
        NAME(float f) : raw(cushim::FROM_FLOAT(f)) {}                                    \
        NAME(double d) : raw(cushim::FROM_DOUBLE(d)) {}                                  \
        NAME(int i) : raw(cushim::FROM_DOUBLE(i)) {}                                     \
        NAME(unsigned i) : raw(cushim::FROM_DOUBLE(i)) {}                                \
        NAME(short i) : raw(cushim::FROM_DOUBLE(i)) {}                                   \
        NAME(unsigned short i) : raw(cushim::FROM_DOUBLE(i)) {}                          \
        NAME(long i) : raw(cushim::FROM_DOUBLE(double(i))) {}                            \
        NAME(unsigned long i) : raw(cushim::FROM_DOUBLE(double(i))) {}                   \
        NAME(long long i) : raw(cushim::FROM_DOUBLE(double(i))) {}                       \
        NAME(unsigned long long i) : raw(cushim::FROM_DOUBLE(double(i))) {}              \
        template <typename T, std::enable_if_t<std::is_same_v<T, volatile NAME>, int> = 0>\
        NAME(T& other) : raw(other.raw) {}                                               \
        template <typename T, std::enable_if_t<std::is_same_v<T, NAME>, int> = 0>        \
        void operator=(const T& other) volatile { raw = other.raw; }                     \
        operator float() const { return cushim::TO_FLOAT(raw); }                         \
        NAME& operator+=(NAME b) { return *this = NAME(float(*this) + float(b)); }       \
        NAME& operator-=(NAME b) { return *this = NAME(float(*this) - float(b)); }       \
        NAME& operator*=(NAME b) { return *this = NAME(float(*this) * float(b)); }       \
        NAME& operator/=(NAME b) { return *this = NAME(float(*this) / float(b)); }       \
    };                                                                                   \
    inline NAME operator+(NAME a, NAME b) { return NAME(float(a) + float(b)); }          \
    inline NAME operator-(NAME a, NAME b) { return NAME(float(a) - float(b)); }          \
    inline NAME operator*(NAME a, NAME b) { return NAME(float(a) * float(b)); }          \
    inline NAME operator/(NAME a, NAME b) { return NAME(float(a) / float(b)); }          \
    inline NAME operator+(NAME a) { return a; }                                          \
    inline NAME operator-(NAME a) { return NAME(-float(a)); }                            \
    inline bool operator==(NAME a, NAME b) { return float(a) == float(b); }              \
    inline bool operator!=(NAME a, NAME b) { return float(a) != float(b); }              \
    inline bool operator<(NAME a, NAME b) { return float(a) < float(b); }                \
    inline bool operator>(NAME a, NAME b) { return float(a) > float(b); }                \
    inline bool operator<=(NAME a, NAME b) { return float(a) <= float(b); }              \
    inline bool operator>=(NAME a, NAME b) { return float(a) >= float(b); }              \
    struct alignas(4) NAME##2 {                                                          \
        NAME x, y;                                                                       \
        NAME##2() = default;                                                             \
        NAME##2(NAME x, NAME y) : x(x), y(y) {}                                          \
    };                                                                                   \
    inline float cushim::widen(NAME a) { return float(a); }

CUSHIM_FLOAT16(__half, float_to_half, double_to_half, half_to_float)
CUSHIM_FLOAT16(__nv_bfloat16, float_to_bfloat, double_to_bfloat, bfloat_to_float)
#undef CUSHIM_FLOAT16

using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

// --- the intrinsics of both types ----------------------------------------------------------------------------------

#define CUSHIM_UNARY(NAME, T, EXPRESSION)                  \
    inline T NAME(T value) {                               \
        const float a = float(value);                      \
        return T(float(EXPRESSION));                       \
    }                                                      \
    inline T##2 NAME##_pair_(T##2 v) { return {NAME(v.x), NAME(v.y)}; }
#define CUSHIM_BINARY(NAME, PAIR, T, EXPRESSION)           \
    inline T NAME(T left, T right) {                       \
        const float a = float(left), b = float(right);     \
        return T(float(EXPRESSION));                       \
    }                                                      \
    inline T##2 PAIR(T##2 l, T##2 r) { return {NAME(l.x, r.x), NAME(l.y, r.y)}; }
#define CUSHIM_COMPARE(NAME, T, OPERATOR) \
    inline bool NAME(T a, T b) { return float(a) OPERATOR float(b); }

#define CUSHIM_INTRINSICS(T)                                                                            \
    CUSHIM_UNARY(hexp, T, expf(a))                                                                      \
    CUSHIM_UNARY(hexp2, T, exp2f(a))                                                                    \
    CUSHIM_UNARY(hexp10, T, powf(10.0f, a))                                                             \
    CUSHIM_UNARY(hlog, T, logf(a))                                                                      \
    CUSHIM_UNARY(hlog2, T, log2f(a))                                                                    \
    CUSHIM_UNARY(hlog10, T, log10f(a))                                                                  \
    CUSHIM_UNARY(hsqrt, T, sqrtf(a))                                                                    \
    CUSHIM_UNARY(hrsqrt, T, 1.0f / sqrtf(a))                                                            \
    CUSHIM_UNARY(hrcp, T, 1.0f / a)                                                                     \
    CUSHIM_UNARY(hsin, T, sinf(a))                                                                      \
    CUSHIM_UNARY(hcos, T, cosf(a))                                                                      \
    CUSHIM_UNARY(hfloor, T, floorf(a))                                                                  \
    CUSHIM_UNARY(hceil, T, ceilf(a))                                                                    \
    CUSHIM_UNARY(htrunc, T, truncf(a))                                                                  \
    CUSHIM_UNARY(hrint, T, rintf(a))                                                                    \
    CUSHIM_UNARY(htanh, T, tanhf(a))                                                                    \
    CUSHIM_UNARY(__hneg, T, -a)                                                                         \
    CUSHIM_UNARY(__habs, T, fabsf(a))                                                                   \
    CUSHIM_BINARY(__hadd, __hadd2, T, a + b)                                                            \
    CUSHIM_BINARY(__hsub, __hsub2, T, a - b)                                                            \
    CUSHIM_BINARY(__hmul, __hmul2, T, a * b)                                                            \
    CUSHIM_BINARY(__hdiv, __h2div, T, a / b)                                                            \
    CUSHIM_BINARY(__hmax, __hmax2, T, fmaxf(a, b))                                                      \
    CUSHIM_BINARY(__hmin, __hmin2, T, fminf(a, b))                                                      \
    CUSHIM_COMPARE(__heq, T, ==)                                                                        \
    CUSHIM_COMPARE(__hne, T, !=)                                                                        \
    CUSHIM_COMPARE(__hlt, T, <)                                                                         \
    CUSHIM_COMPARE(__hgt, T, >)                                                                         \
    CUSHIM_COMPARE(__hle, T, <=)                                                                        \
    CUSHIM_COMPARE(__hge, T, >=)                                                                        \
    inline bool __hisnan(T a) { return isnan(float(a)); }                                               \
    inline T __hfma(T a, T b, T c) { return T(double(a) * double(b) + double(c)); }                     \
    inline T##2 __hfma2(T##2 a, T##2 b, T##2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; } \
    inline T##2 __hneg2(T##2 a) { return __hneg_pair_(a); }                                             \
    inline T##2 __habs2(T##2 a) { return __habs_pair_(a); }                                             \
    inline T##2 h2exp(T##2 a) { return hexp_pair_(a); }                                                 \
    inline T##2 h2exp2(T##2 a) { return hexp2_pair_(a); }                                               \
    inline T##2 h2rcp(T##2 a) { return hrcp_pair_(a); }                                                 \
    inline T##2 h2sqrt(T##2 a) { return hsqrt_pair_(a); }                                               \
    inline T##2 h2rsqrt(T##2 a) { return hrsqrt_pair_(a); }                                             \
    inline T##2 operator+(T##2 a, T##2 b) { return __hadd2(a, b); }                                     \
    inline T##2 operator-(T##2 a, T##2 b) { return __hsub2(a, b); }                                     \
    inline T##2 operator*(T##2 a, T##2 b) { return __hmul2(a, b); }                                     \
    inline T##2 operator/(T##2 a, T##2 b) { return __h2div(a, b); }

CUSHIM_INTRINSICS(__half)
CUSHIM_INTRINSICS(__nv_bfloat16)
#undef CUSHIM_INTRINSICS
#undef CUSHIM_COMPARE
#undef CUSHIM_BINARY
#undef CUSHIM_UNARY

#define CUSHIM_CONVERSIONS(T, NAME, PAIR, FROM)                                                         \
    inline float __##NAME##2float(T a) { return float(a); }                                             \
    inline T __float2##NAME(float a) { return T(a); }                                                   \
    inline T __float2##NAME##_rn(float a) { return T(a); }                                              \
    inline T __double2##NAME(double a) { return T(a); }                                                 \
    inline T __int2##NAME##_rn(int a) { return T(a); }                                                  \
    inline T __uint2##NAME##_rn(unsigned a) { return T(a); }                                            \
    inline int __##NAME##2int_rn(T a) { return int(rintf(float(a))); }                                  \
    inline int __##NAME##2int_rz(T a) { return int(float(a)); }                                         \
    inline unsigned short __##NAME##_as_ushort(T a) { return a.raw; }                                   \
    inline short __##NAME##_as_short(T a) { return short(a.raw); }                                      \
    inline T __ushort_as_##NAME(unsigned short a) { return cushim::bits<T>(uint16_t(a)); }              \
    inline T __short_as_##NAME(short a) { return cushim::bits<T>(uint16_t(a)); }                        \
    inline T##2 __halves2##PAIR(T a, T b) { return {a, b}; }                                            \
    inline T##2 __floats2##PAIR##_rn(float a, float b) { return {T(a), T(b)}; }                         \
    inline T##2 __float2##PAIR##_rn(float a) { return {T(a), T(a)}; }                                   \
    inline T##2 __float22##PAIR##_rn(float2 a) { return {T(a.x), T(a.y)}; }                             \
    inline float2 __##FROM##22float2(T##2 a) { return {float(a.x), float(a.y)}; }                       \
    inline T##2 make_##PAIR(T a, T b) { return {a, b}; }                                                \
    inline T##2 __##NAME##2##PAIR(T a) { return {a, a}; }                                               \
    inline float __low2float(T##2 a) { return float(a.x); }                                             \
    inline float __high2float(T##2 a) { return float(a.y); }

CUSHIM_CONVERSIONS(__half, half, half2, half)
CUSHIM_CONVERSIONS(__nv_bfloat16, bfloat16, bfloat162, bfloat16)
#undef CUSHIM_CONVERSIONS

inline __half __low2half(__half2 a) { return a.x; }
inline __half __high2half(__half2 a) { return a.y; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 a) { return a.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 a) { return a.y; }
