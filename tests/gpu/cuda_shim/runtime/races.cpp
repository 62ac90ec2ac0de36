// Finds accesses that no barrier orders: vector clocks, as in FastTrack (Flanagan and Freund, PLDI 2009).
//
// Kernels are compiled with the compiler's instrumentation for thread sanitizers; the functions it calls are defined here.
// A block's threads have clocks, and so have agents that act on behalf of threads: one for the cp.async of each thread, one
// for the wgmma of each warp, and some for bulk copies. What an agent did is ordered before whatever waited for it.
#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "memory.h"
#include "runtime.h"

namespace cushim {

namespace {

using Clock = std::vector<uint32_t>;
constexpr int bulk_agents = 64;

struct Access {
    uint32_t clock = 0, pc = 0;
    uint16_t id = 0;
    bool atomic = false, proxy = false, present = false;
};

struct Shadow {
    Access write, read;
    uint32_t readers = 0;  // index of a list, where more than one read is not ordered before the others
};

struct BlockClocks {
    std::vector<Clock> threads;       // what each thread knows of every thread and agent
    std::vector<Clock> agents;        // what the thread knew on whose behalf the agent acts
    Clock fenced;                     // each thread's clock at its last proxy fence
    std::unordered_map<uint64_t, Clock> keys;
    std::vector<Shadow> shadow;       // a byte of the arena each
    std::vector<std::map<uint16_t, Access>> lists{1};
    std::set<uint32_t> blocks;        // whose global writes are known, by atomics
    uint32_t serial = 0;
    int next_bulk = 0;
    size_t thread_count = 0;
    int ids = 0;
};

struct GlobalShadow {
    uint32_t serial = 0;
    Access write;
};

uint32_t serials = 0;
std::unordered_map<uint64_t, GlobalShadow> global_shadow;
std::unordered_map<uint64_t, std::set<uint32_t>> global_releases;

BlockClocks& clocks_of(Block& b) { return *static_cast<BlockClocks*>(b.clocks); }

bool known(const Clock& knowledge, const Access& a) { return !a.present || knowledge[a.id] >= a.clock; }

std::string who(const BlockClocks& c, const Access& a) {
    const size_t n = c.thread_count;
    std::string name;
    if (a.id < n)
        name = "thread " + std::to_string(a.id);
    else if (a.id < 2 * n)
        name = "the cp.async of thread " + std::to_string(a.id - n);
    else if (a.id < c.ids - bulk_agents)
        name = "the wgmma of warp " + std::to_string(a.id - 2 * n);
    else
        name = "a bulk copy";
    char pc[32] = "";
    if (a.pc) snprintf(pc, sizeof pc, " [pc=%#x]", a.pc);
    return name + pc;
}

[[noreturn]] void report(const BlockClocks& c, const char* kind, const void* p, const Access& before, const Access& now) {
    fail("race: %s by %s and by %s at %s: no barrier is between them", kind, who(c, before).c_str(), who(c, now).c_str(),
         describe_address(p).c_str());
}

// One byte of shared memory is read or written by `now`, who knows of others what `knowledge` says.
void access_byte(BlockClocks& c, size_t offset, const void* p, const Clock& knowledge, const Access& now, bool write) {
    if (offset >= c.shadow.size()) c.shadow.resize(std::min(arena_bytes, offset + offset / 2 + 1));
    Shadow& s = c.shadow[offset];
    const bool both_atomic = s.write.atomic && now.atomic;
    if (!both_atomic && s.write.id != now.id && !known(knowledge, s.write))
        report(c, write ? "a write" : "a write and a read", p, s.write, now);
    if (!write) {
        if (s.readers) {
            auto& list = c.lists[s.readers];
            if (known(knowledge, list.begin()->second)) {
                for (auto i = list.begin(); i != list.end();) i = known(knowledge, i->second) ? list.erase(i) : std::next(i);
            }
            list[now.id] = now;
        } else if (s.read.present && s.read.id != now.id && !known(knowledge, s.read)) {
            s.readers = c.lists.size();
            c.lists.push_back({{s.read.id, s.read}, {now.id, now}});
        } else {
            s.read = now;
        }
        return;
    }
    if (s.readers) {
        for (auto& [id, read] : c.lists[s.readers])
            if (id != now.id && !known(knowledge, read)) report(c, "a read and a write", p, read, now);
    } else if (s.read.id != now.id && !known(knowledge, s.read)) {
        report(c, "a read and a write", p, s.read, now);
    }
    s.readers = 0;
    s.read.present = false;
    s.write = now;
}

void access_shared(Block& b, char* p, size_t bytes, bool write, bool atomic, uint32_t pc) {
    BlockClocks& c = clocks_of(b);
    const uint16_t id = uint16_t(current->linear);
    Access now;
    now.clock = c.threads[id][id];
    now.pc = pc;
    now.id = id;
    now.atomic = atomic;
    now.present = true;
    for (size_t i = 0; i < bytes; i++) access_byte(c, p + i - b.arena, p + i, c.threads[id], now, write);
}

// Global memory: a write, then an access by somebody who does not know of it.
void access_global(Block& b, char* p, size_t bytes, bool write, bool atomic, uint32_t pc) {
    BlockClocks& c = clocks_of(b);
    const uint16_t id = uint16_t(current->linear);
    if (atomic) {
        std::set<uint32_t>& released = global_releases[reinterpret_cast<uint64_t>(p)];
        c.blocks.insert(released.begin(), released.end());
        released.insert(c.blocks.begin(), c.blocks.end());
        released.insert(c.serial);
    }
    for (size_t i = 0; i < bytes; i++) {
        auto [entry, fresh] = global_shadow.try_emplace(reinterpret_cast<uint64_t>(p + i));
        GlobalShadow& s = entry->second;
        const bool both_atomic = s.write.atomic && atomic;
        if (!fresh && s.write.present && !both_atomic) {
            if (s.serial != c.serial && !c.blocks.count(s.serial))
                fail("race: a write%s by another block and one by this one [pc=%#x] at %s", write ? "" : " and a read", pc,
                     describe_address(p + i).c_str());
            Access now;
            now.id = id, now.pc = pc;
            if (s.serial == c.serial && s.write.id != id && !known(c.threads[id], s.write))
                report(c, write ? "a write" : "a write and a read", p + i, s.write, now);
        }
        if (!write) continue;
        s.serial = c.serial;
        s.write.clock = c.threads[id][id];
        s.write.id = id, s.write.pc = pc, s.write.atomic = atomic, s.write.present = true;
    }
}

void access(void* p, size_t bytes, bool write, bool atomic, uint32_t pc) {
    if (!options.races || !current || !launch) return;
    Block& b = *self()->block;
    char* address = static_cast<char*>(p);
    if (Block* owner = block_of_pointer(p)) {
        check_within_shared(*owner, address, bytes, pc);
        if (b.cluster->blocks.size() == 1) access_shared(b, address, bytes, write, atomic, pc);
    } else if (const GlobalBuffer* buffer = buffer_of(p)) {
        if (address + bytes > buffer->start + buffer->bytes)
            fail("%s %zu bytes [pc=%#x] at %s", write ? "writes" : "reads", bytes, pc, describe_address(p).c_str());
        if (!buffer->is_constant) access_global(b, address, bytes, write, atomic, pc);
    }
}

void join(Clock& into, const Clock& from) {
    for (size_t i = 0; i < into.size(); i++)
        if (from[i] > into[i]) into[i] = from[i];
}

}  // namespace

void note_read(const void* p, size_t n) { access(const_cast<void*>(p), n, false, false, 0); }
void note_write(void* p, size_t n) { access(p, n, true, false, 0); }
void note_atomic(void* p, size_t n) { access(p, n, true, true, 0); }
void warp_memory_order(uint32_t mask) {
    const uint64_t key = uint64_t(2) << 40 | uint64_t(self()->warp->index) << 32 | mask;
    race::acquire(key, *self());
    race::release(key, *self());
}

namespace race {

void begin_launch() {
    global_shadow.clear();
    global_releases.clear();
}

void begin_block(Block& block) {
    if (!options.races) return;
    auto* c = new BlockClocks;
    c->thread_count = block.fibers.size();
    c->ids = int(2 * c->thread_count + block.warps.size() + bulk_agents);
    c->threads.assign(c->thread_count, Clock(c->ids, 0));
    for (size_t i = 0; i < c->thread_count; i++) c->threads[i][i] = 1;
    c->agents.assign(c->ids - c->thread_count, Clock(c->ids, 0));
    c->fenced.assign(c->ids, 0);
    c->serial = ++serials;
    block.clocks = c;
}

void end_block(Block& block) {
    delete static_cast<BlockClocks*>(block.clocks);
    block.clocks = nullptr;
}

void reset(uint64_t key) {
    if (!options.races || !current) return;
    clocks_of(*self()->block).keys.erase(key);
}

void release(uint64_t key, Fiber& f) {
    if (!options.races) return;
    BlockClocks& c = clocks_of(*f.block);
    Clock& mine = c.threads[f.view.linear];
    auto [entry, fresh] = c.keys.try_emplace(key, mine);
    if (!fresh) join(entry->second, mine);
    mine[f.view.linear]++;
}

void acquire(uint64_t key, Fiber& f) {
    if (!options.races) return;
    BlockClocks& c = clocks_of(*f.block);
    const auto entry = c.keys.find(key);
    if (entry != c.keys.end()) join(c.threads[f.view.linear], entry->second);
}

int copy_agent(Fiber& f) { return int(f.block->fibers.size() + f.view.linear); }
int gemm_agent(Warp& w) { return int(2 * w.block->fibers.size() + w.index); }
int bulk_agent(Block& b) {
    if (!options.races) return 0;
    BlockClocks& c = clocks_of(b);
    return c.ids - bulk_agents + c.next_bulk++ % bulk_agents;
}

uint32_t agent_begin(Fiber& f, int agent) {
    if (!options.races) return 0;
    BlockClocks& c = clocks_of(*f.block);
    Clock& knowledge = c.agents[agent - c.thread_count];
    join(knowledge, c.threads[f.view.linear]);
    return ++knowledge[agent];
}

void agent_access(Fiber& f, int agent, uint32_t clock, void* p, size_t bytes, bool write) {
    if (!options.races || f.block->cluster->blocks.size() > 1) return;
    BlockClocks& c = clocks_of(*f.block);
    check_within_shared(*f.block, static_cast<char*>(p), bytes, 0);
    Access now;
    now.clock = clock, now.id = uint16_t(agent), now.present = true, now.proxy = true;
    const bool by_copy = agent < int(2 * c.thread_count);  // cp.async belongs to the generic proxy
    for (size_t i = 0; i < bytes; i++) {
        const size_t offset = static_cast<char*>(p) + i - f.block->arena;
        const Access last = offset < c.shadow.size() ? c.shadow[offset].write : Access();
        if (!by_copy && last.present && last.id < 2 * c.thread_count && c.fenced[last.id] < last.clock)
            fail("%s was written by %s, and is used by %s: fence.proxy.async is missing behind the write",
                 describe_address(static_cast<char*>(p) + i).c_str(), who(c, last).c_str(), who(c, now).c_str());
        access_byte(c, offset, static_cast<char*>(p) + i, c.agents[agent - c.thread_count], now, write);
    }
}

void agent_end(Fiber& f, int agent, uint32_t clock) {
    if (!options.races) return;
    uint32_t& mine = clocks_of(*f.block).threads[f.view.linear][agent];
    if (mine < clock) mine = clock;
}

void agent_release(uint64_t key, Block& b, int agent, uint32_t clock) {
    if (!options.races) return;
    BlockClocks& c = clocks_of(b);
    auto [entry, fresh] = c.keys.try_emplace(key, Clock(c.ids, 0));
    if (entry->second[agent] < clock) entry->second[agent] = clock;
}

// Generic writes that the thread knows of become visible to the asynchronous proxy.
void proxy_fence(Fiber& f) {
    if (!options.races) return;
    BlockClocks& c = clocks_of(*f.block);
    join(c.fenced, c.threads[f.view.linear]);
}

}  // namespace race

namespace ptx {
void proxy_fence() { race::proxy_fence(*self()); }
}  // namespace ptx

}  // namespace cushim

