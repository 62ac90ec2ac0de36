// Kernels as the stand-in for the driver has them: read out of modules, run by the CUDA shim.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "state.h"

namespace fake {

extern std::map<uintptr_t, size_t> memory;  // start -> bytes, of the device

// $FAKE_CUDA_<name>.
std::string setting(const char* name, const char* otherwise);

// "hang", or "load:209": the word, and the number behind it. `own` is a fault of one module, the environment's is all's.
struct Fault {
    std::string word;
    int code = 0;
};
Fault fault(const std::string& own);

struct Kernel {
    std::string name, program, fault;
    std::vector<std::string> parameters;  // "handle", "int32", ...
    size_t shared_limit = 48 << 10;
};
struct Module {
    std::map<std::string, Kernel> kernels;
    std::string elf;  // of a real cubin, whose kernels do nothing
};

// Bytes of a parameter by its type.
extern const std::map<std::string, int> sizes;

Module* read_module(const char* text);
bool execute(const Kernel& kernel, const Launch& launch);

}  // namespace fake
