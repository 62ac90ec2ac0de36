"""C simulation: the HLS C++ compiled by g++ with the open ap_* headers, with a testbench that checks itself."""

from __future__ import annotations

import math
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ....compiler.errors import TargetError
from ..kernel.hls import PRELUDE, declaration, element_type, emit_hls, storage
from ..kernel.ir import Kernel
from .case import Case, Outcome, Run, check_arrays, tool
from .headers import header_folder

_SECONDS = 600
# Reads NAME.bin of a case's folder, writes NAME.out.bin, and compares with NAME.golden.bin where that exists.
TESTBENCH = """\
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>
#ifdef __SSE__
#include <xmmintrin.h>
#endif
// Subnormal operands and results of float are zeros, as in hardware.
static void kp_flush_subnormals() {
#ifdef __SSE__
  _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
}
template <class S> static bool kp_read(const std::string &path, std::vector<S> &data, bool must) {
  FILE *file = fopen(path.c_str(), "rb");
  if (!file && !must) return false;
  if (!file || fread(data.data(), sizeof(S), data.size(), file) != data.size()) {
    fprintf(stderr, "cannot read %zu elements of %s\\n", data.size(), path.c_str());
    exit(2);
  }
  fclose(file);
  return true;
}
template <class S, class T> static std::vector<T> kp_input(const std::string &folder, const char *name, size_t n) {
  std::vector<S> data(n);
  kp_read(folder + "/" + name + ".bin", data, true);
  return std::vector<T>(data.begin(), data.end());
}
template <class S, class T>
static long kp_output(const std::string &folder, const char *name, const std::vector<T> &found) {
  std::vector<S> data(found.begin(), found.end()), golden(found.size());
  FILE *file = fopen((folder + "/" + name + ".out.bin").c_str(), "wb");
  if (!file || fwrite(data.data(), sizeof(S), data.size(), file) != data.size() || fclose(file)) exit(2);
  if (!kp_read(folder + "/" + name + ".golden.bin", golden, false)) return 0;
  long bad = 0;
  for (size_t k = 0; k < data.size(); k++) bad += memcmp(&data[k], &golden[k], sizeof(S)) != 0;
  return bad;
}
"""


class CSimulator:
    """Kernels compiled into one program; `optimize` is g++'s level. Its files lie in `folder`.

    TargetError if g++ or the headers are missing or refuse the code.
    """

    def __init__(self, kernels: Sequence[Kernel], folder: Path, optimize: str = "-O1"):
        self.folder = folder
        self.names = {kernel: f"kernel{k}" for k, kernel in enumerate(dict.fromkeys(kernels))}
        folder.mkdir(parents=True, exist_ok=True)
        parts = [PRELUDE, *(emit_hls(k, n) for k, n in self.names.items()), testbench(self.names)]
        (folder / "csim.cpp").write_text("\n".join(parts))
        _compile(folder, optimize)

    def run(self, cases: Sequence[Case]) -> Run:
        """Outcomes of the cases. KompiloError if an array does not fit, TargetError if the program breaks down."""
        for k, case in enumerate(cases):
            check_arrays(case)
            write_case(self.folder / f"case{k}", case)
        lines = [f"{self.names[case.kernel]} case{k}\n" for k, case in enumerate(cases)]
        (self.folder / "cases.txt").write_text("".join(lines))
        done = subprocess.run([self.folder / "csim", self.folder], capture_output=True, text=True, timeout=_SECONDS)
        if done.returncode not in (0, 1):
            raise TargetError(f"fpga: the C simulation ended with status {done.returncode}: {done.stderr.strip()}.")
        bad = [int(line.split()[-1]) for line in done.stdout.splitlines() if " mismatches " in line]
        outcomes = [Outcome(_outputs(self.folder / f"case{k}", c), bad[k]) for k, c in enumerate(cases)]
        return Run(outcomes, done.returncode == 1)


