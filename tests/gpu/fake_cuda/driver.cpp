// A stand-in for libcuda.so.1: memory of the host in place of the device's, a clock that only counts, and kernels that
// the CUDA shim runs on the CPU (kernels.cpp). Every call is noted in $FAKE_CUDA_LOG. See __init__.py for what the
// environment says.
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "kernels.h"
#include "state.h"
#include "tiles.h"

namespace fake {

std::recursive_mutex lock;
std::map<uintptr_t, size_t> memory;  // start -> bytes, of the device
std::map<uintptr_t, size_t> pinned;
double now = 0;  // seconds of the device
int broken = 0;  // the error that every call gives after a kernel has failed
size_t used = 0;

void note(const char* format, ...) {
    const std::string path = setting("LOG", "");
    if (path.empty()) return;
    char line[512];
    va_list values;
    va_start(values, format);
    int size = vsnprintf(line, sizeof line - 1, format, values);
    va_end(values);
    line[size++] = '\n';
    const int file = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT, 0666);
    if (write(file, line, size) != size) abort();
    close(file);
}

int run(const Launch& launch) {
    const Kernel& kernel = *static_cast<Kernel*>(launch.kernel);
    const Fault wrong = fault(kernel.fault);
    const double threads = 1.0 * launch.grid[0] * launch.grid[1] * launch.grid[2] * launch.block[0] * launch.block[1];
    note("launch %s %u %u %u %u %u %u %zu%s", kernel.name.c_str(), launch.grid[0], launch.grid[1], launch.grid[2],
         launch.block[0], launch.block[1], launch.block[2], launch.shared, launch.stream ? " stream" : "");
    now += 5e-6 + threads * 1e-9;
    if (wrong.word == "crash") raise(SIGSEGV);
    if (wrong.word == "kernel") return broken = wrong.code;
    if (!kernel.program.empty() && !execute(kernel, launch)) return broken = 700;
    if (wrong.word == "wrong" && !kernel.parameters.empty()) {  // the last argument is the result
        float* result;
        memcpy(&result, launch.values[kernel.parameters.size() - 1].data(), 8);
        *result += 1;
    }
    if (wrong.word == "hang") now = INFINITY;
    return 0;
}

int later(void* stream, std::function<int()> work) {
    auto* s = static_cast<Stream*>(stream);
    if (refused(stream)) return 400;
    if (s && s->capturing) {
        s->captured.push_back(work);
        return 0;
    }
    return work();
}

int launched(void* function, const unsigned* grid, const unsigned* block, const unsigned* cluster, size_t shared,
             void* stream, void** values) {
    std::lock_guard<std::recursive_mutex> held(lock);
    auto* kernel = static_cast<Kernel*>(function);
    if (broken) return broken;
    const Fault wrong = fault(kernel->fault);
    if (wrong.word == "launch") return wrong.code;
    if (shared > kernel->shared_limit) return 1;
    Launch launch{kernel, {}, {}, {}, shared, {}, stream};
    for (int i = 0; i < 3; i++) launch.grid[i] = grid[i], launch.block[i] = block[i], launch.cluster[i] = cluster[i];
    for (size_t i = 0; i < kernel->parameters.size(); i++)
        launch.values.emplace_back(static_cast<char*>(values[i]), sizes.at(kernel->parameters[i]));
    return later(stream, [launch] { return run(launch); });
}

int copied(void* target, const void* source, size_t size, void* stream, const char* way) {
    std::lock_guard<std::recursive_mutex> held(lock);
    if (broken) return broken;
    return later(stream, [=] {
        const bool fast = pinned.count(uintptr_t(target)) || pinned.count(uintptr_t(source));
        note("copy %s %zu%s%s", way, size, fast ? " pinned" : "", stream ? " stream" : "");
        now += size * 1e-12;
        memmove(target, source, size);
        return 0;
    });
}

int allocated(uintptr_t* address, size_t size) {
    std::lock_guard<std::recursive_mutex> held(lock);
    if (broken) return broken;
    if (used + size > strtoull(setting("MEMORY", "8589934592").c_str(), nullptr, 10)) return 2;
    if (!size) return *address = 0;
    void* start = aligned_alloc(256, (size + 255) / 256 * 256);
    memset(start, 0xff, size);  // NaN
    memory[*address = uintptr_t(start)] = size;
    used += size;
    note("allocate %zu", size);
    return 0;
}

