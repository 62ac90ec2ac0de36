"""RTL simulation: the Verilog compiled by Verilator, many kernels in one program, cycles counted from start to done."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ....compiler.errors import TargetError
from ....compiler.knobs import Knobs
from ..kernel.ir import Array, Kernel
from ..kernel.verilog import HOST_READ, VerilogDesign, bank_of, emit_verilog, host_banks
from ..kernel.verilog_units import UNITS
from .case import Case, Outcome, Run, check_arrays, tool

_SECONDS = 600
# A kernel that takes this many times its predicted cycles is taken to hang.
_PATIENCE = 4
# Reads jobs (64-bit words) from jobs.bin, writes results to results.bin: for each job its cycles (-1: it never
# ended), the number of mismatches, and what was read. Exit status 1 if a job hangs or differs from what was expected.
DRIVER = """\
#include "Vkp_batch.h"
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>
static Vkp_batch top;
static void tick() { top.clk = 0; top.eval(); top.clk = 1; top.eval(); }
static std::vector<int64_t> jobs, results;
static size_t next_word;
static int64_t take() { if (next_word >= jobs.size()) exit(2); return jobs[next_word++]; }
static void fill() {
  for (int64_t banks = take(); banks > 0; banks--) {
    int64_t sel = take(), count = take();
    for (int64_t k = 0; k < count; k++) { top.hwe = 1; top.hsel = sel; top.had = k; top.hwd = take(); tick(); }
  }
  top.hwe = 0;
}
static int64_t compare() {
  int64_t bad = 0, check = take();
  for (int64_t banks = take(); banks > 0; banks--) {
    int64_t sel = take(), count = take();
    for (int64_t k = 0; k < count; k++) {
      top.hsel = sel; top.had = k;
      for (int t = 0; t < HOST_READ; t++) tick();
      int64_t found = top.hrd;
      results.push_back(found);
      if (check) bad += found != take();
    }
  }
  return bad;
}
int main(int argc, char **argv) {
  std::string folder = argc > 1 ? argv[1] : ".";
  FILE *file = fopen((folder + "/jobs.bin").c_str(), "rb");
  if (!file) { fprintf(stderr, "cannot read %s/jobs.bin\\n", folder.c_str()); return 2; }
  for (int64_t word; fread(&word, 8, 1, file) == 1;) jobs.push_back(word);
  fclose(file);
  bool wrong = false;
  for (int64_t count = take(); count > 0; count--) {
    top.clk = 0; top.eval();
    top.ksel = take();
    int64_t limit = take(), cycles = 0;
    top.rst = 1; tick(); tick(); top.rst = 0;
    fill();
    top.start = 1; tick(); top.start = 0;
    while (!top.done && cycles < limit) { tick(); cycles++; }
    int64_t ended = top.done ? cycles : -1;
    size_t at = results.size();
    results.push_back(ended); results.push_back(0);
    results[at + 1] = compare();
    wrong = wrong || results[at + 1] != 0 || ended < 0;
  }
  file = fopen((folder + "/results.bin").c_str(), "wb");
  if (!file || fwrite(results.data(), 8, results.size(), file) != results.size() || fclose(file)) return 2;
  return wrong ? 1 : 0;
}
""".replace("HOST_READ", str(HOST_READ))


class RtlSimulator:
    """Kernels compiled into one simulator; `optimize` is g++'s level. Its files lie in `folder`.

    KompiloError if a kernel has no schedule, TargetError if Verilator is missing or refuses the code.
    """

    def __init__(self, kernels: Sequence[Kernel], folder: Path, optimize: str = "-O1"):
        self.folder = folder
        self.numbers = {kernel: k for k, kernel in enumerate(dict.fromkeys(kernels))}
        self.designs = [emit_verilog(kernel, f"kernel{k}") for kernel, k in self.numbers.items()]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "batch.v").write_text(UNITS + "".join(d.text for d in self.designs) + _batch(self.designs))
        (folder / "driver.cpp").write_text(DRIVER)
        _build(folder, optimize)

    def run(self, cases: Sequence[Case]) -> Run:
        """Outcomes of the cases. KompiloError if an array does not fit, TargetError if a kernel does not end."""
        words: list[np.ndarray | list[int]] = [[len(cases)]]
        for case in cases:
            check_arrays(case)
            number = self.numbers[case.kernel]
            words += _job(case, number, self.designs[number].estimate.cycles)
        np.concatenate([np.asarray(w, np.int64) for w in words]).tofile(self.folder / "jobs.bin")
        command = [self.folder / "simulator", self.folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        if done.returncode not in (0, 1):
            raise TargetError(f"fpga: the RTL simulation ended with status {done.returncode}: {done.stderr.strip()}.")
        return Run(_outcomes(cases, np.fromfile(self.folder / "results.bin", np.int64)), done.returncode == 1)


def simulate_rtl(cases: Sequence[Case]) -> Run:
    """The cases in a simulator made for them; errors as those of `RtlSimulator`."""
    with tempfile.TemporaryDirectory() as folder:
        return RtlSimulator([c.kernel for c in cases], Path(folder)).run(cases)


def _build(work: Path, optimize: str) -> None:
    """work/simulator, from batch.v and driver.cpp."""
    verilator = tool("verilator", "verilator")
    flags = ["--cc", "-O3", "-Wno-fatal", "-Wno-lint", "--top-module", "kp_batch", "--Mdir", str(work / "obj")]
    if optimize == "-O0" and " 4." not in _run([verilator, "--version"], "Verilator"):
        # Instances of a floating-point unit share their code unless what drives them is merged into it: half of g++'s
        # time.
        flags.append("-fno-gate")
    _run([verilator, *flags, str(work / "batch.v")], "Verilator refused the Verilog")
    include = Path(_run([verilator, "--getenv", "VERILATOR_ROOT"], "Verilator").strip()) / "include"
    # One translation unit: the headers cost more than the kernels.
    made = sorted((work / "obj").glob("*.cpp"))
    (work / "all.cpp").write_text("".join(f'#include "{path}"\n' for path in (*made, work / "driver.cpp")))
    compiler = ["g++", "-std=c++17", "-w", f"-I{include}", f"-I{include / 'vltstd'}", f"-I{work / 'obj'}", "-pthread"]
    files = [str(work / "all.cpp"), *map(str, _runtime(include, verilator)), "-o", str(work / "simulator")]
    _run([tool("g++", "g++"), *compiler[1:], optimize, *files], "g++ refused what Verilator made")


def _runtime(include: Path, verilator: str) -> list[Path]:
    """Verilator's own runtime, compiled once for each version of it."""
    version = "".join(c if c.isalnum() else "-" for c in _run([verilator, "--version"], "Verilator").strip())
    folder = Knobs.from_environment().cache / "verilator" / version
    folder.mkdir(parents=True, exist_ok=True)
    objects = []
    for name in ("verilated", "verilated_threads"):
        made = folder / f"{name}.o"
        if not made.exists():
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                new = Path(temporary) / made.name
                flags = ["-std=c++17", "-w", "-O1", f"-I{include}", f"-I{include / 'vltstd'}", "-c"]
                source = str(include / f"{name}.cpp")
                _run([tool("g++", "g++"), *flags, source, "-o", str(new)], "g++ refused Verilator's runtime")
                os.replace(new, made)
        objects.append(made)
    return objects


