// A stand-in for libamdhip64.so: HIP's names for what the stand-in of NVIDIA's driver does.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

#define EXPORT extern "C" __attribute__((visibility("default"))) int
#define SAME(hip, cuda, types, names) \
    extern "C" int cuda types;        \
    EXPORT hip types { return cuda names; }

SAME(hipInit, cuInit, (unsigned a), (a))
SAME(hipGetDeviceCount, cuDeviceGetCount, (int* a), (a))
SAME(hipDeviceGet, cuDeviceGet, (int* a, int b), (a, b))
SAME(hipDeviceGetName, cuDeviceGetName, (char* a, int b, int c), (a, b, c))
SAME(hipDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (void** a, int b), (a, b))
SAME(hipDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, (int a), (a))
SAME(hipCtxSetCurrent, cuCtxSetCurrent, (void* a), (a))
SAME(hipStreamCreateWithFlags, cuStreamCreate, (void** a, unsigned b), (a, b))
SAME(hipStreamDestroy, cuStreamDestroy_v2, (void* a), (a))
SAME(hipStreamSynchronize, cuStreamSynchronize, (void* a), (a))
SAME(hipMalloc, cuMemAlloc_v2, (uintptr_t* a, size_t b), (a, b))
SAME(hipFree, cuMemFree_v2, (uintptr_t a), (a))
SAME(hipHostMalloc, cuMemHostAlloc, (void** a, size_t b, unsigned c), (a, b, c))
SAME(hipMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, (uintptr_t a, const void* b, size_t c, void* d), (a, b, c, d))
SAME(hipMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, (void* a, uintptr_t b, size_t c, void* d), (a, b, c, d))
SAME(hipMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2, (uintptr_t a, uintptr_t b, size_t c, void* d), (a, b, c, d))
SAME(hipMemsetD8Async, cuMemsetD8Async, (uintptr_t a, unsigned char b, size_t c, void* d), (a, b, c, d))
SAME(hipModuleLoadData, cuModuleLoadData, (void** a, const void* b), (a, b))
SAME(hipModuleUnload, cuModuleUnload, (void* a), (a))
SAME(hipModuleGetFunction, cuModuleGetFunction, (void** a, void* b, const char* c), (a, b, c))
SAME(hipModuleLaunchKernel, cuLaunchKernel,
     (void* f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned h, void* s, void** v, void** x),
     (f, a, b, c, d, e, g, h, s, v, x))
SAME(hipEventCreateWithFlags, cuEventCreate, (void** a, unsigned b), (a, b))
SAME(hipEventRecord, cuEventRecord, (void* a, void* b), (a, b))
SAME(hipEventDestroy, cuEventDestroy_v2, (void* a), (a))
SAME(hipEventElapsedTime, cuEventElapsedTime, (float* a, void* b, void* c), (a, b, c))
SAME(hipDrvGetErrorName, cuGetErrorName, (int a, const char** b), (a, b))
SAME(hipDrvGetErrorString, cuGetErrorString, (int a, const char** b), (a, b))

EXPORT hipDriverGetVersion(int* version) { return *version = 60342134, 0; }
EXPORT hipDeviceGetAttribute(int* value, int number, int) {
    return fake::attribute(value, number == 63 ? 16 : number == 19 ? 38 : -1);
}
EXPORT hipGetDevicePropertiesR0600(char* room, int) {
    const char* arch = getenv("FAKE_CUDA_GFX");
    strcpy(room + 1160, arch ? arch : "gfx1100");
    return 0;
}
