"""The C++ of a project: kernels with their pragmas, the testbench that checks itself, the host program."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..design.pack import TOP
from ..design.record import Design
from ..kernel.hls import PRELUDE, declaration, emit_hls
from ..kernel.ir import Array
from ..sim.csim import run_lines
from ..spec import FpgaSpec

# Interfaces to global memory that a kernel has at most: as many as HBM has ports on these boards.
_MAX_BUNDLES = 32


def bundles(design: Design) -> dict[str, str]:
    """The memory interface of each array: inputs and outputs have their own, weights share what is left in turn."""
    kernel = design.kernel
    own = [*design.inputs, *design.outputs][: _MAX_BUNDLES // 2]
    weights = [a.name for a in (*kernel.role("in"), *kernel.role("out")) if a.name not in own]
    left = max(1, min(channels(design.spec), _MAX_BUNDLES) - len(own))
    return {
        **{name: f"gmem{k}" for k, name in enumerate(own)},
        **{name: f"gmem{len(own) + k % left}" for k, name in enumerate(weights)},
    }


def channels(spec: FpgaSpec) -> int:
    """Ports of the board's fastest memory."""
    return spec.memories[0].channels if spec.memories else 1


def header(design: Design) -> str:
    """kernels.h."""
    return f"{PRELUDE}{declaration(design.kernel, TOP)};\n"


def kernels(design: Design) -> str:
    """kernels.cpp."""
    text = emit_hls(design.kernel, TOP)
    for name, bundle in bundles(design).items():
        text = text.replace(f"bundle=gmem_{name} ", f"bundle={bundle} ")
    return f'// Made by Kompilo for {design.spec.part}.\n#include "kernels.h"\n\n{text}'


TESTBENCH = """\
// Runs the kernel on data/*.bin and compares with data/*.golden.bin: integers bit by bit, floats to TOLERANCE times the
// range of what is expected. Exit status 0 if all agree, 1 if any number differs, 2 if a file is missing.
#include "kernels.h"
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <vector>

static const double TOLERANCE = 1e-4;

template <class S> static std::vector<S> kp_file(const std::string &path, size_t n) {
  std::vector<S> data(n);
  FILE *file = fopen(path.c_str(), "rb");
  if (!file || fread(data.data(), sizeof(S), n, file) != n) {
    fprintf(stderr, "cannot read %zu elements of %s\\n", n, path.c_str());
    exit(2);
  }
  fclose(file);
  return data;
}
template <class S, class T> static std::vector<T> kp_input(const std::string &folder, const char *name, size_t n) {
  std::vector<S> data = kp_file<S>(folder + "/" + name + ".bin", n);
  return std::vector<T>(data.begin(), data.end());
}
template <class S, class T>
static long kp_check(const std::string &folder, const char *name, const std::vector<T> &found) {
  std::vector<S> golden = kp_file<S>(folder + "/" + name + ".golden.bin", found.size());
  double low = HUGE_VAL, high = -HUGE_VAL, worst = 0;
  for (S v : golden) { low = std::fmin(low, double(v)); high = std::fmax(high, double(v)); }
  const double allowed = std::is_floating_point<S>::value ? TOLERANCE * (high > low ? high - low : 1.0) : 0.0;
  long bad = 0;
  for (size_t k = 0; k < found.size(); k++) {
    double off = std::fabs(double(S(found[k])) - double(golden[k]));
    if (!(off <= allowed)) bad++;
    worst = std::fmax(worst, off);
  }
  printf("%s: %ld of %zu numbers differ, by at most %g (allowed %g)\\n", name, bad, found.size(), worst, allowed);
  return bad;
}
"""


def testbench(design: Design) -> str:
    """testbench.cpp."""
    lines = [TESTBENCH, 'int main(int argc, char **argv) {\n  std::string folder = argc > 1 ? argv[1] : "data";']
    lines += run_lines(design.kernel, TOP, "kp_check")
    return "\n".join([*lines, '  puts(bad ? "FAILED" : "passed");', "  return bad ? 1 : 0;", "}", ""])


def host(design: Design) -> str:
    """host.cpp: the same run on a board, by XRT."""
    arrays = [*design.kernel.role("in"), *design.kernel.role("out")]
    lines = [_HOST_HEAD]
    for k, a in enumerate(arrays):
        size = math.prod(a.shape) * _bytes(a)
        lines.append(f"  auto {a.name} = xrt::bo(device, {size}, kernel.group_id({k}));")
        if a.role == "in":
            lines.append(f'  fill({a.name}, folder + "/{a.name}.bin", {size});')
    arguments = ", ".join(a.name for a in arrays)
    lines += ["  auto begin = std::chrono::steady_clock::now();", f"  kernel({arguments}).wait();", _HOST_TIME]
    for a in design.kernel.role("out"):
        size = math.prod(a.shape) * _bytes(a)
        lines.append(f'  keep({a.name}, folder + "/{a.name}.board.bin", {size});')
    return "\n".join([*lines, "  return 0;", "}", ""])


def _bytes(a: Array) -> int:
    return a.dtype.numpy().itemsize


_HOST_HEAD = """\
// Loads the kernel on a board, runs it on data/*.bin, and leaves its results in data/*.board.bin.
// usage: host model.xclbin [data]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <xrt/xrt_bo.h>
#include <xrt/xrt_device.h>
#include <xrt/xrt_kernel.h>

static void fill(xrt::bo &buffer, const std::string &path, size_t size) {
  std::ifstream file(path, std::ios::binary);
  if (!file.read(buffer.map<char *>(), size)) { fprintf(stderr, "cannot read %s\\n", path.c_str()); exit(2); }
  buffer.sync(XCL_BO_SYNC_BO_TO_DEVICE);
}
static void keep(xrt::bo &buffer, const std::string &path, size_t size) {
  buffer.sync(XCL_BO_SYNC_BO_FROM_DEVICE);
  std::ofstream(path, std::ios::binary).write(buffer.map<char *>(), size);
}
int main(int argc, char **argv) {
  if (argc < 2) { fprintf(stderr, "usage: %s model.xclbin [data]\\n", argv[0]); return 2; }
  std::string folder = argc > 2 ? argv[2] : "data";
  xrt::device device(0);
  auto uuid = device.load_xclbin(argv[1]);
  xrt::kernel kernel(device, uuid, "model");"""
_HOST_TIME = """\
  std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  printf("%.6f s\\n", taken.count());"""


def connectivity(design: Design) -> str:
    """connectivity.cfg: interfaces on the channels of the fastest memory in turn."""
    memory = design.spec.memories[0] if design.spec.memories else None
    if memory is None:
        return "# this part has no memory beside it that is known\n"
    kind, count = memory.kind.upper(), memory.channels
    places = sorted(set(bundles(design).values()), key=lambda b: int(b.removeprefix("gmem")))
    lines = [f"sp={TOP}_1.m_axi_{b}:{kind}[{k % count}]" for k, b in enumerate(places)]
    return "\n".join(["[connectivity]", f"nk={TOP}:1:{TOP}_1", *lines, ""])


def data_files(design: Design, arrays: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of the folder data: the weights, and `arrays` by the names of their files."""
    weights = {f"data/{name}.bin": data.tobytes() for name, data in design.weights}
    return {**weights, **{f"data/{name}": data for name, data in arrays.items()}}
