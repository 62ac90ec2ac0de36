"""Attention on AMD's matrix units: by what AMD documents of the instructions against float64, and in machine code."""

from __future__ import annotations

from dataclasses import replace

import pytest
from attention_cases import Attention, operands, sized
from matrix_core_runs import emulate
from test_attention import OPEN_SIZES, SMALL, agree, check, hidden_rows

from kompilo.compiler.schedule.masks import ADDED, KEEPS
from kompilo.compiler.schedule.template import Config
from kompilo.targets.gpu.templates.attention_matrix_core import MatrixCoreAttention

from gpu.cuda_shim import Options
from gpu.shim_support import needs_shim

RACES = Options(races=True, order="shuffled", seed=3)


def tile(waves: int, rows: int, bn: int, stages: int, held: int, side: int) -> Config:
    return Config.of(waves=waves, rows=rows, bn=bn, stages=stages, held=held, side=side)


GROUPED = Attention((2, 4, 37, 49, 32), own=2, causal=True, offset=12)
MASKED = Attention((2, 2, 19, 37, 32), masks=((KEEPS, (19, 37), "bool"), (ADDED, (2, 1, 1, 37), "float16")), fill=SMALL)
OPEN = Attention(("b", 2, "m", "n", 64), own=1)
# Rows that see nothing; heads that are no whole multiplications, whose rows are no whole vectors.
PADDED = Attention((1, 2, 37, 30, 35), columns=26, causal=True, offset=-7, zero_rows=True, inside=False)
CASES = {
    "cdna2 grouped": ("gfx90a", GROUPED, tile(2, 1, 32, 1, 1, 32)),
    "cdna2 masks": ("gfx90a", MASKED, tile(1, 2, 32, 2, 0, 16)),
    "cdna3 open": ("gfx942", OPEN, tile(2, 2, 64, 2, 1, 16)),
    "cdna3 padded": ("gfx942", replace(PADDED, dtype="bfloat16"), tile(1, 1, 32, 1, 0, 32)),
    "cdna2 float32": ("gfx90a", replace(PADDED, dtype="float32"), tile(2, 1, 32, 1, 1, 32)),
    "cdna3 float32": ("gfx942", replace(GROUPED, dtype="float32"), tile(1, 1, 16, 2, 0, 16)),
    "rdna3 grouped": ("gfx1100", replace(GROUPED, dtype="bfloat16"), tile(2, 1, 32, 1, 0, 16)),
    "rdna3 masks": ("gfx1100", MASKED, tile(1, 2, 16, 2, 1, 16)),
    "rdna3 open": ("gfx1100", OPEN, tile(2, 1, 64, 1, 1, 16)),
    "rdna3 padded": ("gfx1100", PADDED, tile(1, 1, 32, 2, 0, 16)),
}


@needs_shim
@pytest.mark.parametrize("name", CASES)
def test_by_documented_instructions(name):
    arch, case, config = CASES[name]
    op = case.spec
    arrays, known = operands(op, **OPEN_SIZES), sized(op, **OPEN_SIZES)
    found = emulate(MatrixCoreAttention(), op, arrays, known.output.shape, arch, config, RACES)
    check(found, known, arrays)


@needs_shim
@pytest.mark.parametrize(("arch", "side"), [("gfx942", 32), ("gfx1100", 16)])
def test_hidden_rows(arch, side):
    op, arrays, expected = hidden_rows("float16")
    found = emulate(MatrixCoreAttention(), op, arrays, expected.shape, arch, tile(1, 1, 32, 1, 1, side))
    agree(found, expected, 2e-3)
