// cp.async and its groups, mbarriers, the bulk copies without a tensor map. "Late" runs carry a copy out when it is waited for.
#include "bulk.h"

namespace cushim {

namespace {

void move(const Copy& c) {
    memcpy(c.to, c.from, c.filled);
    memset(static_cast<char*>(c.to) + c.filled, 0, c.bytes - c.filled);
}

void carry_out(Fiber& f, const Copy& c) {
    if (options.delivery != Delivery::early) move(c);
    race::agent_end(f, race::copy_agent(f), c.clock);
}

void carry_out(Fiber& f, std::vector<Copy>& group) {
    for (const Copy& c : group) carry_out(f, c);
    group.clear();
}

void carry_out_all(Fiber& f) {
    for (auto& group : f.copies) carry_out(f, group);
    f.copies.clear();
    carry_out(f, f.open_copies);
}

void run_stores(std::vector<BulkStore>& group) {
    for (BulkStore& store : group) store.run();
    group.clear();
}

}  // namespace

void end_of_thread(Fiber& f) {
    f.copies.clear();  // their data are not used by this thread, and nobody else may rely on them
    f.open_copies.clear();
    if (!f.open_stores.empty() || !f.stores.empty())
        fail("the thread ends before its bulk stores have read shared memory: cp.async.bulk.wait_group is missing");
}

void end_of_block(Block& block) {
    for (size_t w = 0; w + 4 <= block.warps.size(); w += 4)
        for (size_t i = 1; i < 4; i++)
            if (block.warps[w].gemm_trace != block.warps[w + i].gemm_trace)
                fail("the four warps of a warpgroup did not issue the same wgmma.mma_async instructions");
}

namespace ptx {

void copy_async(uint64_t to, uint64_t from, unsigned bytes, unsigned filled) {
    Fiber& f = *self();
    if (bytes != 4 && bytes != 8 && bytes != 16) fail("cp.async of %u bytes: 4, 8 or 16 are possible", bytes);
    if (filled > bytes) fail("cp.async reads %u bytes and writes %u", filled, bytes);
    if (from % bytes) fail("cp.async of %u bytes from an address that is not aligned to them", bytes);
    Copy copy{shared(to, bytes), reinterpret_cast<const void*>(from), bytes, filled, 0};
    if (is_shared(copy.from)) fail("cp.async reads global memory, and was given an address of shared memory");
    note_read(copy.from, filled);
    copy.clock = race::agent_begin(f, race::copy_agent(f));
    race::agent_access(f, race::copy_agent(f), copy.clock, copy.to, bytes, true);
    if (options.delivery == Delivery::early) move(copy);
    f.open_copies.push_back(copy);
}

void copy_commit() {
    Fiber& f = *self();
    f.copies.push_back(std::move(f.open_copies));
    f.open_copies.clear();
}

void copy_wait(unsigned left) {
    Fiber& f = *self();
    while (f.copies.size() > left) {
        carry_out(f, f.copies.front());
        f.copies.pop_front();
    }
}

void copy_wait_all() { carry_out_all(*self()); }

// The mbarrier gets an arrival once all copies of the thread so far are done.
void copy_arrive(uint64_t barrier, bool counted_before) {
    Fiber& f = *self();
    uint64_t* word = barrier_word(barrier);
    if (!counted_before) add_pending(word, 1);
    race::release(barrier_key(word), f);
    auto copies = std::make_shared<std::vector<Copy>>();
    for (auto& group : f.copies) copies->insert(copies->end(), group.begin(), group.end());
    copies->insert(copies->end(), f.open_copies.begin(), f.open_copies.end());
    defer([word, copies, &f] {
        for (const Copy& c : *copies) {
            move(c);
            race::agent_release(barrier_key(word), *f.block, race::copy_agent(f), c.clock);
        }
        arrive(word, 1);
    });
    f.copies.clear();
    f.open_copies.clear();
}

// --- mbarriers -----------------------------------------------------------------------------------------------------

namespace {

// The object's 64 bits: arrivals still to come (20), arrivals of a phase (20), bytes still to come (21, signed), the phase
// (1), and a mark (2) that neither fresh memory nor zeros have.
constexpr uint64_t mark = 1;
struct State {
    int64_t pending, expected, bytes;
    unsigned phase;
};

State read(const uint64_t* word) {
    if (*word >> 62 != mark) fail("the mbarrier has not been initialised (or is no longer one)");
    return {int64_t(*word & 0xfffff), int64_t(*word >> 20 & 0xfffff), int64_t(*word << 3) >> 43, unsigned(*word >> 61 & 1)};
}

void write(uint64_t* word, const State& s) {
    if (s.bytes >= 1 << 20 || s.bytes < -(1 << 20)) fail("the mbarrier's count of bytes leaves its range: %ld", long(s.bytes));
    *word = mark << 62 | uint64_t(s.phase) << 61 | (uint64_t(s.bytes) & 0x1fffff) << 40 | uint64_t(s.expected) << 20 | uint64_t(s.pending);
}

struct Waiter {
    uint64_t* word;
    Fiber* fiber;
};
std::vector<Waiter> waiters;

// Ends the phase when nothing is outstanding, and wakes those who wait for it.
void settle(uint64_t* word, State s) {
    if (s.pending == 0 && s.bytes == 0) {
        s.phase ^= 1;
        s.pending = s.expected;
        for (size_t i = 0; i < waiters.size();)
            if (waiters[i].word == word) {
                wake(waiters[i].fiber);
                waiters[i] = waiters.back();
                waiters.pop_back();
            } else {
                i++;
            }
    }
    write(word, s);
}

}  // namespace

uint64_t* barrier_word(uint64_t address) { return reinterpret_cast<uint64_t*>(shared(address, 8)); }
uint64_t barrier_key(const uint64_t* word) { return reinterpret_cast<uint64_t>(word); }

void arrive(uint64_t* word, uint32_t count) {
    State s = read(word);
    if (s.pending < count) fail("the mbarrier expects %ld arrivals in a phase and gets more", long(s.expected));
    s.pending -= count;
    settle(word, s);
}

void add_pending(uint64_t* word, uint32_t count) {
    State s = read(word);
    s.pending += count;
    write(word, s);
}

void complete_bytes(uint64_t* word, uint32_t bytes) {
    State s = read(word);
    s.bytes -= bytes;
    settle(word, s);
}

void barrier_init(uint64_t barrier, uint32_t count) {
    uint64_t* word = barrier_word(barrier);
    if (count < 1 || count > 0xfffff) fail("mbarrier.init for %u arrivals: 1 to 1048575 are possible", count);
    note_write(word, 8);
    write(word, {count, count, 0, 0});
}

void barrier_invalidate(uint64_t barrier) {
    uint64_t* word = barrier_word(barrier);
    read(word);
    *word = ~uint64_t(0);
}

uint64_t barrier_arrive(uint64_t barrier, uint32_t count, int64_t expected_bytes, bool drop) {
    uint64_t* word = barrier_word(barrier);
    const unsigned phase = read(word).phase;
    note_atomic(word, 8);
    race::release(barrier_key(word), *self());
    if (expected_bytes) barrier_expect(barrier, expected_bytes);
    if (drop) {
        State s = read(word);
        s.expected -= count;
        write(word, s);
    }
    arrive(word, count);
    return phase;
}

void barrier_expect(uint64_t barrier, int64_t bytes) {
    uint64_t* word = barrier_word(barrier);
    State s = read(word);
    s.bytes += bytes;
    write(word, s);
}

// Whether the phase of this parity is over. A wait comes back when it is.
bool barrier_test(uint64_t barrier, uint32_t parity, bool wait) {
    uint64_t* word = barrier_word(barrier);
    note_atomic(word, 8);
    if (read(word).phase == (parity & 1) && !wait) {
        spin();
        return false;
    }
    while (read(word).phase == (parity & 1)) {
        waiters.push_back({word, self()});
        block_fiber("a phase of an mbarrier");
    }
    race::acquire(barrier_key(word), *self());
    return true;
}

// --- bulk copies ---------------------------------------------------------------------------------------------------

void bulk_load(uint64_t to, uint64_t from, uint32_t bytes, uint64_t barrier, int multicast) {
    if (bytes % 16 || from % 16 || to % 16) fail("cp.async.bulk: size and both addresses must be multiples of 16");
    note_read(reinterpret_cast<const void*>(from), bytes);
    for_each_receiver(to, barrier, multicast, [&](char* place, uint64_t* word) {
        const void* source = reinterpret_cast<const void*>(from);
        Delivered delivered(place, bytes, word);
        defer([=] {
            memcpy(place, source, bytes);
            delivered.done(bytes);
        });
    });
}

void bulk_store(uint64_t to, uint64_t from, uint32_t bytes) {
    if (bytes % 16 || from % 16 || to % 16) fail("cp.async.bulk: size and both addresses must be multiples of 16");
    char* source = shared_bytes(from, bytes);
    note_write(reinterpret_cast<void*>(to), bytes);
    push_store(source, bytes, [=] { memcpy(reinterpret_cast<void*>(to), source, bytes); });
}

void push_store(char* source, size_t bytes, std::function<void()> run) {
    Fiber& f = *self();
    const int agent = race::bulk_agent(*f.block);
    const uint32_t clock = race::agent_begin(f, agent);
    race::agent_access(f, agent, clock, source, bytes, false);
    BulkStore store{[=, &f] {
        run();
        race::agent_end(f, agent, clock);
    }};
    if (options.delivery == Delivery::early) {
        run();
        store.run = [=, &f] { race::agent_end(f, agent, clock); };
    }
    f.open_stores.push_back(std::move(store));
}

void bulk_commit() {
    Fiber& f = *self();
    f.stores.push_back(std::move(f.open_stores));
    f.open_stores.clear();
}

void bulk_wait(unsigned left) {
    Fiber& f = *self();
    while (f.stores.size() > left) {
        run_stores(f.stores.front());
        f.stores.pop_front();
    }
}

}  // namespace ptx
}  // namespace cushim
