"""Pooling kernels against float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tensor_core_cases import random_operands, run

from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.targets.gpu.templates.pool2d import Pool2D

from gpu.shim_support import needs_shim
from gpu_support import TARGET, needs_opencl, relative_error, run_template

# data shape, window, strides, padding, dilation
CASES = [
    ((1, 14, 14, 32), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    ((2, 9, 11, 6), (2, 3), (1, 2), (0, 1, 1, 0), (1, 1)),
    ((1, 8, 8, 5), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((1, 13, 13, 4), (3, 2), (1, 1), (2, 0, 2, 0), (2, 3)),
    ((1, 12, 20, 8), (9, 9), (3, 3), (4, 4, 4, 4), (1, 1)),
]


def pool(shape, size, strides, padding, dilation, mode, include):
    out = tuple(
        (shape[1 + a] + padding[a] + padding[a + 2] - (size[a] - 1) * dilation[a] - 1) // strides[a] + 1 for a in (0, 1)
    )
    result = TensorType((shape[0], *out, shape[3]), "float32")
    attrs = {"ceil_mode": 0, "count_include_pad": include, "dilation": dilation, "mode": mode, "padding": padding}
    attrs |= {"pool_size": size, "strides": strides}
    inputs = (TensorType(shape, "float32"), TensorType((shape[3],), "float32"))
    steps = (Step("add", ("anchor", "i1"), "float32"),)
    return OpSpec("pool2d", inputs, (False, True), tuple(sorted(attrs.items())), result, result, steps)


def expected(x, op):
    (kh, kw), (sh, sw), (dh, dw) = op.ints("pool_size"), op.ints("strides"), op.ints("dilation")
    top, left, bottom, right = op.ints("padding")
    padded = np.pad(x.astype("f8"), ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=np.nan)
    result = np.empty(op.anchor_type.shape)
    for i in range(result.shape[1]):
        for j in range(result.shape[2]):
            window = padded[:, i * sh : i * sh + kh * dh : dh, j * sw : j * sw + kw * dw : dw]
            window = window.reshape(len(x), -1, x.shape[3])
            if op.attr("mode") == "max":
                result[:, i, j] = np.nanmax(window, axis=1)
            elif op.attr("count_include_pad"):
                result[:, i, j] = np.nansum(window, axis=1) / (kh * kw)
            else:
                result[:, i, j] = np.nanmean(window, axis=1)
    return result


@needs_opencl
@pytest.mark.parametrize("mode", [("max", 0), ("avg", 0), ("avg", 1)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda c: "x".join(map(str, c[1])))
def test_pooling(case, mode):
    op = pool(*case, *mode)
    rng = np.random.default_rng(0)
    x, bias = (rng.standard_normal(t.shape).astype("f4") for t in op.inputs)
    want = expected(x, op) + bias
    for config in Pool2D().match(op, TARGET.spec):
        assert relative_error(run_template(Pool2D(), op, [x, bias], want.shape, config), want) < 1e-6, str(config)


@needs_opencl
def test_minus_infinity_is_a_value_like_others():
    op = pool((1, 4, 4, 4), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), "max", 0)
    x = np.full((1, 4, 4, 4), -np.inf, "f4")
    found = run_template(Pool2D(), op, [x, np.zeros(4, "f4")], (1, 2, 2, 4))
    assert np.all(found == -np.inf)


@needs_shim
@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_float16(mode, dtype):
    """Summed up in float32; the anchor's own type is the model's affair."""
    op = pool((1, 7, 9, 24), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), mode, 0)
    half = TensorType(op.output.shape, "float16")
    steps = (Step("astype", ("anchor",), "float16"),) if dtype == "float32" else ()
    inputs, anchor = (replace(op.inputs[0], dtype="float16"),), replace(half, dtype=dtype)
    op = replace(op, inputs=inputs, constant=(False,), anchor_type=anchor, output=half, epilogue=steps)
    (x,) = random_operands(op)
    for found in run(Pool2D(), op, [x], op.output.shape, None):
        assert relative_error(found, expected(x, op)) < 1e-3