def simulate_c(cases: Sequence[Case]) -> Run:
    """The cases in a simulator made for them; errors as those of `CSimulator`."""
    with tempfile.TemporaryDirectory() as folder:
        return CSimulator([c.kernel for c in cases], Path(folder)).run(cases)


def _compile(work: Path, optimize: str) -> None:
    flags = ["-std=c++17", optimize, "-w", "-ffp-contract=off", "-I", str(header_folder())]
    command = [tool("g++", "g++"), *flags, str(work / "csim.cpp"), "-o", str(work / "csim")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode:
        raise TargetError(f"fpga: g++ refused the HLS C++: {_first_error(done.stderr)}")


def _first_error(text: str) -> str:
    lines = text.strip().splitlines() or ["no reason given"]
    return next((line for line in lines if "error" in line), lines[0])


def run_lines(kernel: Kernel, name: str, check: str) -> list[str]:
    """C++ that reads the inputs of a kernel from `folder`, calls the function `name`, and adds up in `bad` what the
    function `check` says of its outputs."""
    lines = []
    for a in kernel.role("in"):
        types = f"<{storage(a)}, {element_type(a.dtype)}>"
        lines.append(f'  auto {a.name} = kp_input{types}(folder, "{a.name}", {math.prod(a.shape)});')
    for a in kernel.role("out"):
        lines.append(f"  std::vector<{element_type(a.dtype)}> {a.name}({math.prod(a.shape)});")
    arguments = ", ".join(f"{a.name}.data()" for a in (*kernel.role("in"), *kernel.role("out")))
    lines += [f"  {name}({arguments});", "  long bad = 0;"]
    return [*lines, *(f'  bad += {check}<{storage(a)}>(folder, "{a.name}", {a.name});' for a in kernel.role("out"))]


def testbench(names: Mapping[Kernel, str]) -> str:
    """A main() that runs the cases listed in cases.txt of the folder it is given; it returns 1 if anything differs."""
    parts = [TESTBENCH]
    for kernel, name in names.items():
        lines = [f"{declaration(kernel, name)};", f"static long kp_case_{name}(const std::string &folder) {{"]
        parts.append("\n".join([*lines, *run_lines(kernel, name, "kp_output"), "  return bad;", "}"]))
    choose = "\n".join(f'    if (name == "{n}") bad = kp_case_{n}(folder + "/" + data);' for n in names.values())
    parts.append(_MAIN.replace("CHOOSE", choose))
    return "\n".join(parts)


_MAIN = """\
int main(int argc, char **argv) {
  std::string folder = argc > 1 ? argv[1] : ".";
  FILE *list = fopen((folder + "/cases.txt").c_str(), "r");
  if (!list) { fprintf(stderr, "cannot read %s/cases.txt\\n", folder.c_str()); return 2; }
  kp_flush_subnormals();
  char kernel[256], path[256];
  bool wrong = false;
  while (fscanf(list, "%255s %255s", kernel, path) == 2) {
    std::string name = kernel, data = path;
    long bad = -1;
CHOOSE
    printf("%s %s mismatches %ld\\n", kernel, path, bad);
    wrong = wrong || bad != 0;
  }
  return wrong ? 1 : 0;
}
"""


def write_case(folder: Path, case: Case) -> None:
    """The files of a case."""
    folder.mkdir(parents=True, exist_ok=True)
    for array in case.kernel.role("in"):
        np.ascontiguousarray(case.inputs[array.name]).tofile(folder / f"{array.name}.bin")
    expected = case.expected or {}
    for array in (a for a in case.kernel.role("out") if a.name in expected):
        np.ascontiguousarray(expected[array.name]).tofile(folder / f"{array.name}.golden.bin")


def _outputs(folder: Path, case: Case) -> dict[str, np.ndarray]:
    return {
        a.name: np.fromfile(folder / f"{a.name}.out.bin", a.dtype.numpy()).reshape(a.shape)
        for a in case.kernel.role("out")
    }
