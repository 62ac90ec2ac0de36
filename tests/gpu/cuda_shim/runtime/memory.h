// Global buffers of a run, and words for addresses.
#pragma once
#include <string>

#include "runtime.h"

namespace cushim {

struct GlobalBuffer {
    char* start;
    size_t bytes;
    std::string name;
    bool is_constant;
};
extern std::vector<GlobalBuffer> buffers;

// The buffer that `p` lies in, or just in front of or behind (within its guard zone).
const GlobalBuffer* buffer_of(const void* p);
std::string describe_address(const void* p);
void check_within_shared(Block& block, const char* p, size_t bytes, uint32_t pc);

}  // namespace cushim
