"""Direct convolution: against float64 over shapes with every kind of tail, border, stride, group and epilogue."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from conv_cases import Kernel, check, conv2d, random_inputs, reference, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.schedule.op_spec import OpSpec, TensorType
from kompilo.compiler.schedule.template import Config
from kompilo.targets.cpu.spec import CORES, cpu_spec
from kompilo.targets.cpu.target import CpuTarget
from kompilo.targets.cpu.templates.conv2d_direct import DirectConv2D

DIRECT = DirectConv2D()
SAME3 = (1, 1, 1, 1)

CASES = {
    "pointwise": conv2d((1, 14, 14, 64), (32, 64, 1, 1)),
    "pointwise, odd channels": conv2d((2, 13, 11, 37), (41, 37, 1, 1), epilogue=("bias", "residual", "relu")),
    "pointwise of one pixel": conv2d((1, 1, 1, 96), (24, 96, 1, 1), epilogue=("bias4", "hardswish")),
    "pointwise, gate": conv2d((2, 5, 7, 16), (24, 16, 1, 1), epilogue=("bias", "gate")),
    "pointwise, factor per pixel": conv2d((1, 5, 7, 16), (24, 16, 1, 1), epilogue=("bias", "pixel")),
    "pointwise, stride": conv2d((1, 15, 14, 16), (48, 16, 1, 1), (2, 2), epilogue=("bias",)),
    "pointwise, padded": conv2d((1, 6, 5, 16), (16, 16, 1, 1), (1, 1), (1, 2, 1, 0), epilogue=()),
    "3x3": conv2d((1, 15, 17, 24), (40, 24, 3, 3), (1, 1), SAME3, epilogue=("bias", "residual", "relu")),
    "3x3 stride 2": conv2d((1, 28, 29, 16), (32, 16, 3, 3), (2, 2), SAME3, epilogue=("bias", "hardswish")),
    "3x3 of a tiny image": conv2d((1, 2, 3, 16), (16, 16, 3, 3), (1, 1), SAME3),
    "3x3 without padding": conv2d((1, 13, 13, 16), (20, 16, 3, 3)),
    "kernel larger than image": conv2d((1, 3, 3, 8), (16, 8, 5, 5), (1, 1), (2, 2, 2, 2)),
    "7x7 stride 2 of an RGB image": conv2d((1, 35, 33, 3), (32, 3, 7, 7), (2, 2), (3, 3, 3, 3)),
    "11x11 stride 4": conv2d((1, 51, 51, 3), (48, 3, 11, 11), (4, 4), (2, 2, 2, 2)),
    "one output channel": conv2d((1, 9, 9, 12), (1, 12, 3, 3), (1, 1), SAME3, epilogue=("bias", "sigmoid")),
    "dilated, asymmetric": conv2d((2, 15, 17, 8), (24, 8, 3, 5), (2, 1), (1, 2, 3, 4), (2, 3)),
    "1x7": conv2d((1, 17, 17, 16), (24, 16, 1, 7), (1, 1), (0, 3, 0, 3)),
    "7x1": conv2d((1, 17, 17, 16), (24, 16, 7, 1), (1, 1), (3, 0, 3, 0)),
    "one row": conv2d((1, 1, 200, 16), (24, 16, 1, 5), (1, 2), (0, 2, 0, 2)),
    "one column": conv2d((1, 200, 1, 16), (24, 16, 5, 1), (2, 1), (2, 0, 2, 0), epilogue=("bias", "residual")),
    "two groups": conv2d((1, 13, 12, 16), (40, 8, 3, 3), (1, 1), SAME3, groups=2),
    "groups of 3 channels": conv2d((1, 7, 7, 12), (20, 3, 3, 3), (1, 1), SAME3, groups=4),
    "depthwise with multiplier": conv2d((1, 9, 9, 6), (12, 1, 3, 3), (1, 1), SAME3, groups=6),
    "pointwise of few channels, large": conv2d((1, 60, 60, 48), (32, 48, 1, 1)),
    "many channels": conv2d((1, 7, 7, 512), (64, 512, 3, 3), (1, 1), SAME3),
}


@pytest.mark.parametrize("name", CASES)
def test_default_config_matches_float64(name: str) -> None:
    check(DIRECT, CASES[name], tolerance=4e-6)


@pytest.mark.parametrize("name", ["pointwise, odd channels", "3x3", "7x7 stride 2 of an RGB image", "two groups"])
@pytest.mark.parametrize("preset", ["avx2"])
def test_avx2(name: str, preset: str) -> None:
    check(DIRECT, CASES[name], preset=preset)


@pytest.mark.parametrize(
    "config",
    [
        Config.of(vectors=2, tile=6, rows=4, cols=2, blocks=1, chunks=1, pitch=12, ahead="none"),
        Config.of(vectors=2, tile=6, rows=4, cols=2, blocks=1, chunks=2, pitch=8, ahead="none"),
        Config.of(vectors=1, tile=30, rows=3, cols=9, blocks=2, chunks=4, pitch=0, ahead="weights"),
        Config.of(vectors=3, tile=1, rows=20, cols=99, blocks=9, chunks=1, pitch=0, ahead="weights"),
    ],
    ids=str,
)
def test_knobs_do_not_change_the_result(config: Config) -> None:
    op = conv2d((1, 15, 17, 8), (40, 8, 3, 3), (1, 1), SAME3, epilogue=("bias", "residual", "hardswish"))
    check(DIRECT, op, config)


def test_offered_configs_are_right() -> None:
    op = conv2d((1, 12, 13, 16), (72, 16, 3, 3), (1, 1), SAME3, epilogue=("bias",))
    for config in list(DIRECT.match(op, cpu_spec()))[::3]:
        check(DIRECT, op, config)


@pytest.mark.parametrize(
    "op",
    [
        conv2d(("n", "h", "w", 16), (24, 16, 1, 1), epilogue=("bias", "residual"), out=("h", "w")),
        conv2d(("n", "h", "w", 16), (24, 16, 1, 1), epilogue=("gate",), out=("h", "w")),
        conv2d(("n", "h", "w", 3), (16, 3, 3, 3), (1, 1), SAME3, epilogue=("bias", "relu"), out=("h", "w")),
        conv2d((1, "h", "w", 16), (40, 16, 3, 3), (1, 1), SAME3, epilogue=("bias", "relu"), out=("h", "w")),
        conv2d((1, 5, "w", 16), (40, 16, 3, 3), (1, 1), SAME3, epilogue=("residual",), out=(5, "w")),
    ],
    ids=str,
)
def test_one_kernel_serves_all_sizes(op: OpSpec) -> None:
    kernel = Kernel(DIRECT, op)
    for sizes in ({"n": 1, "h": 9, "w": 33}, {"n": 3, "h": 4, "w": 7}, {"n": 1, "h": 1, "w": 150}):
        inputs = random_inputs(op, **sizes)
        expected = reference(op, inputs)
        assert relative_error(kernel(inputs, expected.shape), expected) < 2e-6


def test_symbolic_stride() -> None:
    op = conv2d((1, "h", "w", 8), (16, 8, 3, 3), (2, 2), SAME3, epilogue=("bias",), out=("oh", "ow"))
    kernel = Kernel(DIRECT, op)
    for h, w in ((8, 9), (33, 70)):
        inputs = random_inputs(op, h=h, w=w)
        expected = reference(op, inputs)
        assert relative_error(kernel(inputs, expected.shape), expected) < 2e-6


@settings(max_examples=12, deadline=None)
@given(
    size=st.tuples(st.integers(1, 19), st.integers(1, 40)),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 70)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    pad=st.tuples(*[st.integers(0, 2)] * 4),
    groups=st.integers(1, 2),
)
def test_any_shape(size, channels, kernel, stride, pad, groups) -> None:
    size = tuple(max(s, k) for s, k in zip(size, kernel, strict=True))
    c, o = channels[0] * groups, channels[1] * groups
    op = conv2d((1, *size, c), (o, channels[0], *kernel), stride, pad, groups=groups, epilogue=("bias", "relu"))
    check(DIRECT, op)


def test_refuses_what_it_cannot_do() -> None:
    op, spec = CASES["3x3"], cpu_spec()
    double = tuple(TensorType(t.shape, "float64") for t in op.inputs)
    variants = {
        "not a convolution": {"kind": "matmul"},
        "weights known only at run time": {"constant": (False,) * len(op.inputs)},
        "float64": {"inputs": double},
        "NCHW": {"attrs": (("data_layout", "NCHW"), *op.attrs[1:])},
    }
    for reason, change in variants.items():
        fields = {f: getattr(op, f) for f in op.__dataclass_fields__} | change
        assert DIRECT.match(OpSpec(**fields), spec) is None, reason


@pytest.mark.parametrize("preset", [name for name in CORES if name in ("aarch64", "znver4", "haswell")])
def test_compiles_for_other_cpus(preset: str) -> None:
    target = CpuTarget(cpu_spec(preset))
    op = CASES["3x3"]
    candidate = DIRECT.build(op, target.spec, DIRECT.match(op, target.spec).default)
    library = tvm.compile(tvm.IRModule({"main": candidate.func}), target.tvm_target())
    assert ("fmla" if preset == "aarch64" else "vfmadd") in library.mod.inspect_source("asm")


def test_packing_pads_the_last_block_with_zeros() -> None:
    op = conv2d((1, 5, 5, 4), (20, 4, 1, 1))
    spec = cpu_spec("avx2,cores=1")
    candidate = DIRECT.build(
        op, spec, Config.of(vectors=2, tile=5, rows=1, cols=9, blocks=9, chunks=1, pitch=0, ahead="none")
    )
    weight = np.arange(80, dtype="float32").reshape(20, 4, 1, 1)
    packed = candidate.packers[1](weight)
    assert packed.shape == (4 * 24,)
    np.testing.assert_array_equal(packed[:16], weight[:16, 0, 0, 0])
    np.testing.assert_array_equal(packed[64:72], [*weight[16:, 0, 0, 0], 0, 0, 0, 0])


@pytest.mark.parametrize("steps", [("relu",), ("bias", "hardswish")])
def test_epilogues_keep_nan(steps):
    op = conv2d((1, 2, 9, 16), (16, 16, 1, 1), epilogue=steps)
    inputs = random_inputs(op)
    inputs[0][0, 0, 3] = np.nan
    found = Kernel(DIRECT, op)(inputs, reference(op, inputs).shape)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(reference(op, inputs)))
    assert np.isnan(found[0, 0, 3]).all()
