// cp.async.bulk.tensor: boxes of a tensor between global and shared memory, as its tensor map describes.
#include "bulk.h"
#include "matrix.h"

namespace cushim::ptx {

namespace {

struct Box {
    CUtensorMap map;
    int64_t at[5] = {};

    size_t elements() const {
        size_t n = 1;
        for (int d = 0; d < map.rank; d++) n *= map.box[d];
        return n;
    }
    size_t bytes() const { return elements() * map.element_bytes; }
};

Box box_of(uint64_t map, const int32_t* at, int rank) {
    Box box;
    if (map % 64) fail("a tensor map must be aligned to 64 bytes");
    memcpy(&box.map, reinterpret_cast<const void*>(map), sizeof box.map);
    if (box.map.magic != tensor_map_magic) fail("the address of a tensor map does not hold one");
    if (box.map.rank != rank) fail("cp.async.bulk.tensor.%dd with a tensor map of rank %d", rank, box.map.rank);
    for (int d = 0; d < rank; d++) box.at[d] = at[d];
    return box;
}

uint32_t swizzled_offset(uint64_t address, int swizzle) {
    static const uint32_t masks[] = {0, 0x10, 0x30, 0x70};
    return uint32_t(address >> 3) & masks[swizzle];
}

// Calls `visit(place in the box's shared memory, address in the tensor or null outside of it)` for each element, row by row.
template <class F>
void walk(const Box& box, char* shared_memory, uint64_t window_address, F visit) {
    const CUtensorMap& m = box.map;
    const size_t n = box.elements();
    for (size_t i = 0; i < n; i++) {
        size_t rest = i;
        bool inside = true;
        uint64_t offset = 0;
        for (int d = 0; d < m.rank; d++) {
            const int64_t index = box.at[d] + int64_t(rest % m.box[d]) * m.steps[d];
            rest /= m.box[d];
            inside = inside && index >= 0 && index < int64_t(m.sizes[d]);
            offset += uint64_t(index) * (d ? m.strides[d - 1] : m.element_bytes);
        }
        const uint64_t place = i * m.element_bytes;
        const uint64_t address = window_address + place;
        visit(shared_memory + (address ^ swizzled_offset(address, m.swizzle)) - window_address, inside ? m.base + offset : nullptr);
    }
}

uint64_t window_address(const char* place, Block& block) {
    for (Block* other : block.cluster->blocks)
        if (place >= other->arena && place < other->arena + arena_bytes) return uint64_t(place - other->arena);
    fail("a tensor's box lies outside of shared memory");
}

void check_place(const Box& box, const char* place, Block& block) {
    static const int patterns[] = {128, 256, 512, 1024};
    const uint64_t address = window_address(place, block);
    const int align = patterns[box.map.swizzle];
    if (address % 128) fail("cp.async.bulk.tensor: the shared address %#lx is not aligned to 128 bytes", address);
    if (address % align && box.bytes() >= size_t(align))
        fail("cp.async.bulk.tensor: shared address %#lx is not aligned to the %d bytes that the swizzle repeats after", address, align);
    if (address + box.bytes() > arena_bytes) fail("cp.async.bulk.tensor writes behind the block's shared memory");
}

double number_of(const CUtensorMap& m, const void* p) {
    uint64_t raw = 0;
    memcpy(&raw, p, m.element_bytes);
    return number(Element(m.kind), raw);
}

void combine_into(const CUtensorMap& m, char* to, const char* from, Reduction reduction) {
    if (reduction == none) {
        memcpy(to, from, m.element_bytes);
        return;
    }
    const double a = number_of(m, to), b = number_of(m, from);
    const double value = reduction == add ? a + b : reduction == minimum ? fmin(a, b) : fmax(a, b);
    const uint64_t raw = Element(m.kind) == bf16 ? double_to_bfloat(value) : raw_of(Element(m.kind), value, false);
    memcpy(to, &raw, m.element_bytes);
}

}  // namespace

void tensor_load(uint64_t to, uint64_t map, const int32_t* at, int rank, uint64_t barrier, int multicast) {
    const Box box = box_of(map, at, rank);
    for_each_receiver(to, barrier, multicast, [&](char* place, uint64_t* word) {
        check_place(box, place, *self()->block);
        const uint64_t window = window_address(place, *self()->block);
        Delivered delivered(place, box.bytes(), word);
        defer([=] {
            walk(box, place, window, [&](char* element, const char* source) {
                if (source)
                    memcpy(element, source, box.map.element_bytes);
                else
                    memset(element, box.map.fill ? 0xff : 0, box.map.element_bytes);
            });
            delivered.done(uint32_t(box.bytes()));
        });
    });
}

void tensor_store(uint64_t map, const int32_t* at, int rank, uint64_t from, Reduction reduction) {
    const Box box = box_of(map, at, rank);
    char* place = shared_bytes(from, box.bytes());
    check_place(box, place, *self()->block);
    const uint64_t window = window_address(place, *self()->block);
    push_store(place, box.bytes(), [=] {
        walk(box, place, window, [&](char* element, char* target) {
            if (target) combine_into(box.map, target, element, reduction);
        });
    });
}

}  // namespace cushim::ptx
