// nvcuda::wmma. Which lane holds which element is not specified by CUDA: here element i of lane l is number 32 i + l of the tile.
#pragma once
#include <type_traits>

#include "cuda.h"

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };
namespace precision {
struct tf32 {};
}  // namespace precision

template <class T>
struct Stored {
    using type = T;
};
template <>
struct Stored<precision::tf32> {
    using type = float;
};

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
    static constexpr int rows = std::is_same_v<Use, matrix_b> ? K : M, columns = std::is_same_v<Use, matrix_a> ? K : N;
    static constexpr int num_elements = rows * columns / 32;
    using element_type = typename Stored<T>::type;
    element_type x[num_elements];
};

inline void together(const char* what) { cushim::meet(what, 0xffffffffu, nullptr, cushim::nothing, true); }

template <class F>
void visit(layout_t layout, unsigned stride, F f, int rows, int columns) {
    for (int i = 0; i < rows * columns / 32; i++) {
        const int at = 32 * i + int(cushim::current->lane), row = at / columns, column = at % columns;
        f(i, layout == mem_row_major ? size_t(row) * stride + column : size_t(column) * stride + row);
    }
}

template <class U, int M, int N, int K, class T, class L, class V>
void fill_fragment(fragment<U, M, N, K, T, L>& f, V value) {
    for (auto& x : f.x) x = typename fragment<U, M, N, K, T, L>::element_type(value);
}

template <class Fragment, class T>
void load_tile(Fragment& f, const T* p, unsigned stride, layout_t layout) {
    together("wmma.load");
    visit(layout, stride, [&](int i, size_t at) { f.x[i] = p[at]; }, Fragment::rows, Fragment::columns);
}
template <class U, int M, int N, int K, class T, class L, class P>
void load_matrix_sync(fragment<U, M, N, K, T, L>& f, const P* p, unsigned stride) {
    load_tile(f, p, stride, std::is_same_v<L, col_major> ? mem_col_major : mem_row_major);
}
template <int M, int N, int K, class T, class P>
void load_matrix_sync(fragment<accumulator, M, N, K, T>& f, const P* p, unsigned stride, layout_t layout) {
    load_tile(f, p, stride, layout);
}
template <int M, int N, int K, class T, class P>
void store_matrix_sync(P* p, const fragment<accumulator, M, N, K, T>& f, unsigned stride, layout_t layout) {
    together("wmma.store");
    visit(layout, stride, [&](int i, size_t at) { p[at] = f.x[i]; }, M, N);
}

template <class T, class V>
double operand(V value) {
    if constexpr (std::is_same_v<T, precision::tf32>)
        return cushim::bits<float>(cushim::bits<uint32_t>(value) & 0xffffe000);
    else if constexpr (std::is_same_v<V, __half> || std::is_same_v<V, __nv_bfloat16>)
        return float(value);
    else
        return double(value);
}

template <int M, int N, int K, class TA, class TB, class TD, class TC, class LA, class LB>
void mma_sync(fragment<accumulator, M, N, K, TD>& d, const fragment<matrix_a, M, N, K, TA, LA>& a,
              const fragment<matrix_b, M, N, K, TB, LB>& b, const fragment<accumulator, M, N, K, TC>& c) {
    using A = fragment<matrix_a, M, N, K, TA, LA>;
    using B = fragment<matrix_b, M, N, K, TB, LB>;
    using C = fragment<accumulator, M, N, K, TC>;
    using D = fragment<accumulator, M, N, K, TD>;
    struct All {
        const A* a;
        const B* b;
        const C* c;
        D* d;
    } all{&a, &b, &c, &d};
    cushim::meet(
        "wmma.mma", 0xffffffffu, &all,
        [](void* const* lanes) {
            double left[M * K], right[K * N], sums[M * N];
            for (int lane = 0; lane < 32; lane++) {
                const All& l = *static_cast<All*>(lanes[lane]);
                for (int i = 0; i < A::num_elements; i++) left[32 * i + lane] = operand<TA>(l.a->x[i]);
                for (int i = 0; i < B::num_elements; i++) right[32 * i + lane] = operand<TB>(l.b->x[i]);
                for (int i = 0; i < C::num_elements; i++) sums[32 * i + lane] = operand<TC>(l.c->x[i]);
            }
            for (int i = 0; i < M; i++)
                for (int k = 0; k < K; k++)
                    for (int j = 0; j < N; j++) sums[i * N + j] += left[i * K + k] * right[k * N + j];
            for (int lane = 0; lane < 32; lane++) {
                const All& l = *static_cast<All*>(lanes[lane]);
                for (int i = 0; i < D::num_elements; i++) l.d->x[i] = TD(sums[32 * i + lane]);
            }
        },
        true);
}

inline float __float_to_tf32(float a) { return cushim::bits<float>((cushim::bits<uint32_t>(a) + 0x1000) & 0xffffe000); }

}  // namespace nvcuda::wmma
