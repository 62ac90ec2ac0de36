// C (M x N, float) = A (M x K, half) B^T (N x K, half): a producer warp moves boxes by TMA, a warpgroup multiplies by wgmma.
// Tiles of 64 x 64, 64 deep: rows of 128 bytes with the 128-byte swizzle.
#include <cuda_fp16.h>

constexpr int TILE = 64, DEPTH = 64, STAGES = 2, TILE_BYTES = TILE * DEPTH * 2;

__device__ __forceinline__ unsigned window(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ void init(uint64_t* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(window(barrier)), "r"(arrivals));
}
__device__ __forceinline__ void expect(uint64_t* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(window(barrier)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(window(barrier)) : "memory");
}
__device__ __forceinline__ void wait(uint64_t* barrier, int parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "AGAIN:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra AGAIN;\n"
        "}\n" ::"r"(window(barrier)), "r"(parity) : "memory");
}
__device__ __forceinline__ void load(void* to, const CUtensorMap* map, int column, int row, uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            window(to)), "l"(map), "r"(window(barrier)), "r"(column), "r"(row) : "memory");
}
__device__ __forceinline__ uint64_t descriptor(const void* p) {
    return uint64_t(window(p) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
__device__ __forceinline__ void multiply(float (&d)[32], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
          "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
          "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b));
}

extern "C" __global__ void __launch_bounds__(160) matmul(const __grid_constant__ CUtensorMap map_a,
                                                         const __grid_constant__ CUtensorMap map_b, float* c, int m, int n,
                                                         int k) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    const int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE, steps = (k + DEPTH - 1) / DEPTH;
    if (threadIdx.x == 0)
        for (int i = 0; i < STAGES; i++) {
            init(&full[i], 1);
            init(&empty[i], 128);
        }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    __syncthreads();
    if (threadIdx.x >= 128) {
        if (threadIdx.x == 128)
            for (int step = 0; step < steps; step++) {
                const int stage = step % STAGES;
                wait(&empty[stage], step / STAGES % 2 ^ 1);  // WAIT EMPTY
                expect(&full[stage], 2 * TILE_BYTES);
                load(memory + stage * 2 * TILE_BYTES, &map_a, step * DEPTH, first_row, &full[stage]);
                load(memory + stage * 2 * TILE_BYTES + TILE_BYTES, &map_b, step * DEPTH, first_column, &full[stage]);
            }
        return;
    }
    float sums[32];
    for (int i = 0; i < 32; i++) sums[i] = 0;
    for (int step = 0; step < steps; step++) {
        const int stage = step % STAGES;
        wait(&full[stage], step / STAGES % 2);  // WAIT FULL
        const unsigned char* tile = memory + stage * 2 * TILE_BYTES;
        asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
        for (int kk = 0; kk < DEPTH; kk += 16)
            multiply(sums, descriptor(tile + kk * 2), descriptor(tile + TILE_BYTES + kk * 2));
        asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(0) : "memory");  // WAIT WGMMA
        arrive(&empty[stage]);
    }
    for (int i = 0; i < 32; i++) {
        const int row = first_row + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8;
        const int column = first_column + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
        if (row < m && column < n) c[row * n + column] = sums[i];
    }
}