def _run(command: Sequence[str], what: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no reason given"]
        raise TargetError(f"fpga: {what}: {next((x for x in lines if 'rror' in x), lines[0])}")
    return done.stdout


def _batch(designs: Sequence[VerilogDesign]) -> str:
    """All kernels side by side; only the clock of the chosen one runs."""
    ports = "input clk, input rst, input [15:0] ksel, input start, output done, input hwe, input [15:0] hsel,"
    lines = [f"module kp_batch({ports} input [31:0] had, input [63:0] hwd, output [63:0] hrd);"]
    lines.append(f"wire [{len(designs) - 1}:0] dones; wire [63:0] reads [0:{len(designs) - 1}];")
    common = ".rst(rst), .start(start), .hwe(hwe), .hsel(hsel), .had(had), .hwd(hwd)"
    for k, d in enumerate(designs):
        lines.append(f"{d.top} u{k} (.clk(clk && ksel == {k}), {common}, .done(dones[{k}]), .hrd(reads[{k}]));")
    return "\n".join([*lines, "assign done = dones[ksel], hrd = reads[ksel];", "endmodule", ""])


def _words(data: np.ndarray, array: Array) -> np.ndarray:
    """Elements as the unsigned words that memories hold."""
    bits = data.view(f"uint{data.dtype.itemsize * 8}").astype(np.int64)
    return bits & ((1 << array.dtype.bits) - 1) if array.dtype.bits < 64 else bits


def _job(case: Case, number: int, cycles: int) -> list[np.ndarray | list[int]]:
    words: list[np.ndarray | list[int]] = [[number, _PATIENCE * cycles + 1000]]
    sizes = {a.name: a.banks for a in (*case.kernel.role("in"), *case.kernel.role("out"))}
    for role, given in (("in", case.inputs), ("out", case.expected)):
        if role == "out":
            words.append([int(given is not None)])
        words.append([sum(sizes[a.name] for a in case.kernel.role(role))])
        for k, (array, bank) in enumerate(host_banks(case.kernel)):
            if array.role == role:
                words.append([k, array.depth])
                if given is not None:
                    words.append(_words(bank_of(np.ascontiguousarray(given[array.name]), array, bank), array))
    return words


def _outcomes(cases: Sequence[Case], results: np.ndarray) -> list[Outcome]:
    outcomes, at = [], 0
    for case in cases:
        cycles, bad = int(results[at]), int(results[at + 1])
        at += 2
        if cycles < 0:
            raise TargetError(f"fpga: the simulation of {case.kernel.name} did not end.")
        outputs = {}
        for array in case.kernel.role("out"):
            padded = np.zeros([-(-n // f) * f for n, f in zip(array.shape, array.factors, strict=True)], np.int64)
            for bank in (b for a, b in host_banks(case.kernel) if a == array):
                view = padded[tuple(slice(b, None, f) for b, f in zip(bank, array.factors, strict=True))]
                view[...] = results[at : at + array.depth].reshape(view.shape)
                at += array.depth
            outputs[array.name] = _elements(padded, array)[tuple(slice(0, n) for n in array.shape)]
        outcomes.append(Outcome(outputs, bad, cycles))
    return outcomes


def _elements(words: np.ndarray, array: Array) -> np.ndarray:
    dtype = array.dtype.numpy()
    if array.dtype.kind == "int" and array.dtype.bits < 64:
        half = 1 << (array.dtype.bits - 1)
        return ((words ^ half) - half).astype(dtype)
    return words.astype(f"uint{dtype.itemsize * 8}").view(dtype)
