// What bulk copies with and without tensor maps share.
#pragma once
#include <memory>

#include "cushim/ptx.h"
#include "runtime.h"

namespace cushim::ptx {

uint64_t* barrier_word(uint64_t address);
uint64_t barrier_key(const uint64_t* word);
void arrive(uint64_t* word, uint32_t count);
void add_pending(uint64_t* word, uint32_t count);
void complete_bytes(uint64_t* word, uint32_t bytes);
void push_store(char* source, size_t bytes, std::function<void()> run);

inline char* shared_bytes(uint64_t address, size_t bytes) {
    return static_cast<char*>(shared_pointer(uint32_t(address), bytes, 16));
}

// A bulk load's write to shared memory, as the race detector and the mbarrier see it.
struct Delivered {
    char* place;
    uint64_t* word;
    Block* block;
    int agent;
    uint32_t clock;

    Delivered(char* place, size_t bytes, uint64_t* word) : place(place), word(word), block(self()->block) {
        agent = race::bulk_agent(*block);
        clock = race::agent_begin(*self(), agent);
        race::agent_access(*self(), agent, clock, place, bytes, true);
    }
    void done(uint32_t bytes) const {
        race::agent_release(barrier_key(word), *block, agent, clock);
        complete_bytes(word, bytes);
    }
};

// Calls `deliver(place, mbarrier)` for the addresses given, or for the same offsets in each block that a multicast names.
template <class F>
void for_each_receiver(uint64_t to, uint64_t barrier, int multicast, F deliver) {
    if (multicast < 0) return deliver(shared_bytes(to, 16), barrier_word(barrier));
    const auto& blocks = self()->block->cluster->blocks;
    if (multicast >> blocks.size()) fail("a multicast to blocks %#x in a cluster of %zu", multicast, blocks.size());
    for (size_t rank = 0; rank < blocks.size(); rank++)
        if (multicast >> rank & 1)
            deliver(static_cast<char*>(arena_pointer(*blocks[rank], to & 0xffffff, 16, 16)),
                    static_cast<uint64_t*>(arena_pointer(*blocks[rank], barrier & 0xffffff, 8, 8)));
}

}  // namespace cushim::ptx
