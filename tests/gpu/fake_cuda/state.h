// What the stand-ins for the driver and for CUDA's runtime library share.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <mutex>
#include <string>
#include <vector>

namespace fake {

struct Stream {
    bool capturing = false, ended = false;  // one that was ended stays, to be told by
    std::vector<std::function<int()>> captured;
};
inline int refused(void* stream) { return stream && static_cast<Stream*>(stream)->ended ? 400 : 0; }
struct Launch {
    void* kernel;
    unsigned grid[3], block[3], cluster[3];
    size_t shared;
    std::vector<std::string> values;
    void* stream;
};
struct Attribute {
    unsigned id, pad, value[16];
};
struct Config {
    unsigned grid[3], block[3], shared;
    void* stream;
    Attribute* attributes;
    unsigned count;
};

#define SHARED __attribute__((visibility("default")))
SHARED extern std::recursive_mutex lock;
SHARED void note(const char* format, ...);
SHARED int copied(void* target, const void* source, size_t size, void* stream, const char* way);
SHARED int allocated(uintptr_t* address, size_t size);
SHARED int freed(uintptr_t address);
SHARED int pinned_memory(void** address, size_t size);
SHARED int unpinned(void* address);
SHARED int synchronized();
SHARED int attribute(int* value, int number);
SHARED int devices();
SHARED extern int broken;
SHARED extern double now;

}  // namespace fake