int freed(uintptr_t address) {
    if (!address) return 0;
    std::lock_guard<std::recursive_mutex> held(lock);
    const auto found = memory.find(address);
    if (found == memory.end()) return 1;
    note("free %zu", found->second);
    used -= found->second;
    free(reinterpret_cast<void*>(found->first));
    memory.erase(found);
    return 0;
}

int pinned_memory(void** address, size_t size) {
    std::lock_guard<std::recursive_mutex> held(lock);
    *address = aligned_alloc(256, (size + 255) / 256 * 256);
    pinned[uintptr_t(*address)] = size;
    note("pin %zu", size);
    return 0;
}

int unpinned(void* address) {
    std::lock_guard<std::recursive_mutex> held(lock);
    pinned.erase(uintptr_t(address));
    free(address);
    return 0;
}

int synchronized() {
    note("synchronize");
    if (isinf(now)) pause();
    return broken;
}

int attribute(int* value, int number) {
    const double version = atof(setting("ARCH", "8.0").c_str());
    const std::map<int, int> known = {{1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {8, 48 << 10}, {10, 32}, {12, 65536},
                                      {13, 1410000}, {16, 108}, {36, 1593000}, {37, 5120}, {38, 40 << 20},
                                      {39, 2048}, {75, int(version)}, {76, int(version * 10 + 0.5) % 10}};
    const auto found = known.find(number);
    *value = found == known.end() ? 0 : found->second;
    return 0;
}

int devices() { return atoi(setting("DEVICES", "1").c_str()); }

}  // namespace fake

using namespace fake;
using std::lock_guard;
#define EXPORT extern "C" __attribute__((visibility("default"))) int

