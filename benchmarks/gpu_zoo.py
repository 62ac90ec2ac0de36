"""Compiles every model of the zoo for GPUs of every kind, none of which has to be there, and prints what came out.

    python benchmarks/gpu_zoo.py [--models resnet50,mnist] [--targets cuda:sm_90,rocm:gfx942] [--fixed]

For each model and architecture: seconds to compile, kernels in the code objects, most vector registers of one of them,
and bytes that spill (the sum over all kernels; 0 is the goal). Open sizes stay open unless --fixed gives each model its
sample shapes. A model that does not compile is a row with the reason, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import kompilo
from kompilo.compiler.errors import KompiloError
from kompilo.models import zoo
from kompilo.targets.gpu.resources import Resources, resources_of_code_object, resources_of_cubin

TARGETS = ("cuda:sm_80", "cuda:sm_90", "rocm:gfx90a", "rocm:gfx942", "rocm:gfx1100")
_READERS = {"cubin": resources_of_cubin, "hsaco": resources_of_code_object}


@dataclass(frozen=True)
class Cell:
    """One model for one target, or why there is none."""

    seconds: float
    kernels: int = 0
    registers: int = 0
    spills_bytes: int = 0
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return "failed"
        return f"{self.seconds:.1f} s, {self.kernels}, {self.registers}, {self.spills_bytes}"


def main() -> int:
    """Compile, print the table; 1 if a model did not compile, or spills."""
    options = _options()
    models, targets = options.models.split(","), options.targets.split(",")
    table: dict[str, dict[str, Cell]] = {}
    for model in models:
        table[model] = {}
        for target in targets:
            cell = compile_model(model, target, options.fixed)
            table[model][target] = cell
            print(f"{model} {target}: {cell.problem or cell}", file=sys.stderr, flush=True)
    print("\n".join(markdown(table, targets)))
    cells = [cell for row in table.values() for cell in row.values()]
    return int(any(cell.problem or cell.spills_bytes for cell in cells))


def compile_model(model: str, target: str, fixed: bool) -> Cell:
    """One model of the zoo for one target."""
    inputs = zoo.find(model).shapes if fixed else None
    started = time.perf_counter()
    try:
        artifact = kompilo.compile(f"zoo:{model}", target=target, inputs=inputs)
    except KompiloError as error:
        return Cell(time.perf_counter() - started, problem=str(error))
    seconds = time.perf_counter() - started
    used: dict[str, Resources] = {}
    for code in artifact.targets[0].device:
        used |= _READERS[code.format](code.code)
    spilling = [f"{name} spills {r.spills_bytes} bytes" for name, r in used.items() if r.spills_bytes]
    for line in spilling:
        print(f"{model} {target}: {line}", file=sys.stderr, flush=True)
    registers = max((r.registers for r in used.values()), default=0)
    return Cell(seconds, len(used), registers, sum(r.spills_bytes for r in used.values()))


def markdown(table: Mapping[str, Mapping[str, Cell]], targets: Sequence[str]) -> list[str]:
    """The table, with the conditions above it."""
    cores = len(os.sched_getaffinity(0))
    lines = [f"{time.strftime('%Y-%m-%d')}, {cores} cores; seconds, kernels, registers, bytes that spill", ""]
    lines.append("| " + " | ".join(["model", *targets]) + " |")
    lines.append("|---|" + "---|" * len(targets))
    lines += ["| " + " | ".join([model, *(str(row[t]) for t in targets)]) + " |" for model, row in table.items()]
    return lines


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(zoo.names()), help="names separated by commas; default all")
    parser.add_argument("--targets", default=",".join(TARGETS), help=f"default {','.join(TARGETS)}")
    parser.add_argument("--fixed", action="store_true", help="compile for the sample shapes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
