// What generated kernels and the runtime share: the thread that runs now, waiting, shared memory, failing.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace cushim {

struct uint3_ {
    unsigned x, y, z;
};

struct Fiber;

// One CUDA thread as its kernel sees it. The runtime's own part is the fiber.
struct Thread {
    uint3_ thread_idx, block_idx, block_dim, grid_dim;
    uint3_ cluster_idx, cluster_dim, rank_idx;  // the cluster in the grid, its size, the block in the cluster
    unsigned cluster_rank;
    unsigned linear, lane;
    int line;  // of the source, for messages
    Fiber* fiber;
};

extern Thread* current;

// Ends the run with a sentence that names kernel, block, thread and line.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

inline void at(int line) { current->line = line; }

// --- waiting -------------------------------------------------------------------------------------------------------

// `lanes` holds what each lane brought, null for lanes that are not there.
using Combine = void (*)(void* const* lanes);

// Lanes of `mask` meet: the last one to arrive runs `combine` for all. `aligned` instructions need all of their lanes alive.
void meet(const char* what, uint32_t mask, void* mine, Combine combine, bool aligned);

// Lets others run and comes back; a kernel that only does this any more is stuck.
void spin();

// The lanes of the warp that come here before anything else can go on.
uint32_t active_mask();

enum class Vote { none, popc, all, any };

// Block barrier `id` for `count` threads (0: all of the block); `arrive_only` does not wait. Returns the vote's result.
int block_barrier(int id, int count, bool arrive_only, Vote vote = Vote::none, int predicate = 0);

void cluster_arrive();
void cluster_wait();

// --- shared memory -------------------------------------------------------------------------------------------------

// The static allocation number `id` of the kernel that runs, for the block that runs.
void* shared_slot(int id, size_t bytes, size_t align);
void* dynamic_shared_bytes(size_t align, bool beside_static);

template <class T>
T& shared_at(int id, size_t align) {
    return *static_cast<T*>(shared_slot(id, sizeof(T), align > alignof(T) ? align : alignof(T)));
}
template <class T>
T* dynamic_shared(size_t align, bool beside_static) {
    return static_cast<T*>(dynamic_shared_bytes(align > alignof(T) ? align : alignof(T), beside_static));
}

// A 32-bit address of the shared window, of this block or (upper byte: rank + 1) of another block of the cluster.
uint32_t shared_address(const void* pointer);
void* shared_pointer(uint32_t address, size_t bytes, size_t align);
uint32_t map_shared_rank(uint32_t address, uint32_t rank);
bool is_shared(const void* pointer);

// --- what the race detector is told --------------------------------------------------------------------------------

void note_read(const void* p, size_t bytes);
void note_write(void* p, size_t bytes);
void note_atomic(void* p, size_t bytes);
void peek(void* into, const void* p, size_t bytes);  // copies that the detector is not told of
void poke(void* p, const void* from, size_t bytes);
void warp_memory_order(uint32_t mask);  // __syncwarp orders memory among its lanes

// --- kernels of the translated source ------------------------------------------------------------------------------

// An argument as the job file gives it: a pointer, an integer, a real number, or a tensor map.
struct Argument {
    enum Kind { pointer, integer, real, tensor_map } kind;
    void* p;
    int64_t i;
    double d;
};

struct Kernel {
    const char* name;
    int parameters;
    int max_threads;  // __launch_bounds__, 0 where there are none
    void (*run)(const Argument*);
};
extern const Kernel kernels[];
extern const int kernel_count;

}  // namespace cushim