EXPORT cuInit(unsigned) {
    note("init");
    const Fault wrong = fault("");
    if (wrong.word == "init") return wrong.code;
    return devices() ? 0 : 100;
}
EXPORT cuDriverGetVersion(int* version) { return *version = atoi(setting("VERSION", "13000").c_str()), 0; }
EXPORT cuDeviceGetCount(int* count) { return *count = devices(), 0; }
EXPORT cuDeviceGet(int* device, int number) { return number < devices() ? *device = number, 0 : 101; }
EXPORT cuDeviceGetName(char* text, int size, int) { return snprintf(text, size, "%s", setting("NAME", "NVIDIA A100-SXM4-80GB").c_str()), 0; }
EXPORT cuDeviceGetAttribute(int* value, int number, int) { return attribute(value, number); }
EXPORT cuDeviceTotalMem_v2(size_t* size, int) { return *size = size_t(80) << 30, 0; }
EXPORT cuDevicePrimaryCtxRetain(void** context, int) { return *context = &now, 0; }
EXPORT cuDevicePrimaryCtxRelease_v2(int) { return note("release"), 0; }
EXPORT cuCtxSetCurrent(void*) { return 0; }
EXPORT cuStreamCreate(void** stream, unsigned) { return *stream = new Stream, note("stream"), 0; }
EXPORT cuStreamDestroy_v2(void* stream) { return delete static_cast<Stream*>(stream), 0; }
EXPORT cuStreamSynchronize(void*) { return synchronized(); }
EXPORT cuMemAlloc_v2(uintptr_t* address, size_t size) { return allocated(address, size); }
EXPORT cuMemFree_v2(uintptr_t address) { return freed(address); }
EXPORT cuMemHostAlloc(void** address, size_t size, unsigned) { return pinned_memory(address, size); }
EXPORT cuMemFreeHost(void* address) { return unpinned(address); }
EXPORT cuMemcpyHtoDAsync_v2(uintptr_t to, const void* from, size_t size, void* stream) { return copied((void*)to, from, size, stream, "up"); }
EXPORT cuMemcpyDtoHAsync_v2(void* to, uintptr_t from, size_t size, void* stream) { return copied(to, (void*)from, size, stream, "down"); }
EXPORT cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t size, void* stream) { return copied((void*)to, (void*)from, size, stream, "within"); }
EXPORT cuMemsetD8Async(uintptr_t to, unsigned char byte, size_t size, void*) {
    if (broken) return broken;
    now += size * 1e-12;
    return memset((void*)to, byte, size), 0;
}
EXPORT cuModuleLoadData(void** module, const void* image) {
    const Fault wrong = fault("");
    if (wrong.word == "load") return wrong.code;
    if (memcmp(image, "\x7f" "ELF", 4) && memcmp(image, "SHIM", 4)) return 200;
    return *module = read_module(static_cast<const char*>(image)), note("module"), 0;
}
EXPORT cuModuleUnload(void* module) { return delete static_cast<Module*>(module), 0; }
EXPORT cuModuleGetFunction(void** function, void* module, const char* name) {
    auto* m = static_cast<Module*>(module);
    for (const std::string& sign : {std::string(".text.") + name, name + std::string(".kd")})  // NVIDIA's, and AMD's
        if (m->elf.find(sign) != std::string::npos) m->kernels[name].name = name;
    const auto found = m->kernels.find(name);
    if (found == m->kernels.end()) return 500;
    return *function = &found->second, 0;
}
EXPORT cuFuncSetAttribute(void* function, int number, int value) {
    if (number == 8) {
        if (value > (atof(setting("ARCH", "8.0").c_str()) < 9 ? 163 : 227) << 10) return 1;
        static_cast<Kernel*>(function)->shared_limit = value;
    }
    return 0;
}
EXPORT cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void* stream, void** values, void**) {
    const unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz}, cluster[] = {1, 1, 1};
    return launched(function, grid, block, cluster, shared, stream, values);
}
EXPORT cuLaunchKernelEx(const Config* config, void* function, void** values, void**) {
    unsigned cluster[] = {1, 1, 1};
    for (unsigned i = 0; i < config->count; i++)
        if (config->attributes[i].id == 4) memcpy(cluster, config->attributes[i].value, sizeof cluster);
    return launched(function, config->grid, config->block, cluster, config->shared, config->stream, values);
}
EXPORT cuTensorMapEncodeTiled(void* map, int kind, unsigned rank, void* address, const uint64_t* sizes, const uint64_t* strides,
                              const uint32_t* box, const uint32_t* steps, int interleave, int swizzle, int, int fill) {
    if (atof(setting("ARCH", "8.0").c_str()) < 9) return 801;
    if (!encode(map, kind, rank, address, sizes, strides, box, steps, interleave, swizzle, fill)) return 1;
    return note("tiles %ux%u", box[0], rank > 1 ? box[1] : 1), 0;
}
EXPORT cuEventCreate(void** event, unsigned) { return *event = new double(0), 0; }
EXPORT cuEventRecord(void* event, void*) { return *static_cast<double*>(event) = now, broken; }
EXPORT cuEventSynchronize(void*) { return synchronized(); }
EXPORT cuEventElapsedTime(float* milliseconds, void* first, void* last) {
    return *milliseconds = float((*static_cast<double*>(last) - *static_cast<double*>(first)) * 1e3), 0;
}
EXPORT cuEventDestroy_v2(void* event) { return delete static_cast<double*>(event), 0; }
EXPORT cuGetErrorName(int code, const char** text) {
    static const std::map<int, const char*> names = {
        {1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {3, "CUDA_ERROR_NOT_INITIALIZED"},
        {100, "CUDA_ERROR_NO_DEVICE"}, {200, "CUDA_ERROR_INVALID_IMAGE"}, {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
        {400, "CUDA_ERROR_INVALID_HANDLE"}, {500, "CUDA_ERROR_NOT_FOUND"}, {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"},
        {702, "CUDA_ERROR_LAUNCH_TIMEOUT"}, {719, "CUDA_ERROR_LAUNCH_FAILED"}, {801, "CUDA_ERROR_NOT_SUPPORTED"},
        {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
        {214, "CUDA_ERROR_ECC_UNCORRECTABLE"}, {218, "CUDA_ERROR_INVALID_PTX"}, {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"},
        {710, "CUDA_ERROR_ASSERT"}, {714, "CUDA_ERROR_HARDWARE_STACK_ERROR"}, {715, "CUDA_ERROR_ILLEGAL_INSTRUCTION"},
        {716, "CUDA_ERROR_MISALIGNED_ADDRESS"}, {717, "CUDA_ERROR_INVALID_ADDRESS_SPACE"}, {718, "CUDA_ERROR_INVALID_PC"}};
    const auto found = names.find(code);
    return *text = found == names.end() ? nullptr : found->second, found == names.end();
}
EXPORT cuGetErrorString(int code, const char** text) {
    static const std::map<int, const char*> texts = {{2, "out of memory"}, {100, "no CUDA-capable device is detected"},
        {209, "no kernel image is available for execution on the device"}, {700, "an illegal memory access was encountered"},
        {701, "too many resources requested for launch"}, {702, "the launch timed out and was terminated"}, {719, "unspecified launch failure"}};
    const auto found = texts.find(code);
    return *text = found == texts.end() ? "an error" : found->second, 0;
}
