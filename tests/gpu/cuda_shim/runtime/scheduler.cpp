// Runs the threads of a launch as fibers, one at a time, and decides who is next.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "runtime.h"
#include "switching.h"

namespace cushim {

Thread* current = nullptr;
Options options;
const Launch* launch = nullptr;

namespace {

constexpr size_t guard_bytes = 4096;  // of a stack
constexpr size_t most_resident = 64;  // blocks at a time, where they wait for each other

std::vector<Cluster*> resident;
std::vector<Block*> pool;
std::deque<std::function<void()>> events;
uint64_t random_state = 1;

// --- the end of a thread -------------------------------------------------------------------------------------------

bool complete(const Meeting& m, uint32_t alive) { return (m.mask & alive & ~m.arrived) == 0; }

void finish(Warp& w, Meeting* m) {
    m->combine(m->brought);
    for (int lane = 0; lane < 32; lane++)
        if (m->arrived >> lane & 1 && w.lanes[lane] != self()) wake(w.lanes[lane]);
    w.meetings.erase(std::find(w.meetings.begin(), w.meetings.end(), m));
    delete m;
}

void leave_warp(Fiber* f) {
    Warp& w = *f->warp;
    w.alive &= ~(1u << f->view.lane);
    const std::vector<Meeting*> waiting = w.meetings;
    for (Meeting* m : waiting) {
        if (!(m->mask >> f->view.lane & 1)) continue;
        if (m->aligned) fail("the thread ended while lanes of its warp wait for it at %s", m->what);
        if (complete(*m, w.alive)) finish(w, m);
    }
}

void fiber_main() {
    Fiber* f = self();
    launch->kernel->run(launch->arguments.data());
    end_of_thread(*f);
    leave_warp(f);
    f->state = State::done;
    f->block->done++;
    f->block->cluster->alive--;
    to_scheduler(f);
    abort();
}

// --- blocks --------------------------------------------------------------------------------------------------------

Block* take_block(unsigned threads) {
    if (!pool.empty()) {
        Block* block = pool.back();
        pool.pop_back();
        return block;
    }
    Block* block = new Block;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    block->arena = static_cast<char*>(mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, flags, -1, 0));
    block->stacks = static_cast<char*>(mmap(nullptr, threads * stack_bytes, PROT_READ | PROT_WRITE, flags, -1, 0));
    if (block->arena == MAP_FAILED || block->stacks == MAP_FAILED) fail("no memory for the stacks of a block");
    for (unsigned i = 0; i < threads; i++) mprotect(block->stacks + i * stack_bytes, guard_bytes, PROT_NONE);
    block->fibers = std::vector<Fiber>(threads);
    block->warps = std::vector<Warp>((threads + 31) / 32);
    return block;
}

void place_thread(Block& block, unsigned i, uint3_ cluster_index) {
    const uint3_ size = launch->block;
    Fiber& f = block.fibers[i];
    f.state = State::ready;
    f.what = "";
    f.block = &block;
    f.warp = &block.warps[i / 32];
    Thread& t = f.view;
    t.thread_idx = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    t.block_idx = block.index;
    t.block_dim = size;
    t.grid_dim = launch->grid;
    t.cluster_idx = cluster_index;
    t.cluster_dim = launch->cluster;
    t.cluster_rank = block.rank;
    t.linear = i;
    t.lane = i % 32;
    t.line = 0;
    t.fiber = &f;
    f.warp->lanes[i % 32] = &f;
    f.warp->alive |= 1u << i % 32;
    prepare(&f, block.stacks + i * stack_bytes, fiber_main);
}

void order_threads(Block& block) {
    block.order.clear();
    for (Fiber& f : block.fibers) block.order.push_back(&f);
    if (options.order == 1) std::reverse(block.order.begin(), block.order.end());
    if (options.order != 2) return;
    for (size_t i = block.order.size(); i > 1; i--) std::swap(block.order[i - 1], block.order[random_number() % i]);
}

Block* place_block(Cluster* cluster, unsigned rank, uint3_ cluster_index) {
    const unsigned threads = launch->block.x * launch->block.y * launch->block.z;
    Block* block = take_block(threads);
    const uint3_ c = launch->cluster;
    block->cluster = cluster;
    block->rank = rank;
    block->done = 0;
    const uint3_ inside{rank % c.x, rank / c.x % c.y, rank / (c.x * c.y)};
    block->index = {cluster_index.x * c.x + inside.x, cluster_index.y * c.y + inside.y, cluster_index.z * c.z + inside.z};
    for (Barrier& b : block->barriers) b = Barrier();
    for (unsigned w = 0; w < block->warps.size(); w++) {
        block->warps[w] = Warp();
        block->warps[w].block = block;
        block->warps[w].index = w;
    }
    for (unsigned i = 0; i < threads; i++) {
        place_thread(*block, i, cluster_index);
        block->fibers[i].view.rank_idx = inside;
    }
    order_threads(*block);
    begin_block_memory(*block);
    race::begin_block(*block);
    return block;
}

void admit(size_t index) {
    const uint3_ g = launch->grid, c = launch->cluster;
    const size_t nx = g.x / c.x, ny = g.y / c.y;
    const uint3_ at{unsigned(index % nx), unsigned(index / nx % ny), unsigned(index / (nx * ny))};
    Cluster* cluster = new Cluster;
    for (unsigned rank = 0; rank < c.x * c.y * c.z; rank++) cluster->blocks.push_back(place_block(cluster, rank, at));
    cluster->alive = cluster->blocks.size() * launch->block.x * launch->block.y * launch->block.z;
    resident.push_back(cluster);
}

bool retire_if_done(Cluster* cluster) {
    if (cluster->alive) return false;
    for (Block* block : cluster->blocks) {
        end_of_block(*block);
        race::end_block(*block);
        pool.push_back(block);
    }
    delete cluster;
    return true;
}

// --- one pass over all threads -------------------------------------------------------------------------------------

// True where a thread ran that was not just asking again whether it may go on.
bool run_ready() {
    bool progress = false;
    for (size_t c = 0; c < resident.size(); c++)
        for (Block* block : resident[c]->blocks)
            for (Fiber* f : block->order) {
                if (f->state != State::ready && f->state != State::spinning) continue;
                progress |= f->state == State::ready;
                f->state = State::ready;
                current = &f->view;
                to_fiber(f);
            }
    return progress;
}

// Lanes that asked who is with them are told, warp by warp, once all other lanes of the warp wait for something else.
bool answer_masks() {
    for (Cluster* cluster : resident)
        for (Block* block : cluster->blocks)
            for (Warp& w : block->warps) {
                uint32_t asking = 0;
                int line = 0;
                for (Fiber* f : w.lanes) {
                    if (!f || f->state != State::asking_mask || (line && f->view.line != line)) continue;
                    line = f->view.line;
                    asking |= 1u << f->view.lane;
                }
                for (Fiber* f : w.lanes) {
                    if (!f || !(asking >> f->view.lane & 1)) continue;
                    f->mask_answer = asking;
                    wake(f);
                }
                if (asking) return true;
            }
    return false;
}

void fire_event() {
    const size_t i = options.delivery == Delivery::shuffled ? random_number() % events.size() : 0;
    std::function<void()> event = std::move(events[i]);
    events.erase(events.begin() + i);
    event();
}

[[noreturn]] void report_stuck() {
    std::map<std::string, int> groups;
    for (Cluster* cluster : resident)
        for (Block* block : cluster->blocks)
            for (Fiber& f : block->fibers) {
                current = &f.view;
                std::string text = f.state == State::done ? "ended" : f.state == State::spinning ? "spins" : "waits for ";
                if (f.state == State::waiting) text += f.what;
                if (f.state != State::done) text += " (line " + std::to_string(f.view.line) + ")";
                groups[text]++;
            }
    std::string all;
    for (auto& [text, count] : groups) all += (all.empty() ? "" : ", ") + std::to_string(count) + " x " + text;
    fail("no thread can go on: %s", all.c_str());
}

size_t block_at(size_t i, size_t count) {
    if (options.order == 1) return count - 1 - i;
    if (options.order != 2) return i;
    size_t step = 1 + options.seed * 7919 % count;
    while (std::__gcd(step, count) != 1) step++;
    return (i * step + options.seed) % count;
}

}  // namespace

