// Elements of matrix fragments as numbers.
#pragma once
#include "cushim/ptx.h"

namespace cushim::ptx {

inline unsigned element_bits(Element e) {
    switch (e) {
        case f16: case bf16: return 16;
        case s8: case u8: case e4m3: case e5m2: return 8;
        case f64: return 64;
        default: return 32;
    }
}

double small_float(uint8_t raw, int mantissa_bits);  // e4m3 (3 bits) and e5m2 (2 bits)

// The number whose bits are the lowest of `raw`. Tensor cores read the upper 19 bits of a tf32 operand.
inline double number(Element e, uint64_t raw) {
    switch (e) {
        case f16: return half_to_float(uint16_t(raw));
        case bf16: return bfloat_to_float(uint16_t(raw));
        case tf32: return bits<float>(uint32_t(raw) & 0xffffe000);
        case f32: return bits<float>(uint32_t(raw));
        case f64: return bits<double>(raw);
        case s8: return int8_t(raw);
        case u8: return uint8_t(raw);
        case s32: return int32_t(raw);
        case e4m3: return small_float(uint8_t(raw), 3);
        default: return small_float(uint8_t(raw), 2);
    }
}

// The bits of a result; integer results wrap unless they saturate.
inline uint64_t raw_of(Element e, double value, bool saturate) {
    switch (e) {
        case f16: return double_to_half(value);
        case f32: return bits<uint32_t>(float(value));
        case f64: return bits<uint64_t>(value);
        default: return saturate ? uint32_t(whole<int32_t>(value)) : uint32_t(int64_t(value));
    }
}

// Element `i` of a row of registers that hold `e`, packed from the lowest bits on.
inline double element(Element e, const uint64_t* registers, unsigned i) {
    const unsigned per_register = e == f64 ? 1 : 32 / element_bits(e);
    return number(e, registers[i / per_register] >> i % per_register * element_bits(e));
}

}  // namespace cushim::ptx
