"""Attention kernels against float64: on tensor cores by the CUDA shim, plain ones through OpenCL; odd, open, masked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from attention_cases import Attention, operands, sized
from onnx import TensorProto, helper
from tensor_core_cases import run

from kompilo.compiler.schedule.flops import flops
from kompilo.compiler.schedule.masks import ADDED, DROPS, KEEPS
from kompilo.compiler.schedule.op_words import op_words
from kompilo.compiler.tune.reference import evaluate
from kompilo.targets.cuda.target import CudaTarget
from kompilo.targets.gpu.templates.attention_simt import SimtAttention
from kompilo.targets.gpu.templates.attention_simt_nest import SimtTile
from kompilo.targets.gpu.templates.attention_tensor_core import TensorCoreAttention, WarpgroupAttention
from kompilo.targets.gpu.templates.attention_tile import FlashTile
from kompilo.targets.gpu.templates.attention_warpgroup import GroupTile
from kompilo.targets.rocm.target import RocmTarget

from gpu.shim_support import needs_shim
from gpu_support import needs_opencl, run_template

SMALL = str(float(np.finfo("float32").min))
TOLERANCE = {"float32": 5e-6, "float16": 2e-3, "bfloat16": 1.6e-2}
# Head sizes of 128 and 256 cost the shim's compiler seconds; machine code is made for them elsewhere.
FLASH = {
    "grouped": (Attention((2, 4, 37, 49, 32), own=2, causal=True, offset=12), FlashTile(2, 1, 32, 2, 1)),
    "masks": (
        Attention((2, 2, 19, 37, 32), masks=((KEEPS, (19, 37), "bool"), (ADDED, (2, 1, 1, 37), "float16")), fill=SMALL),
        FlashTile(1, 1, 16, 3, 0),
    ),
    "padded": (
        Attention((1, 1, 19, 70, 40), columns=24, dtype="bfloat16", inside=False),
        FlashTile(2, 1, 32, 2, 1),
    ),
    "open": (Attention(("b", 2, "m", "n", 64), own=1), FlashTile(1, 2, 32, 3, 0)),
    "pairs": (
        Attention((1, 2, 37, 30, 34), causal=True, offset=-7, zero_rows=True, inside=False),
        FlashTile(1, 1, 32, 2, 0),
    ),
}
OPEN_SIZES = {"b": 2, "m": 45, "n": 71}
PLAIN = {
    "odd": (Attention((1, 2, 19, 21, 13), columns=10, dtype="float32", inside=False), (16, 16, 8, 8)),
    "grouped": (Attention((2, 4, 37, 49, 64), own=2, dtype="float32", causal=True, offset=12), None),
    "masks": (
        Attention(
            (2, 2, 19, 37, 32),
            dtype="float32",
            masks=((DROPS, (19, 37), "bool"), (ADDED, (2, 2, 19, 37), "float32")),
            fill=SMALL,
        ),
        None,
    ),
    "open": (Attention(("b", 2, "m", "n", 80), dtype="float32"), (32, 16, 8, 16)),
}


WARPGROUPS = {
    "causal": (Attention((1, 2, 75, 79, 64), own=1, causal=True, offset=4), GroupTile(1, 32, 2)),
    "masks": (
        Attention((1, 2, 70, 100, 80), dtype="bfloat16", masks=((ADDED, (1, 1, 1, 100), "float32"),), inside=False),
        GroupTile(2, 32, 3),
    ),
    "empty rows": (
        Attention((1, 1, 70, 40, 40), columns=24, causal=True, offset=-66, zero_rows=True),
        GroupTile(1, 32, 2),
    ),
}


def check(found, op, arrays):
    expected = evaluate(op, arrays).values
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    error = np.nanmax(np.abs(found - expected)) / np.nanmax(np.abs(expected))
    assert error <= TOLERANCE[op.inputs[0].dtype]


@needs_shim
@pytest.mark.parametrize("name", FLASH)
def test_on_tensor_cores(name):
    case, tile = FLASH[name]
    op = case.spec
    arrays, known = operands(op, **OPEN_SIZES), sized(op, **OPEN_SIZES)
    for found in run(TensorCoreAttention(), op, arrays, known.output.shape, tile.config()):
        check(found, known, arrays)


@needs_shim
@pytest.mark.parametrize("name", WARPGROUPS)
def test_by_warpgroups(name):
    case, tile = WARPGROUPS[name]
    op = case.spec
    arrays = operands(op)
    for found in run(WarpgroupAttention(), op, arrays, op.output.shape, tile.config(), "sm_90"):
        check(found, op, arrays)


@needs_opencl
@pytest.mark.parametrize("name", PLAIN)
def test_plain(name):
    case, tile = PLAIN[name]
    op = case.spec
    arrays, known = operands(op, **OPEN_SIZES), sized(op, **OPEN_SIZES)
    config = SimtTile(*tile).config() if tile else None
    stored = [x.astype(t.dtype) for x, t in zip(arrays, op.inputs, strict=True)]
    check(run_template(SimtAttention(), op, stored, known.output.shape, config), known, arrays)


@needs_shim
@pytest.mark.parametrize("hidden", [False, True])
def test_plain_has_no_races_and_takes_half_precision(hidden):
    """Also with lengths of loops that come out of shared memory."""
    op = Attention((1, 2, 19, 21, 16), causal=True, offset=2).spec
    arrays = operands(op)
    config = SimtTile(16, 16, 8, 8).config()
    target = CudaTarget(replace(CudaTarget.from_preset("sm_80").spec, writes_out_loops=hidden))
    for found in run(SimtAttention(), op, arrays, op.output.shape, config, target):
        check(found, op, arrays)


def by_onnxruntime(q, k, v, mask, scale):
    """softmax(scale * q k^T + mask) v, float32, as a model has it."""
    nodes = [
        helper.make_node("MatMul", ["q", "t"], ["s"]),
        helper.make_node("Mul", ["s", "c"], ["u"]),
        helper.make_node("Add", ["u", "m"], ["a"]),
        helper.make_node("Softmax", ["a"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    feeds = {"q": q, "t": k.transpose(0, 1, 3, 2), "v": v, "m": mask, "c": np.array(scale, "f4")}
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape) for n, x in feeds.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (*q.shape[:3], v.shape[3]))]
    model = helper.make_model(
        helper.make_graph(nodes, "attention", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {n: np.ascontiguousarray(x) for n, x in feeds.items()})[0]


def hidden_rows(dtype):
    """Rows without a key, with keys of the smallest number only, with few keys, with NaN; as ONNX Runtime has them."""
    case = Attention((1, 1, 6, 21, 16), dtype=dtype, masks=((ADDED, (6, 21), "float32"),), inside=False)
    q, k, v, mask = (x.astype("f4") for x in operands(case.spec))
    mask[:] = 0
    mask[0], mask[1] = -np.inf, float(SMALL)
    mask[2, 3:], mask[3, :20], mask[4, 1:4] = -np.inf, float(SMALL), np.nan
    q[0, 0, 5, 0] = np.inf
    expected = by_onnxruntime(q, k, v, mask, case.scale)
    return case.spec, (q, k, v, mask), expected


def agree(found, expected, tolerance):
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    assert np.isnan(expected[0, 0, [0, 4]]).all()
    assert not np.isnan(expected[0, 0, 1:4]).any()
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@needs_opencl
def test_hidden_rows_plain():
    op, arrays, expected = hidden_rows("float32")
    agree(run_template(SimtAttention(), op, arrays, expected.shape), expected, 1e-5)


@needs_shim
def test_hidden_rows_on_tensor_cores():
    op, arrays, expected = hidden_rows("float16")
    tile = FlashTile(1, 1, 16, 2, 1).config()
    for found in run(TensorCoreAttention(), op, arrays, expected.shape, tile):
        agree(found, expected, 2e-3)


def test_who_is_refused():
    a100, turing = (CudaTarget.from_preset(name).spec for name in ("sm_80", "sm_75"))
    mi300 = RocmTarget.from_preset("gfx942").spec
    half, plain = Attention((1, 2, 64, 64, 64)), Attention((1, 2, 64, 64, 64), dtype="float32")
    flash, any_gpu = TensorCoreAttention(), SimtAttention()
    assert flash.match(half.spec, a100) is not None
    assert flash.match(plain.spec, a100) is None
    assert flash.match(half.spec, turing) is None  # no asynchronous copies
    assert flash.match(Attention((1, 2, 64, 64, 33), inside=False).spec, a100) is None  # copies of two bytes
    assert flash.match(Attention((1, 2, 64, 64, 320)).spec, a100) is None
    assert any_gpu.match(Attention((1, 2, 64, 64, 33), inside=False).spec, a100) is not None
    h100 = CudaTarget.from_preset("sm_90")
    assert WarpgroupAttention().match(half.spec, a100) is None
    assert WarpgroupAttention().match(Attention((1, 2, 8, 64, 64)).spec, h100.spec) is None
    assert next(t for t in h100.templates if t.match(half.spec, h100.spec)).name == "attention_warpgroup"
    for spec in (a100, turing, mi300):
        assert any_gpu.match(plain.spec, spec) is not None
        assert any_gpu.match(half.spec, spec) is not None


@pytest.mark.parametrize("template", [TensorCoreAttention(), SimtAttention()], ids=lambda t: t.name)
def test_costs(template):
    """Configs fit the GPU, have finite traits, and small problems get small blocks."""
    spec = CudaTarget.from_preset("sm_80").spec
    dtype = "float16" if template.name == "attention_tensor_core" else "float32"
    op = Attention((4, 16, 2048, 2048, 64), dtype=dtype, causal=True).spec
    space = template.match(op, spec)
    assert len(space.configs) >= 16
    columns = template.traits(op, spec, space.configs)
    assert all(len(c) == len(space.configs) and np.isfinite(c).all() for c in columns.values())
    assert list(columns["device_cycles"]) == sorted(columns["device_cycles"])
    few = template.match(Attention((1, 16, 16, 64, 64), dtype=dtype).spec, spec)
    assert template.traits(op, spec, [few.default])["tile_rows"][0] <= 32
    assert columns["tile_rows"][0] >= 32


def test_flops_and_words():
    whole = Attention((2, 4, 64, 64, 32)).spec
    half = Attention((2, 4, 64, 64, 32), own=2, causal=True).spec
    pairs = 2 * 4 * 64 * 64
    assert flops(whole) == 2 * pairs * (32 + 32) + 2 * 4 * 64 * 32  # and the cast
    assert flops(half) == pytest.approx(flops(whole) * 65 / 128, rel=0.02)
    assert op_words(half) == "attention 8x (64 by 64, 32 deep) causal grouped"
