// A stand-in for libamdhip64.so: HIP's names for what the stand-in of NVIDIA's driver does.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <map>

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
EXPORT hipStreamDestroy(void* stream) { return static_cast<fake::Stream*>(stream)->ended = true, 0; }
EXPORT hipStreamSynchronize(void* stream) {
    if (fake::refused(stream)) return 400;
    return fake::synchronized();
}
SAME(hipMalloc, cuMemAlloc_v2, (uintptr_t* a, size_t b), (a, b))
SAME(hipFree, cuMemFree_v2, (uintptr_t a), (a))
SAME(hipHostMalloc, cuMemHostAlloc, (void** a, size_t b, unsigned c), (a, b, c))
SAME(hipMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, (uintptr_t a, const void* b, size_t c, void* d), (a, b, c, d))
SAME(hipMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, (void* a, uintptr_t b, size_t c, void* d), (a, b, c, d))
SAME(hipMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2, (uintptr_t a, uintptr_t b, size_t c, void* d), (a, b, c, d))
SAME(hipMemsetD8Async, cuMemsetD8Async, (uintptr_t a, unsigned char b, size_t c, void* d), (a, b, c, d))

// A module is for the GPU that was the thread's when it was loaded, and its kernels run on no other.
static thread_local int current = 0;
static std::map<void*, int> owners;
extern "C" int cuModuleLoadData(void**, const void*);
extern "C" int cuModuleGetFunction(void**, void*, const char*);
extern "C" int cuModuleUnload(void*);
EXPORT hipModuleLoadData(void** module, const void* code) {
    const int failed = cuModuleLoadData(module, code);
    if (!failed) owners[*module] = current;
    return failed;
}
EXPORT hipModuleGetFunction(void** function, void* module, const char* name) {
    const int failed = cuModuleGetFunction(function, module, name);
    if (!failed) owners[*function] = owners.at(module);
    return failed;
}
EXPORT hipModuleUnload(void* module) { return fake::note("unload"), cuModuleUnload(module); }
extern "C" int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                              void**);
EXPORT hipModuleLaunchKernel(void* f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned shared,
                             void* stream, void** values, void** extra) {
    if (!owners.count(f)) return 400;
    if (owners[f] != current) return 98;
    return cuLaunchKernel(f, a, b, c, d, e, g, shared, stream, values, extra);
}
SAME(hipEventCreateWithFlags, cuEventCreate, (void** a, unsigned b), (a, b))
SAME(hipEventRecord, cuEventRecord, (void* a, void* b), (a, b))
SAME(hipEventDestroy, cuEventDestroy_v2, (void* a), (a))
SAME(hipEventElapsedTime, cuEventElapsedTime, (float* a, void* b, void* c), (a, b, c))
SAME(hipDrvGetErrorString, cuGetErrorString, (int a, const char** b), (a, b))

// The rest is as the stand-in for CUDA's runtime library has it.
EXPORT hipSetDevice(int device) {
    if (device >= fake::devices()) return 101;
    if (device != current) fake::note("device %d", device);
    current = device;
    return 0;
}
EXPORT hipHostFree(void* address) { return fake::unpinned(address); }
EXPORT hipMemcpyAsync(void* target, const void* source, size_t size, int kind, void* stream) {
    const char* ways[] = {"host", "up", "down", "within", "any"};
    return fake::copied(target, source, size, stream, ways[kind]);
}
EXPORT hipMemcpyPeerAsync(void* target, int, const void* source, int, size_t size, void* stream) {
    return fake::copied(target, source, size, stream, "peer");
}
EXPORT hipStreamWaitEvent(void* stream, void*, unsigned) { return fake::note("follow"), fake::refused(stream); }
EXPORT hipDrvGetErrorName(int code, const char** text) {
    static const std::map<int, const char*> names = {
        {1, "hipErrorInvalidValue"}, {2, "hipErrorOutOfMemory"}, {3, "hipErrorNotInitialized"}, {100, "hipErrorNoDevice"},
        {98, "hipErrorInvalidDeviceFunction"}, {101, "hipErrorInvalidDevice"}, {200, "hipErrorInvalidImage"}, {209, "hipErrorNoBinaryForGpu"},
        {400, "hipErrorInvalidHandle"}, {500, "hipErrorNotFound"}, {700, "hipErrorIllegalAddress"},
        {701, "hipErrorLaunchOutOfResources"}, {702, "hipErrorLaunchTimeOut"}, {710, "hipErrorAssert"},
        {719, "hipErrorLaunchFailure"}};
    const auto found = names.find(code);
    return *text = found == names.end() ? nullptr : found->second, found == names.end();
}

EXPORT hipDriverGetVersion(int* version) { return *version = 60342134, 0; }
EXPORT hipDeviceGetAttribute(int* value, int number, int) {
    return fake::attribute(value, number == 63 ? 16 : number == 19 ? 38 : -1);
}
EXPORT hipGetDevicePropertiesR0600(char* room, int) {
    const char* arch = getenv("FAKE_CUDA_GFX");
    strcpy(room + 1160, arch ? arch : "gfx1100");
    return 0;
}
