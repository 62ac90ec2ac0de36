// Shared memory: one arena a block, whose offsets are the 32-bit addresses of PTX.
#include <stdio.h>
#include <sys/mman.h>

#include "memory.h"

namespace cushim {

namespace {

std::vector<Slot> slots;
size_t static_end;  // of the slots placed so far
size_t dynamic_start;

// Uninitialised memory is NaN in every floating-point format, and -1 as an integer.
constexpr int poison = 0xff;

size_t round_up(size_t n, size_t align) { return (n + align - 1) / align * align; }

constexpr size_t near = 1 << 20;  // what belongs to a buffer's surroundings

size_t red_zone() { return options.races ? 64 : 0; }

}  // namespace

std::vector<GlobalBuffer> buffers;

const GlobalBuffer* buffer_of(const void* p) {
    const char* address = static_cast<const char*>(p);
    for (const GlobalBuffer& b : buffers)
        if (address + near >= b.start && address < b.start + b.bytes + near) return &b;
    return nullptr;
}

std::string describe_address(const void* p) {
    char text[256];
    const char* address = static_cast<const char*>(p);
    if (launch && current)
        if (Block* block = block_of_pointer(p)) {
            const size_t offset = address - block->arena;
            for (size_t i = 0; i < slots.size(); i++)
                if (slots[i].placed && offset >= slots[i].offset && offset < slots[i].offset + slots[i].bytes) {
                    snprintf(text, sizeof text, "byte %zu of shared array %zu", offset - slots[i].offset, i);
                    return text;
                }
            if (offset >= dynamic_start && offset < dynamic_start + launch->dynamic_shared)
                snprintf(text, sizeof text, "byte %zu of dynamic shared memory", offset - dynamic_start);
            else
                snprintf(text, sizeof text, "shared address %#zx, outside of all shared arrays", offset);
            return text;
        }
    const GlobalBuffer* b = buffer_of(p);
    if (!b)
        snprintf(text, sizeof text, "address %p", p);
    else if (address < b->start)
        snprintf(text, sizeof text, "%zu bytes in front of %s", size_t(b->start - address), b->name.c_str());
    else if (address >= b->start + b->bytes)
        snprintf(text, sizeof text, "%zu bytes behind the end of %s (%zu bytes)", size_t(address - b->start - b->bytes),
                 b->name.c_str(), b->bytes);
    else
        snprintf(text, sizeof text, "byte %zu of %s", size_t(address - b->start), b->name.c_str());
    return text;
}

void check_within_shared(Block& block, const char* p, size_t bytes, uint32_t pc) {
    const size_t offset = p - block.arena;
    if (offset >= dynamic_start && offset + bytes <= dynamic_start + launch->dynamic_shared) return;
    for (const Slot& slot : slots)
        if (slot.placed && offset >= slot.offset && offset + bytes <= slot.offset + slot.bytes) return;
    fail("%zu bytes [pc=%#x] at %s", bytes, pc, describe_address(p).c_str());
}

void peek(void* into, const void* p, size_t bytes) { memcpy(into, p, bytes); }
void poke(void* p, const void* from, size_t bytes) { memcpy(p, from, bytes); }

void begin_kernel_memory() {
    slots.clear();
    dynamic_start = window_start;
    static_end = 0;
}

void begin_block_memory(Block& block) {
    block.poisoned.assign(slots.size(), false);
    if (launch->dynamic_shared) memset(block.arena + window_start, poison, launch->dynamic_shared + 2048);
}

// Static allocations stand behind the dynamic one: where the latter begins must not depend on which of them was reached.
void* shared_slot(int id, size_t bytes, size_t align) {
    Block& block = *self()->block;
    if (size_t(id) >= slots.size()) slots.resize(id + 1);
    Slot& slot = slots[id];
    if (!slot.placed) {
        if (!static_end) static_end = window_start + (launch->dynamic_shared ? launch->dynamic_shared + 2048 : 0);
        slot.offset = round_up(static_end + red_zone(), align);
        slot.bytes = bytes;
        slot.placed = true;
        static_end = slot.offset + bytes + red_zone();
        size_t used = launch->dynamic_shared;
        for (const Slot& other : slots) used += other.bytes;
        if (used > options.shared_limit) fail("%zu bytes of shared memory; a block may have %zu", used, options.shared_limit);
        if (static_end > arena_bytes) fail("shared memory does not fit with its red zones");
    }
    if (block.poisoned.size() < slots.size()) block.poisoned.resize(slots.size(), false);
    if (!block.poisoned[id]) {
        memset(block.arena + slot.offset, poison, bytes);
        block.poisoned[id] = true;
    }
    return block.arena + slot.offset;
}

// On the hardware dynamic shared memory stands behind the static one: then only the declared alignment can be relied on.
void* dynamic_shared_bytes(size_t align, bool beside_static) {
    if (launch->dynamic_shared > options.shared_limit)
        fail("%zu bytes of dynamic shared memory; a block may have %zu", launch->dynamic_shared, options.shared_limit);
    if (!launch->dynamic_shared) fail("the kernel has dynamic shared memory and its launch gives it none");
    dynamic_start = beside_static ? round_up(window_start + 16, align) : window_start;
    return self()->block->arena + dynamic_start;
}

Block* block_of_pointer(const void* p) {
    for (Block* block : self()->block->cluster->blocks)
        if (p >= block->arena && p < block->arena + arena_bytes) return block;
    return nullptr;
}

bool is_shared(const void* pointer) { return block_of_pointer(pointer) != nullptr; }

uint32_t shared_address(const void* pointer) {
    Block* block = block_of_pointer(pointer);
    if (!block) fail("%p is not in shared memory", pointer);
    const uint32_t offset = uint32_t(static_cast<const char*>(pointer) - block->arena);
    return block == self()->block ? offset : (block->rank + 1) << 24 | offset;
}

void* arena_pointer(Block& block, uint32_t address, size_t bytes, size_t align) {
    Block* owner = &block;
    if (const uint32_t rank = address >> 24) {
        if (rank > block.cluster->blocks.size()) fail("shared address %#x: the cluster has no block %u", address, rank - 1);
        owner = block.cluster->blocks[rank - 1];
        address &= 0xffffff;
    }
    if (address < window_start || address + bytes > arena_bytes)
        fail("shared address %#x (%zu bytes) is outside the block's shared memory", address, bytes);
    if (address % align) fail("shared address %#x is not aligned to %zu bytes", address, align);
    return owner->arena + address;
}

void* shared_pointer(uint32_t address, size_t bytes, size_t align) {
    return arena_pointer(*self()->block, address, bytes, align);
}

uint32_t map_shared_rank(uint32_t address, uint32_t rank) {
    if (rank >= self()->block->cluster->blocks.size()) fail("mapa: the cluster has no block %u", rank);
    return (address & 0xffffff) | (rank + 1) << 24;
}

}  // namespace cushim
