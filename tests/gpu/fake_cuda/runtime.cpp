// A stand-in for libcudart.so.13, on top of that for the driver: what TVM's runtime library takes from it.
#include <stdlib.h>
#include <string.h>

#include "state.h"

using namespace fake;
#define EXPORT extern "C" __attribute__((visibility("default"))) int
extern "C" int cuDeviceGetName(char*, int, int);
extern "C" int cuGetErrorName(int, const char**);
extern "C" int cuGetErrorString(int, const char**);

namespace {
int last = 0;
int done(int code) {
    if (code) last = code;
    return code;
}
struct Graph {
    std::vector<std::function<int()>> work;
};
}  // namespace

EXPORT cudaGetDeviceCount(int* count) { return *count = devices(), devices() ? 0 : 100; }
EXPORT cudaSetDevice(int device) { return device < devices() ? 0 : 101; }
EXPORT cudaGetDevice(int* device) { return *device = 0; }
EXPORT cudaDeviceGetAttribute(int* value, int number, int) { return attribute(value, number); }
EXPORT cudaGetDeviceProperties(void*, int) { return 801; }
EXPORT cudaMalloc(uintptr_t* address, size_t size) { return done(allocated(address, size)); }
EXPORT cudaFree(uintptr_t address) { return done(freed(address)); }
EXPORT cudaMallocHost(void** address, size_t size) { return done(pinned_memory(address, size)); }
EXPORT cudaFreeHost(void* address) { return unpinned(address); }
EXPORT cudaMemGetInfo(size_t* free_bytes, size_t* total) { return *free_bytes = *total = size_t(80) << 30, 0; }
EXPORT cudaMemcpyAsync(void* target, const void* source, size_t size, int kind, void* stream) {
    const char* ways[] = {"host", "up", "down", "within", "any"};
    return done(copied(target, source, size, stream, ways[kind]));
}
EXPORT cudaMemcpyPeerAsync(void* target, int, const void* source, int, size_t size, void* stream) {
    return done(copied(target, source, size, stream, "peer"));
}
EXPORT cudaStreamCreate(void** stream) { return *stream = new Stream, note("stream"), 0; }
EXPORT cudaStreamCreateWithFlags(void** stream, unsigned) { return cudaStreamCreate(stream); }
EXPORT cudaStreamDestroy(void* stream) { return static_cast<Stream*>(stream)->ended = true, 0; }
EXPORT cudaStreamSynchronize(void* stream) {
    if (refused(stream)) return done(400);
    if (stream && static_cast<Stream*>(stream)->capturing) return done(900);
    return done(synchronized());
}
EXPORT cudaStreamWaitEvent(void* stream, void*, unsigned) { return note("follow"), done(refused(stream)); }
EXPORT cudaStreamBeginCapture(void* stream, int) {
    if (!stream) return done(900);
    return static_cast<Stream*>(stream)->capturing = true, note("capture"), 0;
}
EXPORT cudaStreamEndCapture(void* stream, void** graph) {
    auto* s = static_cast<Stream*>(stream);
    s->capturing = false;
    auto* made = new Graph;
    made->work.swap(s->captured);
    note("captured %zu", made->work.size());
    return *graph = made, 0;
}
EXPORT cudaGraphInstantiate(void** executable, void* graph, unsigned long long) {
    return *executable = new Graph(*static_cast<Graph*>(graph)), 0;
}
EXPORT cudaGraphLaunch(void* executable, void*) {
    note("graph");
    for (auto& work : static_cast<Graph*>(executable)->work)
        if (const int code = work()) return done(code);
    return 0;
}
EXPORT cudaGraphDestroy(void* graph) { return delete static_cast<Graph*>(graph), 0; }
EXPORT cudaGraphExecDestroy(void* graph) { return delete static_cast<Graph*>(graph), 0; }
EXPORT cudaEventCreate(void** event) { return *event = new double(0), 0; }
EXPORT cudaEventDestroy(void* event) { return delete static_cast<double*>(event), 0; }
EXPORT cudaEventRecord(void* event, void* stream) { return *static_cast<double*>(event) = now, done(refused(stream)); }
EXPORT cudaEventSynchronize(void*) { return done(synchronized()); }
EXPORT cudaEventElapsedTime(float* milliseconds, void* first, void* last_event) {
    return *milliseconds = float((*static_cast<double*>(last_event) - *static_cast<double*>(first)) * 1e3), 0;
}
EXPORT cudaGetLastError() {
    const int code = last;
    last = 0;
    return code;
}
EXPORT cudaPeekAtLastError() { return last; }
extern "C" __attribute__((visibility("default"))) const char* cudaGetErrorName(int code) {
    const char* text;
    return cuGetErrorName(code, &text) ? "cudaErrorUnknown" : text;
}
extern "C" __attribute__((visibility("default"))) const char* cudaGetErrorString(int code) {
    const char* text = "unknown error";
    cuGetErrorString(code, &text);
    return text;
}