uint64_t random_number() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545F4914F6CDD1Dull >> 11;
}

void run_launch(const Launch& what) {
    launch = &what;
    random_state = options.seed * 0x9E3779B97F4A7C15ull | 1;
    const size_t clusters = size_t(what.grid.x) * what.grid.y * what.grid.z / (what.cluster.x * what.cluster.y * what.cluster.z);
    for (Block* block : pool) {
        munmap(block->arena, arena_bytes);
        munmap(block->stacks, block->fibers.size() * stack_bytes);
        delete block;
    }
    pool.clear();
    begin_kernel_memory();
    race::begin_launch();
    size_t next = 0;
    int idle = 0;
    while (next < clusters || !resident.empty()) {
        if (resident.empty()) admit(block_at(next++, clusters));
        const bool progress = run_ready();
        resident.erase(std::remove_if(resident.begin(), resident.end(), retire_if_done), resident.end());
        if (options.delivery == Delivery::shuffled && !events.empty() && random_number() % 4 == 0) fire_event();
        if (progress) idle = 0;
        if (progress || resident.empty() || answer_masks()) continue;
        if (!events.empty())
            fire_event();
        else if (next < clusters && resident.size() < most_resident)
            admit(block_at(next++, clusters));
        else if (++idle > 1000)
            report_stuck();
    }
    events.clear();
    launch = nullptr;
}

