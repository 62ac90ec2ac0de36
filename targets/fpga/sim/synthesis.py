"""Synthesis of a kernel's Verilog by yosys (the package pyosys): how many DSP blocks and block RAMs it takes.

Its counts of look-up tables are pessimistic against the vendor's tools; those of DSP blocks and block RAMs are what
is compared.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ....compiler.errors import TargetError
from ..kernel.verilog import VerilogDesign

_SECONDS = 600
# Family of a part: yosys's script for it.
_SCRIPTS = {
    "ultrascale+": "synth_xilinx -family xcup -noiopad -noclkbuf -flatten",
    "ecp5": "synth_ecp5 -noabc9",
}
# As far as blocks are mapped, look-up tables not yet: a few seconds instead of many.
_BLOCKS_ONLY = {"ultrascale+": "begin:map_ffram", "ecp5": "begin:map_ffram"}
_CELLS = {
    "dsp": ("DSP48E2", "MULT18X18D"),
    "bram18": ("RAMB18E2", "DP16KD", "PDPW16KD"),
    "bram36": ("RAMB36E2",),
    "uram": ("URAM288",),
}
# One design after the other in one process: loading yosys takes as long as a small kernel.
_CHILD = """
import json, sys
from pyosys import libyosys as ys
for commands in json.load(open(sys.argv[1])):
    design = ys.Design()
    for command in commands:
        ys.run_pass(command, design)
"""


@dataclass(frozen=True)
class Synthesis:
    """Counts of cells; `luts` and `flip_flops` as yosys maps them."""

    dsps: int
    bram18: int
    uram: int
    luts: int
    flip_flops: int


def synthesize(
    designs: Sequence[VerilogDesign], family: str = "ultrascale+", blocks_only: bool = False
) -> list[Synthesis]:
    """Maps each design to a family; with `blocks_only` counts of look-up tables and flip-flops are left at 0.

    TargetError if pyosys is missing, fails, or does not know the family.
    """
    part = f" -run {_BLOCKS_ONLY.get(family)}" if blocks_only else ""
    with tempfile.TemporaryDirectory() as temporary:
        counts = map_designs(designs, family, Path(temporary), part)
        cells = [json.loads(count.read_text())["design"]["num_cells_by_type"] for count in counts]
    return [_counted(c) for c in cells]


def map_designs(
    designs: Sequence[VerilogDesign], family: str, folder: Path, options: str = "", netlists: bool = False
) -> list[Path]:
    """What yosys counts in each design, as JSON, in files of `folder` named *.stat; its `netlists` beside, *.json.

    `options` are added to yosys's script for the family. Errors as for `synthesize`.
    """
    if importlib.util.find_spec("pyosys") is None:
        raise TargetError("fpga: pyosys is not installed.", "pip install 'kompilo[fpga]'.")
    if family not in _SCRIPTS:
        raise TargetError(f"fpga: expected a family of {', '.join(_SCRIPTS)} to synthesise for, found {family!r}.")
    counts = [folder / f"{k}.stat" for k in range(len(designs))]
    work = []
    for design, count in zip(designs, counts, strict=True):
        source = count.with_suffix(".v")
        source.write_text(design.source())
        written = f" -json {count.with_suffix('.json')}" if netlists else ""
        synthesis = f"{_SCRIPTS[family]} -top {design.top}{options}{written}"
        work.append([f"read_verilog -sv {source}", synthesis, f"tee -q -o {count} stat -json"])
    script = folder / "work"
    script.write_text(json.dumps(work))
    done = subprocess.run([sys.executable, "-c", _CHILD, str(script)], capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode or not all(count.exists() for count in counts):
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no reason given"]
        raise TargetError(f"fpga: yosys failed: {next((x for x in lines if 'ERROR' in x), lines[-1])}")
    return counts


def _counted(cells: dict[str, int]) -> Synthesis:
    def total(kind: str) -> int:
        return sum(cells.get(name, 0) for name in _CELLS[kind])

    luts = sum(n for name, n in cells.items() if name.startswith(("LUT", "SRL", "RAM32", "RAM64", "RAM128", "RAM256")))
    registers = sum(n for name, n in cells.items() if name.startswith(("FD", "TRELLIS_FF")))
    return Synthesis(total("dsp"), total("bram18") + 2 * total("bram36"), total("uram"), luts, registers)
