// mma.sync: fragment layouts of the PTX ISA ("Matrix fragments for mma.m16n8k16" and its neighbours).
#include "matrix.h"

#include "runtime.h"

namespace cushim::ptx {

double small_float(uint8_t raw, int mantissa_bits) {
    const int exponent_bits = 7 - mantissa_bits, bias = (1 << (exponent_bits - 1)) - 1;
    const int mantissa = raw & ((1 << mantissa_bits) - 1), exponent = raw >> mantissa_bits & ((1 << exponent_bits) - 1);
    const double sign = raw & 128 ? -1 : 1;
    if (mantissa_bits == 3 && (raw & 127) == 127) return sign * NAN;
    if (mantissa_bits == 2 && exponent == 31) return mantissa ? NAN : sign * INFINITY;
    const double fraction = ldexp(double(mantissa), -mantissa_bits);
    return sign * (exponent ? ldexp(1 + fraction, exponent - bias) : ldexp(fraction, 1 - bias));
}

namespace {

struct Operands {
    const Mma* what;
    uint64_t* d;
    const uint64_t *a, *b, *c;
};

// One rule covers m16n8k{4,8,16,32} and m8n8k{4,16}: with e elements in a register, lane 4g + t holds of A, in register r,
// row g + 8 (r odd, where there are 16 rows), columns e t to e t + e - 1 of the column block r / 2 (r where there are 8 rows);
// of B, in register r, rows e t ... of the row block r, column g. Blocks have 4 e columns (rows).
struct Shape {
    int m, n, k, e;
    int row_halves() const { return m / 8; }
    int a_registers() const { return m * k / (32 * e); }
    int b_registers() const { return k * n / (32 * e); }
};

void gather(void* const* lanes, const Shape& s, Element ea, Element eb, double* a, double* b) {
    for (int lane = 0; lane < 32; lane++) {
        const auto* mine = static_cast<Operands*>(lanes[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int r = 0; r < s.a_registers(); r++)
            for (int i = 0; i < s.e; i++) {
                const int row = g + 8 * (r % s.row_halves()), column = r / s.row_halves() * 4 * s.e + t * s.e + i;
                a[row * s.k + column] = element(ea, mine->a, r * s.e + i);
            }
        for (int r = 0; r < s.b_registers(); r++)
            for (int i = 0; i < s.e; i++) b[(r * 4 * s.e + t * s.e + i) * s.n + g] = element(eb, mine->b, r * s.e + i);
    }
}

void combine_mma(void* const* lanes) {
    const Mma& what = *static_cast<Operands*>(lanes[0])->what;
    const Shape s{what.m, what.n, what.k, what.a == f64 ? 1 : 32 / int(element_bits(what.a))};
    double a[16 * 64], b[64 * 8], sums[16 * 8];
    gather(lanes, s, what.a, what.b, a, b);
    for (int i = 0; i < s.m; i++)
        for (int j = 0; j < s.n; j++) {
            double sum = 0;
            for (int k = 0; k < s.k; k++) sum += a[i * s.k + k] * b[k * s.n + j];
            sums[i * s.n + j] = sum;
        }
    for (int lane = 0; lane < 32; lane++) {
        const auto* mine = static_cast<Operands*>(lanes[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int half = 0; half < s.row_halves(); half++) {
            uint64_t packed = 0;
            for (int i = 0; i < 2; i++) {
                const int at = half * 2 + i;
                const double value = element(what.c, mine->c, at) + sums[(g + 8 * half) * s.n + 2 * t + i];
                const uint64_t raw = raw_of(what.d, value, what.saturate);
                if (what.d == f16)
                    packed |= raw << 16 * i;
                else
                    mine->d[at] = raw;
            }
            if (what.d == f16) mine->d[half] = packed;
        }
    }
}

}  // namespace

void mma(const Mma& what, uint64_t* d, const uint64_t* a, const uint64_t* b, const uint64_t* c) {
    Operands operands{&what, d, a, b, c};
    meet("mma.sync", 0xffffffffu, &operands, combine_mma, true);
}

}  // namespace cushim::ptx
