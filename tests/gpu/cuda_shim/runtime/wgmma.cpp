// wgmma.mma_async: each warp computes its 16 rows when it waits for them, reading shared memory no sooner.
#include "matrix.h"
#include "runtime.h"

namespace cushim::ptx {

namespace {

// --- operands in shared memory: PTX ISA, "Shared Memory Matrix Layout" and "Matrix Descriptor Format" --------------------

struct Descriptor {
    uint32_t start, leading, stride;  // bytes
    int swizzle;                      // bytes of a swizzled row: 16 (none), 32, 64, 128
};

Descriptor decode(uint64_t raw) {
    static const int swizzles[] = {16, 128, 64, 32};
    if (raw >> 49 & 7) fail("wgmma: a descriptor with base offset %d; only 0 is known here", int(raw >> 49 & 7));
    return {uint32_t(raw & 0x3fff) << 4, uint32_t(raw >> 16 & 0x3fff) << 4, uint32_t(raw >> 32 & 0x3fff) << 4,
            swizzles[raw >> 62]};
}

uint32_t swizzled(uint32_t address, int swizzle) {
    switch (swizzle) {
        case 128: return address ^ (address >> 3 & 0x70);
        case 64: return address ^ (address >> 3 & 0x30);
        case 32: return address ^ (address >> 3 & 0x10);
        default: return address;
    }
}

// Address of the element at `mn` (row of A, column of B) and `k`; both in elements of `bytes` bytes.
// K-major: units of 16 bytes along k; eight rows make a group, `stride` bytes from the next. MN-major: units of 16 bytes
// along mn; eight k make a group.
uint32_t address_of(const Descriptor& d, bool mn_major, int mn, int k, int bytes) {
    const int along = (mn_major ? mn : k) * bytes, across = mn_major ? k : mn;
    const int unit = along / 16, rest = along % 16;
    uint32_t offset;
    if (d.swizzle == 16 && mn_major)
        offset = unit * d.stride + across % 8 * 16 + across / 8 * d.leading;
    else if (d.swizzle == 16)
        offset = unit * d.leading + across % 8 * 16 + across / 8 * d.stride;
    else
        offset = along % d.swizzle / 16 * 16 + along / d.swizzle * d.leading + across % 8 * d.swizzle + across / 8 * d.stride;
    return swizzled(d.start + offset + rest, d.swizzle);
}

struct Issue {
    Wgmma what;
    Warp* warp;
    Descriptor a, b;
    std::vector<void*> accumulators[32];
    std::vector<uint64_t> a_registers[32];
    int agent;
    uint32_t clock;
    int line;
};

double shared_element(const Issue& issue, const Descriptor& d, bool mn_major, Element e, int mn, int k) {
    const int bytes = element_bits(e) / 8;
    const void* p = arena_pointer(*issue.warp->block, address_of(d, mn_major, mn, k, bytes), bytes, bytes);
    uint64_t raw = 0;
    memcpy(&raw, p, bytes);
    return number(e, raw);
}

void read_b(const Issue& issue, std::vector<double>& b) {
    const Wgmma& w = issue.what;
    for (int k = 0; k < w.k; k++)
        for (int n = 0; n < w.n; n++) b[k * w.n + n] = shared_element(issue, issue.b, w.transpose_b, w.b, n, k);
}

void read_a(const Issue& issue, std::vector<double>& a) {
    const Wgmma& w = issue.what;
    const int per_register = 32 / element_bits(w.a);
    for (int lane = 0; lane < 32; lane++)
        for (size_t i = 0; i < issue.a_registers[lane].size() * per_register; i++) {
            const int r = int(i) / per_register, row = lane / 4 + 8 * (r % 2);
            const int k = r / 2 * 4 * per_register + lane % 4 * per_register + int(i) % per_register;
            a[row * w.k + k] = element(w.a, issue.a_registers[lane].data(), unsigned(i));
        }
    if (w.a_in_registers) return;
    const int first_row = int(issue.warp->index % 4) * 16;
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < w.k; k++)
            a[row * w.k + k] = shared_element(issue, issue.a, w.transpose_a, w.a, first_row + row, k);
}

// Adds `sum` to accumulator element `i` of a lane: two f16 share a register.
void accumulate(const Issue& issue, int lane, int i, double sum) {
    const Wgmma& w = issue.what;
    const bool packed = w.d == f16;
    char* place = static_cast<char*>(issue.accumulators[lane][packed ? i / 2 : i]) + (packed ? i % 2 * 2 : 0);
    uint64_t raw = 0;
    const int bytes = packed ? 2 : 4;
    memcpy(&raw, place, bytes);
    const double before = w.accumulate ? number(w.d, raw) : 0;
    raw = raw_of(w.d, before + sum, false);
    memcpy(place, &raw, bytes);
}

void carry_out(const Issue& issue) {
    const Wgmma& w = issue.what;
    std::vector<double> a(16 * w.k), b(w.k * w.n), sums(w.n);
    read_a(issue, a);
    read_b(issue, b);
    for (int row = 0; row < 16; row++) {
        std::fill(sums.begin(), sums.end(), 0.0);
        for (int k = 0; k < w.k; k++)
            for (int n = 0; n < w.n; n++) sums[n] += a[row * w.k + k] * b[k * w.n + n];
        for (int n = 0; n < w.n; n++) {
            const int lane = row % 8 * 4 + n % 8 / 2, i = n / 8 * 4 + row / 8 * 2 + n % 2;
            accumulate(issue, lane, i, sums[n] * w.scale_a * w.scale_b);
        }
    }
    auto& written = issue.warp->accumulators;
    written.clear();
    for (const auto& lane : issue.accumulators)
        for (void* p : lane) written.emplace_back(p, *static_cast<uint32_t*>(p));
}

// --- issuing -------------------------------------------------------------------------------------------------------

struct Operands {
    const Wgmma* what;
    void* const* d;
    const uint64_t* a;
    uint64_t b;
};

// Registers must be fenced off from other instructions before the first wgmma that uses them, and again once touched.
void check_fence(Warp& w, const Issue& issue) {
    if (w.gemm_fenced) return;
    bool same = !w.accumulators.empty();
    size_t i = 0;
    for (const auto& lane : issue.accumulators)
        for (void* p : lane) {
            same = same && i < w.accumulators.size() && w.accumulators[i].first == p &&
                   w.accumulators[i].second == *static_cast<uint32_t*>(p);
            i++;
        }
    if (!same) fail("wgmma.mma_async uses registers that were used otherwise since the last wgmma.fence");
}

void note_operand(const Issue& issue, const Descriptor& d, bool mn_major, Element e, int first, int count) {
    const int bytes = element_bits(e) / 8, step = 16 / bytes;
    for (int mn = first; mn < first + count; mn += mn_major ? step : 1)
        for (int k = 0; k < issue.what.k; k += mn_major ? 1 : step) {
            const uint32_t address = address_of(d, mn_major, mn, k, bytes);
            void* p = arena_pointer(*issue.warp->block, address, 16, 16);
            race::agent_access(*self(), issue.agent, issue.clock, p, 16, false);
        }
}

void combine_issue(void* const* lanes) {
    auto* issue = new Issue;
    const auto* first = static_cast<Operands*>(lanes[0]);
    Warp& warp = *self()->warp;
    issue->what = *first->what;
    issue->warp = &warp;
    issue->line = current->line;
    const Wgmma& w = issue->what;
    const int accumulators = w.n / (w.d == f16 ? 4 : 2);
    for (int lane = 0; lane < 32; lane++) {
        const auto* mine = static_cast<Operands*>(lanes[lane]);
        if (mine->b != first->b || (!w.a_in_registers && mine->a[0] != first->a[0]))
            fail("wgmma.mma_async: lanes of a warp have different descriptors");
        if (mine->what->accumulate != w.accumulate) fail("wgmma.mma_async: lanes of a warp differ in scale-d");
        issue->accumulators[lane].assign(mine->d, mine->d + accumulators);
        if (w.a_in_registers) issue->a_registers[lane].assign(mine->a, mine->a + 4);
    }
    issue->b = decode(first->b);
    if (!w.a_in_registers) issue->a = decode(first->a[0]);
    check_fence(warp, *issue);
    issue->agent = race::gemm_agent(warp);
    issue->clock = race::agent_begin(*self(), issue->agent);
    if (options.races) {
        note_operand(*issue, issue->b, w.transpose_b, w.b, 0, w.n);
        if (!w.a_in_registers) note_operand(*issue, issue->a, w.transpose_a, w.a, int(warp.index % 4) * 16, 16);
    }
    const uint64_t word = first->b ^ (w.a_in_registers ? 0 : first->a[0] * 31) ^ uint64_t(w.n) << 20 ^ uint64_t(w.accumulate) << 41;
    warp.gemm_trace = (warp.gemm_trace ^ word) * 0x100000001b3ull;
    warp.open_gemms.push_back({[issue] {
        carry_out(*issue);
        for (Fiber* lane : issue->warp->lanes) race::agent_end(*lane, issue->agent, issue->clock);
        delete issue;
    }});
    if (options.delivery != Delivery::early) return;
    warp.open_gemms.back().run();
    warp.open_gemms.back().run = [] {};
}

void combine_fence(void* const*) { self()->warp->gemm_fenced = true; }
void combine_commit(void* const*) {
    Warp& w = *self()->warp;
    w.gemms.push_back(std::move(w.open_gemms));
    w.open_gemms.clear();
}
void combine_wait(void* const* lanes) {
    Warp& w = *self()->warp;
    const unsigned left = *static_cast<unsigned*>(lanes[0]);
    while (w.gemms.size() > left) {
        for (WarpGemm& gemm : w.gemms.front()) gemm.run();
        w.gemms.pop_front();
    }
    w.gemm_fenced = false;
}

}  // namespace

void wgmma(const Wgmma& what, void* const* d, const uint64_t* a, uint64_t b) {
    Block& block = *self()->block;
    const unsigned group = self()->warp->index / 4 * 4;
    if (group + 4 > block.warps.size()) fail("wgmma.mma_async needs four whole warps; the block has %zu", block.warps.size());
    Operands operands{&what, d, a, b};
    meet("wgmma.mma_async", 0xffffffffu, &operands, combine_issue, true);
}
void wgmma_fence() { meet("wgmma.fence", 0xffffffffu, nullptr, combine_fence, true); }
void wgmma_commit() { meet("wgmma.commit_group", 0xffffffffu, nullptr, combine_commit, true); }
void wgmma_wait(unsigned left) {
    meet("wgmma.wait_group", 0xffffffffu, &left, combine_wait, true);
}

}  // namespace cushim::ptx