void fail(const char* format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fflush(stdout);
    if (current && launch) {
        const Thread& t = *current;
        fprintf(stderr, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u), line %d: %s\n", launch->kernel->name, t.block_idx.x,
                t.block_idx.y, t.block_idx.z, t.thread_idx.x, t.thread_idx.y, t.thread_idx.z, t.line, text);
    } else {
        fprintf(stderr, "%s\n", text);
    }
    fflush(stderr);
    _exit(3);
}

void defer(std::function<void()> event) {
    if (options.delivery == Delivery::early)
        event();
    else
        events.push_back(std::move(event));
}

void block_fiber(const char* what) {
    Fiber* f = self();
    f->state = State::waiting;
    f->what = what;
    to_scheduler(f);
}

void spin() {
    Fiber* f = self();
    f->state = State::spinning;
    to_scheduler(f);
}

uint32_t active_mask() {
    Fiber* f = self();
    f->state = State::asking_mask;
    f->what = "its active mask";
    to_scheduler(f);
    return f->mask_answer;
}

void meet(const char* what, uint32_t mask, void* mine, Combine combine, bool aligned) {
    Fiber* f = self();
    Warp& w = *f->warp;
    const uint32_t bit = 1u << f->view.lane;
    if (!(mask & bit)) fail("%s with mask %08x, which lacks lane %u itself", what, mask, f->view.lane);
    if (aligned && (w.alive != 0xffffffffu || mask != 0xffffffffu))
        fail("%s needs all 32 lanes of the warp; there are %08x", what, w.alive & mask);
    Meeting* m = nullptr;
    for (Meeting* other : w.meetings)
        if (other->mask & mask) m = other;
    if (m && m->arrived & bit) fail("%s: two meetings of one lane", what);
    if (m && strcmp(m->what, what)) fail("the thread is at %s while other lanes of its warp are at %s", what, m->what);
    if (m && m->mask != mask) fail("%s with mask %08x while other lanes have mask %08x", what, mask, m->mask);
    if (!m) {
        m = new Meeting;
        m->mask = mask;
        m->what = what;
        m->combine = combine;
        m->aligned = aligned;
        w.meetings.push_back(m);
    }
    m->arrived |= bit;
    m->brought[f->view.lane] = mine;
    if (complete(*m, w.alive))
        finish(w, m);
    else
        block_fiber(what);
}

}  // namespace cushim
