// CUDA's vector types, with its alignments.
#pragma once
#include "cushim/core.h"

#define CUSHIM_VECTOR(NAME, T)                                                      \
    struct NAME##1 {                                                                \
        T x;                                                                        \
    };                                                                              \
    struct alignas(2 * sizeof(T)) NAME##2 {                                         \
        T x, y;                                                                     \
    };                                                                              \
    struct NAME##3 {                                                                \
        T x, y, z;                                                                  \
    };                                                                              \
    struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) NAME##4 {               \
        T x, y, z, w;                                                               \
    };                                                                              \
    inline NAME##1 make_##NAME##1(T x) { return {x}; }                              \
    inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                      \
    inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }              \
    inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }

CUSHIM_VECTOR(char, signed char)
CUSHIM_VECTOR(uchar, unsigned char)
CUSHIM_VECTOR(short, short)
CUSHIM_VECTOR(ushort, unsigned short)
CUSHIM_VECTOR(int, int)
CUSHIM_VECTOR(uint, unsigned int)
CUSHIM_VECTOR(long, long)
CUSHIM_VECTOR(ulong, unsigned long)
CUSHIM_VECTOR(longlong, long long)
CUSHIM_VECTOR(ulonglong, unsigned long long)
CUSHIM_VECTOR(float, float)
CUSHIM_VECTOR(double, double)
#undef CUSHIM_VECTOR

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
