// A tensor map as cuTensorMapEncodeTiled would make it, in 128 bytes of our own layout.
#pragma once
#include "cushim/core.h"

struct alignas(64) CUtensorMap {
    char* base;
    uint64_t strides[4];  // bytes, of dimensions 1 to 4
    uint32_t sizes[5];    // elements, the innermost first
    uint16_t box[5];
    uint8_t steps[5];
    uint8_t rank, element_bytes, swizzle, interleave, fill, kind;  // swizzle: 0 none, 1 32B, 2 64B, 3 128B
    uint8_t magic;
};
static_assert(sizeof(CUtensorMap) == 128, "the driver's tensor maps have 128 bytes");

namespace cushim {
constexpr uint8_t tensor_map_magic = 0x5a;
}
