"""Attention on AMD's matrix units: by what AMD documents of the instructions against float64, and in machine code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from attention_cases import Attention, operands, sized
from disassemble import count, gcn_of, mnemonics
from matrix_core_runs import compile_op, emulate
from rocm_kernels import needs_lld
from test_attention import SMALL, agree, check, hidden_rows

from kompilo.compiler.schedule.masks import ADDED, KEEPS
from kompilo.compiler.schedule.template import Config
from kompilo.targets.cuda.target import CudaTarget
from kompilo.targets.gpu.occupancy import occupancy
from kompilo.targets.gpu.resources import resources_of_code_object
from kompilo.targets.gpu.templates import attention_matrix_block
from kompilo.targets.gpu.templates.attention_matrix_core import MatrixCoreAttention
from kompilo.targets.rocm.target import RocmTarget
from kompilo.targets.shared.index_math import nothing

from gpu.cuda_shim import KernelError, Options
from gpu.shim_support import needs_shim

RACES = Options(races=True, order="shuffled", seed=3)
SIZES = {"b": 1, "m": 37, "n": 71}
ARCHS = ("gfx90a", "gfx942", "gfx1100")


def tile(waves: int, rows: int, bn: int, stages: int, held: int, side: int) -> Config:
    return Config.of(waves=waves, rows=rows, bn=bn, stages=stages, held=held, side=side)


GROUPED = Attention((2, 4, 37, 49, 32), own=2, causal=True, offset=12)
MASKED = Attention((2, 2, 19, 37, 32), masks=((KEEPS, (19, 37), "bool"), (ADDED, (2, 1, 1, 37), "float16")), fill=SMALL)
OPEN = Attention(("b", 2, "m", "n", 64), own=1, columns=32)
# Rows that see nothing; heads that are no whole multiplications, whose rows are no whole vectors.
PADDED = Attention((1, 2, 37, 30, 35), columns=26, causal=True, offset=-7, zero_rows=True, inside=False)
CASES = {
    "cdna2 grouped": ("gfx90a", GROUPED, tile(2, 1, 32, 1, 1, 32)),
    "cdna2 masks": ("gfx90a", MASKED, tile(1, 2, 32, 2, 0, 16)),
    "cdna3 open": ("gfx942", OPEN, tile(1, 2, 64, 2, 1, 16)),
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
    arrays, known = operands(op, **SIZES), sized(op, **SIZES)
    found = emulate(MatrixCoreAttention(), op, arrays, known.output.shape, arch, config, RACES)
    check(found, known, arrays)


@needs_shim
@pytest.mark.parametrize(("arch", "side"), [("gfx942", 32), ("gfx1100", 16)])
def test_hidden_rows(arch, side):
    op, arrays, expected = hidden_rows("float16")
    found = emulate(MatrixCoreAttention(), op, arrays, expected.shape, arch, tile(1, 1, 32, 1, 1, side))
    agree(found, expected, 2e-3)


@needs_shim
def test_a_missing_barrier_is_found(monkeypatch):
    arch, case, config = CASES["cdna2 grouped"]
    op = case.spec
    arrays = operands(op)
    monkeypatch.setattr(attention_matrix_block, "barrier", nothing)
    with pytest.raises(KernelError, match="race"):
        emulate(MatrixCoreAttention(), op, arrays, op.output.shape, arch, config, RACES)


CODE = {
    "64": Attention((4, 16, 4096, 4096, 64)),
    "128": Attention((4, 16, 4096, 4096, 128), dtype="bfloat16"),
    "128 open, causal, grouped": Attention((1, 12, "n", "n", 128), own=4, causal=True),
    "64 masked": Attention((2, 4, 200, 300, 64), masks=((ADDED, (2, 1, 200, 300), "float16"),)),
    "64 float32": Attention((1, 12, "n", "n", 64), dtype="float32"),
}


@needs_lld
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", CODE)
def test_instructions_no_spills_and_registers_about_as_reckoned(name, arch):
    op, spec, template = CODE[name].spec, RocmTarget.from_preset(arch).spec, MatrixCoreAttention()
    dtype = op.inputs[0].dtype
    if dtype not in spec.matrix_dtypes:
        pytest.skip(f"the matrix units of {arch} have no {dtype}")
    code = compile_op(template, op, arch)
    text = gcn_of(code)
    (used,) = resources_of_code_object(code).values()
    short = {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}[dtype]
    names = [n for n in mnemonics(text) if n.startswith(("v_mfma_", "v_wmma_"))]
    products = sum(number for n, number in mnemonics(text).items() if n in names)
    assert products >= 8
    assert all(n.startswith("v_wmma_f32_16x16x16_" if arch == "gfx1100" else "v_mfma_f32_") for n in names)
    assert all(short in n.removeprefix("v_mfma_f32_").removeprefix("v_wmma_f32_") for n in names)
    assert count(text, "v_exp_f32") > 0
    assert count(text, "v_permlanex16_b32" if arch == "gfx1100" else "ds_bpermute_b32") > 0
    assert count(text, "ds_load_b128" if arch == "gfx1100" else "ds_read_b128") > 0
    assert used.spills_bytes == 0
    traits = template.traits(op, spec, [template.match(op, spec).default])
    assert used.registers == pytest.approx(traits["registers"][0], rel=0.25)
    assert used.shared_bytes == pytest.approx(traits["block_bytes"][0], abs=16)
    real = occupancy(used, spec, used.threads)
    assert real.fraction >= traits["occupancy"][0] / 2


def test_who_is_refused_and_who_is_first():
    template, half = MatrixCoreAttention(), Attention((1, 2, 64, 64, 64))
    cdna, rdna = (RocmTarget.from_preset(name) for name in ("gfx942", "gfx1100"))
    plain = replace(half, dtype="float32")
    for target, first in ((cdna, "attention_matrix_core"), (rdna, "attention_simt")):
        assert next(t for t in target.templates if t.match(half.spec, target.spec)).name == template.name
        assert next(t for t in target.templates if t.match(plain.spec, target.spec)).name == first
    assert template.match(half.spec, CudaTarget.from_preset("sm_80").spec) is None
    assert template.match(Attention((1, 2, 64, 64, 512)).spec, rdna.spec) is None  # results fill all registers
    turned = replace(half.spec, attrs=tuple((k, (0, 1, 3, 2) if k == "k_perm" else v) for k, v in half.spec.attrs))
    assert template.match(turned, cdna.spec) is None


@pytest.mark.parametrize("arch", ARCHS)
def test_costs(arch):
    """Configs have finite traits, best first; few rows get small blocks, and heads of 128 some config."""
    template, spec = MatrixCoreAttention(), RocmTarget.from_preset(arch).spec
    op = Attention((4, 16, 2048, 2048, 64), causal=True).spec
    space = template.match(op, spec)
    assert len(space.configs) >= 16
    columns = template.traits(op, spec, space.configs)
    assert all(len(c) == len(space.configs) and np.isfinite(c).all() for c in columns.values())
    assert list(columns["device_cycles"]) == sorted(columns["device_cycles"])
    few = template.match(Attention((1, 16, 16, 4096, 128)).spec, spec)
    assert template.traits(Attention((1, 16, 16, 4096, 128)).spec, spec, [few.default])["tile_rows"][0] <= 32
    assert columns["tile_rows"][0] >= 64
