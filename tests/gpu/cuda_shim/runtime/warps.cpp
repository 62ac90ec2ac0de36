// What lanes of a warp do together: shuffles, votes, reductions, matrix fragments.
#include "cushim/ptx.h"
#include "runtime.h"

namespace cushim {

namespace {

constexpr uint64_t undefined = ~uint64_t(0);  // what a lane gets from one that is not there

// PTX ISA, shfl.sync: the source lane, and whether it lies within the segment.
int source_lane(const Shuffled& s, int lane, bool& inside) {
    const int by = int(s.by & 31), clamp = int(s.clamp & 31), segment = int(s.clamp >> 8 & 31);
    const int last = (lane & segment) | (clamp & ~segment & 31), first = lane & segment;
    int from = lane;
    switch (s.mode) {
        case up: from = lane - by, inside = from >= last; break;
        case down: from = lane + by, inside = from <= last; break;
        case xor_: from = lane ^ by, inside = from <= last; break;
        case idx: from = first | (by & ~segment & 31), inside = from <= last; break;
    }
    return inside ? from : lane;
}

}  // namespace

void combine_shuffle(void* const* lanes) {
    for (int lane = 0; lane < 32; lane++) {
        auto* mine = static_cast<Shuffled*>(lanes[lane]);
        if (!mine) continue;
        auto* other = static_cast<Shuffled*>(lanes[source_lane(*mine, lane, mine->inside)]);
        mine->result = other ? other->value : undefined;
    }
}

void combine_ballot(void* const* lanes) {
    uint32_t ballot = 0, present = 0;
    for (int lane = 0; lane < 32; lane++)
        if (auto* v = static_cast<Voted*>(lanes[lane])) {
            present |= 1u << lane;
            ballot |= uint32_t(v->value != 0) << lane;
        }
    for (int lane = 0; lane < 32; lane++)
        if (auto* v = static_cast<Voted*>(lanes[lane])) v->ballot = ballot, v->present = present;
}

void combine_match(void* const* lanes) {
    for (int lane = 0; lane < 32; lane++)
        for (int other = 0; other < 32; other++) {
            auto *mine = static_cast<Voted*>(lanes[lane]), *his = static_cast<Voted*>(lanes[other]);
            if (mine && his && mine->value == his->value) mine->ballot |= 1u << other;
        }
}

namespace {

uint32_t reduced(const Reduced& r, uint32_t a, uint32_t b) {
    const bool less = r.is_signed ? int32_t(a) < int32_t(b) : a < b;
    switch (r.operation) {
        case 0: return a + b;
        case 1: return less ? a : b;
        case 2: return less ? b : a;
        case 3: return a & b;
        case 4: return a | b;
        default: return a ^ b;
    }
}

}  // namespace

void combine_reduce(void* const* lanes) {
    const Reduced* first = nullptr;
    uint32_t all = 0;
    for (int lane = 0; lane < 32; lane++)
        if (auto* r = static_cast<Reduced*>(lanes[lane])) {
            all = first ? reduced(*r, all, r->value) : r->value;
            first = r;
        }
    for (int lane = 0; lane < 32; lane++)
        if (auto* r = static_cast<Reduced*>(lanes[lane])) r->result = all;
}

namespace ptx {

uint32_t shuffle32(ShuffleMode mode, uint32_t value, uint32_t by, uint32_t clamp, uint32_t mask, bool& inside) {
    const Shuffled s = shuffle(mode, mask, value, by, clamp);
    inside = s.inside;
    return uint32_t(s.result);
}

bool elect(uint32_t mask, uint32_t& leader) {
    const Voted v = vote(mask, 1);
    leader = __builtin_ctz(v.present);
    return leader == current->lane;
}

char* generic(uint64_t address, size_t bytes) {
    if (address % bytes) fail("address %#lx is not aligned to %zu bytes", address, bytes);
    return reinterpret_cast<char*>(address);
}

namespace {

struct SpecialRegister {
    const char* name;
    uint64_t (*value)(const Thread&);
};

const SpecialRegister special_registers[] = {
    {"tid.x", [](const Thread& t) { return uint64_t(t.thread_idx.x); }},
    {"tid.y", [](const Thread& t) { return uint64_t(t.thread_idx.y); }},
    {"tid.z", [](const Thread& t) { return uint64_t(t.thread_idx.z); }},
    {"ntid.x", [](const Thread& t) { return uint64_t(t.block_dim.x); }},
    {"ntid.y", [](const Thread& t) { return uint64_t(t.block_dim.y); }},
    {"ntid.z", [](const Thread& t) { return uint64_t(t.block_dim.z); }},
    {"ctaid.x", [](const Thread& t) { return uint64_t(t.block_idx.x); }},
    {"ctaid.y", [](const Thread& t) { return uint64_t(t.block_idx.y); }},
    {"ctaid.z", [](const Thread& t) { return uint64_t(t.block_idx.z); }},
    {"nctaid.x", [](const Thread& t) { return uint64_t(t.grid_dim.x); }},
    {"nctaid.y", [](const Thread& t) { return uint64_t(t.grid_dim.y); }},
    {"nctaid.z", [](const Thread& t) { return uint64_t(t.grid_dim.z); }},
    {"laneid", [](const Thread& t) { return uint64_t(t.lane); }},
    {"warpid", [](const Thread& t) { return uint64_t(t.linear / 32); }},
    {"lanemask_eq", [](const Thread& t) { return uint64_t(1u << t.lane); }},
    {"lanemask_lt", [](const Thread& t) { return uint64_t((1u << t.lane) - 1); }},
    {"lanemask_le", [](const Thread& t) { return uint64_t((2u << t.lane) - 1); }},
    {"lanemask_gt", [](const Thread& t) { return uint64_t(~((2u << t.lane) - 1)); }},
    {"lanemask_ge", [](const Thread& t) { return uint64_t(~((1u << t.lane) - 1)); }},
    {"clusterid.x", [](const Thread& t) { return uint64_t(t.cluster_idx.x); }},
    {"clusterid.y", [](const Thread& t) { return uint64_t(t.cluster_idx.y); }},
    {"clusterid.z", [](const Thread& t) { return uint64_t(t.cluster_idx.z); }},
    {"nclusterid.x", [](const Thread& t) { return uint64_t(t.grid_dim.x / t.cluster_dim.x); }},
    {"nclusterid.y", [](const Thread& t) { return uint64_t(t.grid_dim.y / t.cluster_dim.y); }},
    {"nclusterid.z", [](const Thread& t) { return uint64_t(t.grid_dim.z / t.cluster_dim.z); }},
    {"cluster_ctaid.x", [](const Thread& t) { return uint64_t(t.rank_idx.x); }},
    {"cluster_ctaid.y", [](const Thread& t) { return uint64_t(t.rank_idx.y); }},
    {"cluster_ctaid.z", [](const Thread& t) { return uint64_t(t.rank_idx.z); }},
    {"cluster_nctaid.x", [](const Thread& t) { return uint64_t(t.cluster_dim.x); }},
    {"cluster_nctaid.y", [](const Thread& t) { return uint64_t(t.cluster_dim.y); }},
    {"cluster_nctaid.z", [](const Thread& t) { return uint64_t(t.cluster_dim.z); }},
    {"cluster_ctarank", [](const Thread& t) { return uint64_t(t.cluster_rank); }},
    {"cluster_nctarank", [](const Thread& t) { return uint64_t(t.cluster_dim.x * t.cluster_dim.y * t.cluster_dim.z); }},
    {"dynamic_smem_size", [](const Thread&) { return uint64_t(launch->dynamic_shared); }},
    {"smid", [](const Thread& t) { return uint64_t(t.block_idx.x); }},
    {"nsmid", [](const Thread&) { return uint64_t(132); }},
    {"clock", [](const Thread&) { return uint64_t(0); }},
    {"clock64", [](const Thread&) { return uint64_t(0); }},
    {"globaltimer", [](const Thread&) { return uint64_t(0); }},
    {"globaltimer_lo", [](const Thread&) { return uint64_t(0); }},
};

}  // namespace

uint64_t special64(const char* name) {
    for (const SpecialRegister& r : special_registers)
        if (!strcmp(r.name, name)) return r.value(*current);
    fail("special register %%%s is not known here", name);
}
uint32_t special(const char* name) { return uint32_t(special64(name)); }

// --- matrix fragments ----------------------------------------------------------------------------------------------

namespace {

struct Matrices {
    uint32_t* registers;
    const uint32_t* stored;
    int count;
    bool transposed;
    uint64_t address;
};

// Row `row` of matrix `which` starts where lane 8 * which + row says; each row has eight 16-bit numbers.
char* row_of(void* const* lanes, int which, int row) {
    auto* m = static_cast<Matrices*>(lanes[8 * which + row]);
    return static_cast<char*>(shared_pointer(uint32_t(m->address), 16, 16));
}

void combine_load(void* const* lanes) {
    for (int which = 0; which < static_cast<Matrices*>(lanes[0])->count; which++) {
        uint16_t matrix[8][8];
        for (int row = 0; row < 8; row++) {
            const char* from = row_of(lanes, which, row);
            note_read(from, 16);
            memcpy(matrix[row], from, 16);
        }
        for (int lane = 0; lane < 32; lane++) {
            auto* m = static_cast<Matrices*>(lanes[lane]);
            const int row = lane / 4, column = lane % 4 * 2;
            const uint16_t low = m->transposed ? matrix[column][row] : matrix[row][column];
            const uint16_t high = m->transposed ? matrix[column + 1][row] : matrix[row][column + 1];
            m->registers[which] = uint32_t(high) << 16 | low;
        }
    }
}

void combine_store(void* const* lanes) {
    for (int which = 0; which < static_cast<Matrices*>(lanes[0])->count; which++) {
        uint16_t matrix[8][8];
        for (int lane = 0; lane < 32; lane++) {
            auto* m = static_cast<Matrices*>(lanes[lane]);
            const int row = lane / 4, column = lane % 4 * 2;
            for (int i = 0; i < 2; i++)
                (m->transposed ? matrix[column + i][row] : matrix[row][column + i]) = uint16_t(m->stored[which] >> 16 * i);
        }
        for (int row = 0; row < 8; row++) {
            char* to = row_of(lanes, which, row);
            note_write(to, 16);
            memcpy(to, matrix[row], 16);
        }
    }
}

}  // namespace

void load_matrix(uint32_t* registers, int count, bool transposed, uint64_t address) {
    Matrices m{registers, nullptr, count, transposed, address};
    meet("ldmatrix", 0xffffffffu, &m, combine_load, true);
}

void store_matrix(const uint32_t* registers, int count, bool transposed, uint64_t address) {
    Matrices m{nullptr, registers, count, transposed, address};
    meet("stmatrix", 0xffffffffu, &m, combine_store, true);
}

}  // namespace ptx
}  // namespace cushim