// --- what instrumented code calls ----------------------------------------------------------------------------------

namespace {
template <bool write>
void instrumented(void* p, size_t bytes, void* pc) {
    cushim::access(p, bytes, write, false, uint32_t(reinterpret_cast<uintptr_t>(pc)) - 1);
}
}  // namespace

#define CUSHIM_ACCESS(N)                                                                                      \
    extern "C" void __tsan_read##N(void* p) { instrumented<false>(p, N, __builtin_return_address(0)); }      \
    extern "C" void __tsan_write##N(void* p) { instrumented<true>(p, N, __builtin_return_address(0)); }      \
    extern "C" void __tsan_unaligned_read##N(void* p) { instrumented<false>(p, N, __builtin_return_address(0)); } \
    extern "C" void __tsan_unaligned_write##N(void* p) { instrumented<true>(p, N, __builtin_return_address(0)); } \
    extern "C" void __tsan_volatile_read##N(void* p) { instrumented<false>(p, N, __builtin_return_address(0)); }  \
    extern "C" void __tsan_volatile_write##N(void* p) { instrumented<true>(p, N, __builtin_return_address(0)); }
CUSHIM_ACCESS(1)
CUSHIM_ACCESS(2)
CUSHIM_ACCESS(4)
CUSHIM_ACCESS(8)
CUSHIM_ACCESS(16)

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_read_range(void* p, size_t n) { instrumented<false>(p, n, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t n) { instrumented<true>(p, n, __builtin_return_address(0)); }
}
