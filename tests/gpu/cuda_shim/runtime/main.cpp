// Reads a job (buffers, tensor maps, launches), runs it, writes the buffers back. See job.py for the format.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "cushim/tensor_map.h"
#include "memory.h"

namespace cushim {
namespace {

constexpr size_t guard = 1 << 20, page = 4096;
constexpr unsigned char canary = 0xa5;

struct Loaded {
    std::string file;
    bool written;
    size_t buffer, slack;
};
std::vector<Loaded> loaded;
std::vector<CUtensorMap> maps(64);  // never moved: kernels get their addresses

// Between two zones that may not be touched; the end is as close to the second as an alignment of 16 allows.
char* guarded(size_t bytes, size_t& slack) {
    const size_t room = (bytes + 15 + page - 1) / page * page;
    char* all = static_cast<char*>(
        mmap(nullptr, room + 2 * guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (all == MAP_FAILED || mprotect(all + guard, room, PROT_READ | PROT_WRITE)) fail("no memory for a buffer of %zu bytes", bytes);
    memset(all + guard, canary, room);
    slack = (16 - bytes % 16) % 16;
    return all + guard + room - bytes - slack;
}

void read_buffer(std::istream& line) {
    std::string file, name, kind;
    size_t bytes, slack;
    line >> kind >> bytes >> file >> name;
    char* start = guarded(bytes, slack);
    if (kind != "scratch") {
        const int source = open(file.c_str(), O_RDONLY);
        for (size_t done = 0; done < bytes;) {
            const ssize_t n = read(source, start + done, bytes - done);
            if (n <= 0) fail("cannot read %s", file.c_str());
            done += n;
        }
        close(source);
    } else {
        memset(start, 0xff, bytes);
    }
    loaded.push_back({file, kind == "inout", buffers.size(), slack});
    buffers.push_back({start, bytes, name, false});
}

void read_map(std::istream& line) {
    CUtensorMap m;
    memset(&m, 0, sizeof m);
    size_t index, buffer, offset;
    int number;
    line >> index >> buffer >> offset;
    m.base = buffers.at(buffer).start + offset;
    line >> number, m.rank = number;
    line >> number, m.element_bytes = number;
    line >> number, m.kind = number;
    line >> number, m.swizzle = number;
    line >> number, m.fill = number;
    for (int d = 0; d < m.rank; d++) line >> m.sizes[d];
    for (int d = 0; d + 1 < m.rank; d++) line >> m.strides[d];
    for (int d = 0; d < m.rank; d++) line >> m.box[d];
    for (int d = 0; d < m.rank; d++) line >> number, m.steps[d] = number;
    m.magic = tensor_map_magic;
    if (index >= maps.size()) fail("more than %zu tensor maps", maps.size());
    maps[index] = m;
}

Argument read_argument(std::istream& line) {
    std::string kind;
    Argument a{};
    line >> kind;
    if (kind == "pointer") {
        size_t buffer, offset;
        line >> buffer >> offset;
        a.kind = Argument::pointer;
        a.p = buffers.at(buffer).start + offset;
    } else if (kind == "map") {
        size_t index;
        line >> index;
        a.kind = Argument::tensor_map;
        a.p = &maps.at(index);
    } else if (kind == "integer") {
        a.kind = Argument::integer;
        line >> a.i;
    } else {
        a.kind = Argument::real;
        std::string text;
        line >> text;
        a.d = strtod(text.c_str(), nullptr);
    }
    return a;
}

const Kernel* find_kernel(const std::string& name) {
    for (int i = 0; i < kernel_count; i++)
        if (name == kernels[i].name) return &kernels[i];
    fail("the source has no kernel named %s", name.c_str());
}

void check_launch(const Launch& l, size_t arguments) {
    const char* name = l.kernel->name;
    const unsigned threads = l.block.x * l.block.y * l.block.z;
    if (int(arguments) != l.kernel->parameters)
        fail("kernel %s has %d parameters, and %zu arguments were given", name, l.kernel->parameters, arguments);
    if (threads < 1 || threads > 1024) fail("kernel %s: a block of %u threads", name, threads);
    if (l.kernel->max_threads && threads > unsigned(l.kernel->max_threads))
        fail("kernel %s: a block of %u threads, and its launch bounds are %d", name, threads, l.kernel->max_threads);
    const unsigned cluster = l.cluster.x * l.cluster.y * l.cluster.z;
    if (cluster < 1 || cluster > 16 || l.grid.x % l.cluster.x || l.grid.y % l.cluster.y || l.grid.z % l.cluster.z)
        fail("kernel %s: the grid does not consist of its clusters", name);
    if (!l.grid.x || !l.grid.y || !l.grid.z || l.grid.y > 65535 || l.grid.z > 65535) fail("kernel %s: such a grid is not possible", name);
}

void read_launch(std::istream& line) {
    std::string name;
    Launch l;
    size_t count;
    line >> name >> l.grid.x >> l.grid.y >> l.grid.z >> l.block.x >> l.block.y >> l.block.z;
    line >> l.cluster.x >> l.cluster.y >> l.cluster.z >> l.dynamic_shared >> count;
    l.kernel = find_kernel(name);
    check_launch(l, count);
    for (size_t i = 0; i < count; i++) l.arguments.push_back(read_argument(line));
    run_launch(l);
    for (const Loaded& b : loaded) {
        const GlobalBuffer& buffer = buffers[b.buffer];
        for (size_t i = 0; i < b.slack; i++)
            if (static_cast<unsigned char>(buffer.start[buffer.bytes + i]) != canary)
                fail("kernel %s wrote %zu bytes behind the end of %s", name.c_str(), i, buffer.name.c_str());
    }
}

void read_options(std::istream& line) {
    int delivery;
    line >> delivery >> options.order >> options.seed >> options.races >> options.shared_limit;
    options.delivery = Delivery(delivery);
}

// One word and its reader for each kind of line.
const struct {
    const char* word;
    void (*read)(std::istream&);
} readers[] = {{"options", read_options}, {"buffer", read_buffer}, {"map", read_map}, {"launch", read_launch}};

void write_buffers() {
    for (const Loaded& b : loaded) {
        if (!b.written) continue;
        std::ofstream out(b.file, std::ios::binary);
        out.write(buffers[b.buffer].start, buffers[b.buffer].bytes);
        if (!out) fail("cannot write %s", b.file.c_str());
    }
}

void crashed(int signal, siginfo_t* info, void*) {
    if (signal == SIGFPE) fail("integer division by zero");
    if (!info->si_addr) fail("access to an address that is null, misaligned or none at all");
    fail("access to %s, which may not be touched", describe_address(info->si_addr).c_str());
}

void catch_signals() {
    static char stack[1 << 16];
    stack_t alternative{};
    alternative.ss_sp = stack;
    alternative.ss_size = sizeof stack;
    sigaltstack(&alternative, nullptr);
    struct sigaction action {};
    action.sa_sigaction = crashed;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int signal : {SIGSEGV, SIGBUS, SIGFPE}) sigaction(signal, &action, nullptr);
}

}  // namespace
}  // namespace cushim

int main(int, char** argv) {
    using namespace cushim;
    catch_signals();
    std::ifstream job(argv[1]);
    std::string text;
    while (std::getline(job, text)) {
        std::istringstream line(text);
        std::string word;
        line >> word;
        for (const auto& reader : readers)
            if (word == reader.word) reader.read(line);
    }
    write_buffers();
    return 0;
}
