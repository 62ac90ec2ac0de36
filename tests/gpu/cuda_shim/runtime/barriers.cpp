// Barriers of blocks and clusters.
#include "runtime.h"

namespace cushim {

namespace {

// The four results a barrier may give its threads.
int vote_of(const Barrier& b) {
    switch (b.vote) {
        case Vote::popc: return b.votes;
        case Vote::all: return b.votes == b.voters;
        case Vote::any: return b.votes > 0;
        default: return 0;
    }
}

// Two keys by turns: a thread may be at the next barrier while others still leave this one.
uint64_t barrier_key(int id, unsigned generation) { return uint64_t(1) << 40 | uint64_t(id) << 1 | (generation & 1); }

void check_lines(const Barrier& b) {
    for (size_t i = 1; i < b.counted.size(); i++) {
        const Thread &t = b.counted[i]->view, &u = b.counted[i - 1]->view;
        if (t.linear / 32 == u.linear / 32 && t.line != u.line)
            fail("lanes of one warp are at different barriers: lines %d and %d", u.line, t.line);
    }
}

}  // namespace

int block_barrier(int id, int count, bool arrive_only, Vote vote, int predicate) {
    Fiber* f = self();
    Block& block = *f->block;
    if (id < 0 || id > 15) fail("barrier %d: there are barriers 0 to 15", id);
    Barrier& b = block.barriers[id];
    const int expected = count ? count : int(block.fibers.size());
    if (count % 32) fail("barrier %d for %d threads: not whole warps", id, count);
    if (expected > int(block.fibers.size())) fail("barrier %d for %d threads in a block of %zu", id, expected, block.fibers.size());
    if (b.arrived == 0) {
        const unsigned generation = b.generation + 1;
        b = Barrier();
        b.generation = generation;
        b.expected = expected;
        b.vote = vote;
        race::reset(barrier_key(id, generation));
    }
    const uint64_t key = barrier_key(id, b.generation);
    race::release(key, *f);
    if (b.expected != expected) fail("barrier %d for %d threads while others wait at it for %d", id, expected, b.expected);
    b.arrived++;
    b.counted.push_back(f);
    b.voters++;
    b.votes += predicate != 0;
    if (!arrive_only) b.waiting.push_back(f);
    if (b.arrived < b.expected) {
        if (arrive_only) return 0;
        block_fiber(id ? "a named barrier" : "__syncthreads");
        race::acquire(key, *f);
        return f->vote_result;
    }
    if (!count) check_lines(b);
    if (!arrive_only) race::acquire(key, *f);
    const int result = vote_of(b);
    for (Fiber* other : b.waiting) {
        other->vote_result = result;
        if (other != f) wake(other);
    }
    b.arrived = 0;
    return result;
}

// A cluster's barrier: arrive and wait are apart; a wait ends when all threads of the cluster have arrived.
void cluster_arrive() {
    Cluster& c = *self()->block->cluster;
    const unsigned threads = c.blocks.size() * self()->block->fibers.size();
    self()->barrier = int(c.phase);
    race::release(barrier_key(16, c.phase), *self());
    if (++c.arrived < threads) return;
    c.arrived = 0;
    c.phase++;
    for (Fiber* f : c.waiting) wake(f);
    c.waiting.clear();
}

void cluster_wait() {
    Cluster& c = *self()->block->cluster;
    if (unsigned(self()->barrier) == c.phase) {
        c.waiting.push_back(self());
        block_fiber("the cluster's barrier");
    }
    race::acquire(barrier_key(16, self()->barrier), *self());
}

}  // namespace cushim
