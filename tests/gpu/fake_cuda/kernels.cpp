#include "kernels.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sstream>

#include "tiles.h"

extern char** environ;

namespace fake {

std::string setting(const char* name, const char* otherwise) {
    const char* text = getenv((std::string("FAKE_CUDA_") + name).c_str());
    return text && *text ? text : otherwise;
}

Fault fault(const std::string& own) {
    const std::string text = own.empty() ? setting("FAULT", "") : own;
    const size_t colon = text.find(':');
    if (colon == std::string::npos) return {text, 0};
    return {text.substr(0, colon), atoi(text.c_str() + colon + 1)};
}

extern const std::map<std::string, int> sizes = {
    {"tensormap", 128}, {"handle", 8}, {"int64", 8}, {"uint64", 8}, {"float64", 8}, {"int32", 4}, {"uint32", 4}, {"float32", 4},
    {"int16", 2},  {"uint16", 2}, {"float16", 2}, {"bfloat16", 2}, {"int8", 1}, {"uint8", 1}, {"bool", 1}};

namespace {

using Range = std::pair<const uintptr_t, size_t>;
const Range* range_of(uintptr_t address) {
    auto after = memory.upper_bound(address);
    if (after == memory.begin()) return nullptr;
    const Range& range = *--after;
    return address < range.first + range.second ? &range : nullptr;
}

std::string folder() {
    static std::string made;
    if (made.empty()) {
        char name[] = "/tmp/kompilo-fake-cuda-XXXXXX";
        made = mkdtemp(name);
        atexit([] {
            const std::string command = "rm -rf " + made;
            if (system(command.c_str())) return;
        });
    }
    return made;
}

void put(const std::string& path, const void* data, size_t size) {
    FILE* file = fopen(path.c_str(), "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file)) abort();
}

int spawn(const std::string& program, const std::string& job, const std::string& log) {
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    char* arguments[] = {const_cast<char*>(program.c_str()), const_cast<char*>(job.c_str()), nullptr};
    pid_t child;
    int status = -1;
    if (posix_spawn(&child, program.c_str(), &actions, nullptr, arguments, environ)) return -1;
    waitpid(child, &status, 0);
    return status;
}

}  // namespace

// Runs a kernel as the CUDA shim's job: the allocations that its pointers point into are its buffers.
bool execute(const Kernel& kernel, const Launch& launch) {
    std::ostringstream buffers, maps, values;
    std::map<uintptr_t, int> numbers;
    int map_count = 0;
    // The number of the buffer that an address lies in, and the offset there.
    const Range nothing(0, 0);
    const auto place = [&](uintptr_t address) {
        const Range* range = address ? range_of(address) : &nothing;  // null: a buffer of no bytes
        if (!range) return std::string();
        const auto found = numbers.insert({range->first, int(numbers.size())});
        if (found.second) {
            const std::string file = folder() + "/" + std::to_string(found.first->second) + ".bin";
            put(file, reinterpret_cast<void*>(range->first), range->second);
            buffers << "buffer inout " << range->second << " " << file << " array" << found.first->second << "\n";
        }
        return std::to_string(found.first->second) + " " + std::to_string(address - range->first);
    };
    for (size_t i = 0; i < kernel.parameters.size(); i++) {
        const std::string& type = kernel.parameters[i];
        const char* bytes = launch.values[i].data();
        if (type == "handle" || type == "tensormap") {
            Tiles tiles;
            memcpy(&tiles, bytes, type == "handle" ? 8 : sizeof tiles);
            const std::string at = place(tiles.address);
            if (at.empty()) {
                note("bad pointer %zu of %s", i, kernel.name.c_str());
                return false;
            }
            if (type == "handle") {
                values << " pointer " << at;
                continue;
            }
            maps << "map " << map_count << " " << at << tiles.job_text() << "\n";
            values << " map " << map_count++;
        } else if (type == "float32") {
            float number;
            memcpy(&number, bytes, 4);
            values << " real " << number;
        } else {
            int64_t number = 0;
            memcpy(&number, bytes, sizes.at(type));
            if (type == "int32") number = int32_t(number);
            values << " integer " << number;
        }
    }
    std::ostringstream job;
    job << "options 0 0 1 0 232448\n" << buffers.str() << maps.str() << "launch " << kernel.name;
    for (unsigned extent : launch.grid) job << " " << extent;
    for (unsigned extent : launch.block) job << " " << extent;
    for (unsigned extent : launch.cluster) job << " " << extent;
    job << " " << launch.shared << " " << kernel.parameters.size() << values.str() << "\n";
    const std::string path = folder() + "/job", log = folder() + "/log";
    put(path, job.str().data(), job.str().size());
    if (spawn(kernel.program, path, log)) {
        note("kernel %s failed: see %s", kernel.name.c_str(), log.c_str());
        return false;
    }
    for (const auto& [start, number] : numbers) {
        if (!start) continue;
        FILE* file = fopen((folder() + "/" + std::to_string(number) + ".bin").c_str(), "rb");
        if (!file || fread(reinterpret_cast<void*>(start), 1, memory[start], file) != memory[start] || fclose(file)) abort();
    }
    return true;
}

namespace {

size_t elf_size(const unsigned char* elf) {
    uint64_t sections, headers;
    uint16_t size, count;
    memcpy(&sections, elf + 0x28, 8);
    memcpy(&size, elf + 0x3a, 2);
    memcpy(&count, elf + 0x3c, 2);
    headers = sections + uint64_t(size) * count;
    uint64_t end = headers;
    for (int i = 0; i < count; i++) {
        uint32_t type;
        uint64_t offset, bytes;
        memcpy(&type, elf + sections + i * size + 4, 4);
        memcpy(&offset, elf + sections + i * size + 0x18, 8);
        memcpy(&bytes, elf + sections + i * size + 0x20, 8);
        if (type != 8 && offset + bytes > end) end = offset + bytes;
    }
    return end;
}

}  // namespace

// "SHIM", then lines "program PATH", "fault WORD", "kernel NAME TYPE...".
Module* read_module(const char* text) {
    auto* module = new Module;
    if (!memcmp(text, "\x7f" "ELF", 4)) {
        module->elf.assign(text, elf_size(reinterpret_cast<const unsigned char*>(text)));
        return module;
    }
    std::istringstream lines(text);
    std::string line, program, own;
    while (std::getline(lines, line)) {
        std::istringstream words(line);
        std::string word, name, type;
        words >> word >> name;
        if (word == "program") program = name;
        if (word == "fault") own = name;
        if (word != "kernel") continue;
        Kernel& kernel = module->kernels[name];
        kernel = {name, program, own, {}};
        while (words >> type) kernel.parameters.push_back(type);
    }
    return module;
}

}  // namespace fake
