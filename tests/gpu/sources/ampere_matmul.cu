// C (M x N, float) = A (M x K, half) B (K x N, half): 64 x 64 tiles, four warps of 32 x 32, three stages of cp.async.
// Rows of shared memory are 16-byte chunks, exchanged within eight rows so that ldmatrix meets no bank twice.
#include <cuda_fp16.h>

constexpr int TILE = 64, DEPTH = 32, STAGES = 3;

__device__ __forceinline__ unsigned window(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// Chunk `column` (of 16 bytes) of row `row`, in rows of `chunks` chunks.
__device__ __forceinline__ int place(int row, int column, int chunks) {
    return row * chunks * 8 + ((column ^ (row / (8 / chunks))) % chunks) * 8;
}

__device__ __forceinline__ void copy(half* to, const half* from, bool inside) {
    int bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(window(to)), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void load4(unsigned (&r)[4], const half* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(window(from)));
}
__device__ __forceinline__ void load2_turned(unsigned (&r)[2], const half* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(window(from)));
}
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

extern "C" __global__ void __launch_bounds__(128) matmul(const half* __restrict__ a, const half* __restrict__ b,
                                                         float* __restrict__ c, int m, int n, int k) {
    extern __shared__ __align__(16) half memory[];
    half* sa = memory;                          // STAGES x TILE rows of DEPTH
    half* sb = memory + STAGES * TILE * DEPTH;  // STAGES x DEPTH rows of TILE
    const int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;

    auto fetch = [&](int step) {
        if (step * DEPTH < k) {
            const int stage = step % STAGES;
            for (int i = threadIdx.x; i < TILE * DEPTH / 8; i += 128) {
                const int row = i / (DEPTH / 8), column = i % (DEPTH / 8);
                const bool inside = first_row + row < m && step * DEPTH + column * 8 < k;
                const half* from = inside ? a + (first_row + row) * k + step * DEPTH + column * 8 : a;
                copy(sa + stage * TILE * DEPTH + place(row, column, DEPTH / 8), from, inside);
            }
            for (int i = threadIdx.x; i < TILE * DEPTH / 8; i += 128) {
                const int row = i / (TILE / 8), column = i % (TILE / 8);
                const bool inside = step * DEPTH + row < k && first_column + column * 8 < n;
                const half* from = inside ? b + (step * DEPTH + row) * n + first_column + column * 8 : b;
                copy(sb + stage * TILE * DEPTH + place(row, column, TILE / 8), from, inside);
            }
        }
        asm volatile("cp.async.commit_group;\n" ::);
    };

    float sums[2][4][4] = {};
    const int steps = (k + DEPTH - 1) / DEPTH;
    for (int i = 0; i < STAGES - 1; i++) fetch(i);
    for (int step = 0; step < steps; step++) {
        asm volatile("cp.async.wait_group %0;\n" ::"n"(STAGES - 2));
        __syncthreads();  // BARRIER
        fetch(step + STAGES - 1);
        const half* ta = sa + step % STAGES * TILE * DEPTH;
        const half* tb = sb + step % STAGES * TILE * DEPTH;
        for (int kk = 0; kk < DEPTH; kk += 16) {
            unsigned ra[2][4], rb[4][2];
            for (int i = 0; i < 2; i++)
                load4(ra[i], ta + place(warp_row + i * 16 + lane % 16, kk / 8 + lane / 16, DEPTH / 8));
            for (int j = 0; j < 4; j++)
                load2_turned(rb[j], tb + place(kk + lane % 16, warp_column / 8 + j, TILE / 8));
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++) multiply(sums[i][j], ra[i], rb[j]);
        }
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
                const int row = first_row + warp_row + i * 16 + lane / 4 + e / 2 * 8;
                const int column = first_column + warp_column + j * 8 + lane % 4 * 2 + e % 2;
                if (row < m && column < n) c[row * n + column] = sums[i][j][e];
            }
}
