// Descriptors of tiles as the stand-in keeps them in the 128 bytes of a CUtensorMap.
#pragma once
#include <stdint.h>
#include <string.h>

#include <map>
#include <sstream>
#include <string>
#include <utility>

namespace fake {

// CUtensorMapDataType -> bytes of an element, and the shim's number for its kind (cuda_shim/tensor_map.py).
inline const std::map<int, std::pair<int, int>> element_kinds = {{0, {1, 6}}, {2, {4, 7}}, {3, {4, 7}}, {6, {2, 0}},
                                                                 {7, {4, 3}}, {8, {8, 4}}, {9, {2, 1}}};

struct Tiles {
    uintptr_t address;
    uint32_t kind, rank, swizzle, fill, sizes[5];
    uint64_t strides[4];
    uint16_t box[5], steps[5];

    // What a job of the shim says of it behind its buffer and the offset there.
    std::string job_text() const {
        std::ostringstream text;
        const auto [size, number] = element_kinds.at(kind);
        text << " " << rank << " " << size << " " << number << " " << swizzle << " " << fill;
        for (unsigned d = 0; d < rank; d++) text << " " << sizes[d];
        for (unsigned d = 0; d + 1 < rank; d++) text << " " << strides[d];
        for (unsigned d = 0; d < rank; d++) text << " " << box[d];
        for (unsigned d = 0; d < rank; d++) text << " " << steps[d];
        return text.str();
    }
};
static_assert(sizeof(Tiles) <= 128, "a CUtensorMap has 128 bytes");

// cuTensorMapEncodeTiled; false for what the driver refuses.
inline bool encode(void* map, int kind, unsigned rank, const void* address, const uint64_t* sizes, const uint64_t* strides,
                   const uint32_t* box, const uint32_t* steps, int interleave, int swizzle, int fill) {
    if (!element_kinds.count(kind) || rank < 1 || rank > 5 || interleave) return false;
    if (uintptr_t(map) % 64 || uintptr_t(address) % 16) return false;
    Tiles tiles{uintptr_t(address), uint32_t(kind), rank, uint32_t(swizzle), uint32_t(fill), {}, {}, {}, {}};
    for (unsigned d = 0; d < rank; d++) {
        if (sizes[d] < 1 || sizes[d] > 0xffffffffu || box[d] < 1 || box[d] > 256 || steps[d] < 1 || steps[d] > 8) return false;
        tiles.sizes[d] = sizes[d], tiles.box[d] = box[d], tiles.steps[d] = steps[d];
        if (d + 1 == rank) break;
        if (strides[d] % 16 || strides[d] >> 40) return false;
        tiles.strides[d] = strides[d];
    }
    memset(map, 0, 128);
    memcpy(map, &tiles, sizeof tiles);
    return true;
}

}  // namespace fake
