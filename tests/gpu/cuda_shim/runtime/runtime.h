// The runtime's own view: blocks, warps, fibers, and what is under way between them.
#pragma once
#include <stdio.h>

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "cushim/core.h"

namespace cushim {

enum class State { ready, waiting, spinning, asking_mask, done };

struct Block;
struct Warp;

// Copies of one thread that its cp.async instructions asked for.
struct Copy {
    void* to;
    const void* from;
    unsigned bytes, filled;  // read from `from`, written to `to` (the rest are zeros)
    uint32_t clock;          // of the race detector
};

// One cp.async.bulk of a group of this thread: reads shared memory now or later.
struct BulkStore {
    std::function<void()> run;
};

struct Fiber {
    Thread view;
    void* stack_pointer = nullptr;
    State state = State::ready;
    const char* what = "";  // it waits for
    int barrier = -1;       // it waits at
    int vote_result = 0;
    uint32_t mask_answer = 0;
    Warp* warp = nullptr;
    Block* block = nullptr;
    std::deque<std::vector<Copy>> copies;  // committed groups, the oldest first
    std::vector<Copy> open_copies;         // not committed yet
    std::deque<std::vector<BulkStore>> stores;
    std::vector<BulkStore> open_stores;
};

// Lanes of a warp that wait for each other.
struct Meeting {
    uint32_t mask = 0, arrived = 0;
    const char* what = nullptr;
    Combine combine = nullptr;
    bool aligned = false;
    void* brought[32] = {};
};

// One warp's part (16 rows) of a wgmma.mma_async that has been issued and not been carried out.
struct WarpGemm {
    std::function<void()> run;
};

struct Warp {
    Block* block = nullptr;
    unsigned index = 0;
    Fiber* lanes[32] = {};
    uint32_t alive = 0;
    std::vector<Meeting*> meetings;
    std::deque<std::vector<WarpGemm>> gemms;
    std::vector<WarpGemm> open_gemms;
    bool gemm_fenced = false;
    uint64_t gemm_trace = 0;  // what it issued so far: the four warps of a warpgroup must agree
    std::vector<std::pair<void*, uint32_t>> accumulators;  // where the last results went, and their bits
};

struct Barrier {
    int arrived = 0, expected = 0;
    unsigned generation = 0;
    int votes = 0, voters = 0;
    Vote vote = Vote::none;
    std::vector<Fiber*> waiting;
    std::vector<Fiber*> counted;
};

struct Slot {
    size_t offset = 0, bytes = 0;
    bool placed = false;
};

struct Cluster;

struct Block {
    Cluster* cluster = nullptr;
    unsigned rank = 0;
    uint3_ index{};
    char* arena = nullptr;
    char* stacks = nullptr;
    std::vector<Fiber> fibers;
    std::vector<Fiber*> order;
    std::vector<Warp> warps;
    Barrier barriers[16];
    std::vector<bool> poisoned;  // static slots this block has touched
    unsigned done = 0;
    void* clocks = nullptr;  // of the race detector
};

struct Cluster {
    std::vector<Block*> blocks;
    unsigned arrived = 0, phase = 0;
    unsigned alive = 0;
    std::vector<Fiber*> waiting;
};

enum class Delivery { late, early, shuffled };

struct Options {
    Delivery delivery = Delivery::late;
    int order = 0;  // of threads and blocks: 0 forward, 1 backward, 2 shuffled
    uint64_t seed = 1;
    bool races = false;
    size_t shared_limit = 232448;
};
extern Options options;

struct Launch {
    const Kernel* kernel = nullptr;
    uint3_ grid{1, 1, 1}, block{1, 1, 1}, cluster{1, 1, 1};
    size_t dynamic_shared = 0;
    std::vector<Argument> arguments;
};
extern const Launch* launch;

void run_launch(const Launch& what);
uint64_t random_number();

inline Fiber* self() { return current->fiber; }
void block_fiber(const char* what);  // waits until somebody calls wake
inline void wake(Fiber* f) {
    f->state = State::ready;
    f->what = "";
}

// Something that happens by itself some time after it was asked for; when, the run's options say.
void defer(std::function<void()> event);

// --- memory.cpp
constexpr size_t arena_bytes = 256 * 1024;
constexpr size_t window_start = 1024;  // addresses below belong to the system, as on the hardware
void begin_kernel_memory();
void begin_block_memory(Block& block);
void* arena_pointer(Block& block, uint32_t address, size_t bytes, size_t align);
Block* block_of_pointer(const void* p);

// --- async.cpp
void end_of_thread(Fiber& f);
void end_of_block(Block& block);

// --- races.cpp
namespace race {
void begin_launch();  // whatever earlier launches did is known to all
void begin_block(Block& block);
void end_block(Block& block);
void reset(uint64_t key);
void release(uint64_t key, Fiber& f);                 // what f did so far is seen by whoever acquires `key`
void acquire(uint64_t key, Fiber& f);
uint32_t agent_begin(Fiber& f, int agent);            // an asynchronous agent starts on behalf of f; its clock
void agent_access(Fiber& f, int agent, uint32_t clock, void* p, size_t bytes, bool write);
void agent_end(Fiber& f, int agent, uint32_t clock);  // f has waited for it
void agent_release(uint64_t key, Block& b, int agent, uint32_t clock);
void proxy_fence(Fiber& f);
int copy_agent(Fiber& f);
int gemm_agent(Warp& w);
int bulk_agent(Block& b);
}  // namespace race

}  // namespace cushim
