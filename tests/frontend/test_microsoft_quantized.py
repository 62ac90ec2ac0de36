"""Quantized operators of the domain com.microsoft: 8-bit results equal those of ONNX Runtime bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

pytest.importorskip("onnxruntime", reason="what ONNX Runtime has is compared with ONNX Runtime")

from kompilo.compiler.errors import ModelError

from op_test import check_op, floats, ints, make_model, reference_outputs

MS = "com.microsoft"
EXACT = {"domain": MS, "rtol": 0, "atol": 0}
F32 = np.float32


def octets(*shape: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """All integers of an 8-bit type."""
    info = np.iinfo(dtype)
    return ints(*shape, low=info.min, high=info.max + 1, dtype=dtype, seed=seed)


def _binary(dtype: str, a: tuple[int, ...], b: tuple[int, ...], result: float) -> list[np.ndarray]:
    points = octets(3, dtype=dtype, seed=7)
    return [
        *(octets(*a, dtype=dtype), F32(0.037), points[0]),
        *(octets(*b, dtype=dtype, seed=1), F32(0.0613), points[1]),
        *(F32(result), points[2]),
    ]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(("op", "result"), [("QLinearAdd", 0.07), ("QLinearMul", 0.9)])
def test_binary(op: str, result: float, dtype: str) -> None:
    check_op(op, _binary(dtype, (3, 5, 67), (3, 5, 67), result), const=(1, 2, 4, 5, 6, 7), **EXACT)
    check_op(op, _binary(dtype, (7, 1, 13), (3, 13), result), **EXACT)
    check_op(op, _binary(dtype, (2, 3, 5), (3, 5), result), dynamic=(0, 3), **EXACT)


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_binary_without_zero_points(op: str) -> None:
    """ONNX Runtime wants them given: as zeros."""
    inputs = _binary("uint8", (9,), (1,), 0.2)
    zeros = [x if i not in (2, 5, 7) else np.uint8(0) for i, x in enumerate(inputs)]
    named = {f"x{i}": np.asarray(x) for i, x in enumerate(zeros)}
    model = make_model([helper.make_node(op, list(named), ["y"], domain=MS)], named, ["y"], domain=MS)
    without = [x if i not in (2, 5, 7) else None for i, x in enumerate(inputs)]
    check_op(op, without, reference=reference_outputs(model, named), **EXACT)


def _unary(dtype: str, *shape: int, result: float, point: int) -> list[np.ndarray]:
    return [octets(*shape, dtype=dtype), F32(0.041), octets(1, dtype=dtype)[0], F32(result), np.array(point, dtype)]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_unary(dtype: str) -> None:
    least = int(np.iinfo(dtype).min)
    inputs = _unary(dtype, 7, 41, result=1 / 256, point=least)
    check_op("QLinearSigmoid", inputs, const=(1, 2, 3, 4), dynamic=(0,), **EXACT)
    check_op("QLinearLeakyRelu", _unary(dtype, 3, 97, result=0.03, point=100), {"alpha": 0.1}, **EXACT)
    for opset, axis in ((13, 1), (12, 1), (13, -1)):
        check_op(
            "QLinearSoftmax",
            _unary(dtype, 3, 5, 11, result=1 / 200, point=least),
            {"opset": opset, "axis": axis},
            **EXACT,
        )


POOLS: list[dict[str, Any]] = [
    {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]},
    {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1},
    {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": 1},
    {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER"},
]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("attributes", POOLS, ids=["strides", "include", "ceil", "same"])
def test_average_pool(dtype: str, attributes: dict[str, Any]) -> None:
    inputs = _unary(dtype, 2, 5, 8, 9, result=0.029, point=17)
    check_op("QLinearAveragePool", inputs, attributes, const=(1, 2, 3, 4), **EXACT)


def test_pools_with_channels_last() -> None:
    inputs = _unary("uint8", 2, 8, 9, 5, result=0.029, point=17)
    check_op("QLinearAveragePool", inputs, {"kernel_shape": [3, 2], "channels_last": 1}, **EXACT)
    check_op("QLinearGlobalAveragePool", inputs, {"channels_last": 1}, **EXACT)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_global_average_pool(dtype: str) -> None:
    inputs = _unary(dtype, 2, 5, 7, 9, result=0.004, point=3)
    check_op("QLinearGlobalAveragePool", inputs, const=(1, 2, 3, 4), **EXACT)
    check_op("QLinearGlobalAveragePool", inputs, dynamic=(0,), **EXACT)


def test_reduce_mean() -> None:
    """ONNX Runtime has no kernel for it: against numpy."""
    inputs = _unary("int8", 3, 5, 7, result=0.013, point=-4)
    x, scale, point, result, zero = inputs
    mean = ((x.astype(np.int32) - int(point)).astype(F32) * scale).mean(axis=(0, 2), keepdims=True, dtype=np.float64)
    wanted = np.clip(np.rint(mean.astype(F32) / result) + int(zero), -128, 127).astype(np.int8)
    check_op("QLinearReduceMean", inputs, {"axes": [0, 2], "keepdims": 1}, reference=[wanted], dynamic=(0,), **EXACT)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_concat_and_where(dtype: str) -> None:
    a, a_scale, a_point, b, b_scale, b_point, scale, point = _binary(dtype, (3, 5, 7), (3, 2, 7), 0.05)
    inputs = [scale, point, a, a_scale, a_point, b, b_scale, b_point, b, scale, point]
    check_op("QLinearConcat", inputs, {"axis": 1}, const=(0, 1, 3, 4, 6, 7, 9, 10), **EXACT)
    condition = np.arange(35).reshape(5, 7) % 3 == 0
    inputs = [condition, a, a_scale, a_point, octets(3, 1, 7, dtype=dtype, seed=3), b_scale, b_point, scale, point]
    check_op("QLinearWhere", inputs, dynamic=(1,), **EXACT)


REFUSED = {
    "attribute": (
        "QLinearAdd",
        _binary("uint8", (3,), (3,), 1.0),
        {"alpha": 1.0},
        "has an attribute 'alpha', expected one of these: none",
    ),
    "types": (
        "QLinearMul",
        [*_binary("uint8", (3,), (3,), 1.0)[:3], *_binary("int8", (3,), (3,), 1.0)[3:]],
        {},
        "inputs 0 and 3 must have elements of one type",
    ),
    "scale": (
        "QLinearSigmoid",
        [octets(3), floats(3), octets(1)[0], F32(1), octets(1)[0]],
        {},
        r"QLinearSigmoid node 'y0': input 1 must be a scalar, found shape \[3\]",
    ),
    "missing": ("QLinearAdd", [octets(3), F32(1), None, None, F32(1), None, F32(1)], {}, "input 3 is required"),
    "groups": (
        "QLinearConcat",
        [F32(1), octets(1)[0], octets(3), F32(1)],
        {"axis": 0},
        "each tensor needs a scale and a zero point, found 2 inputs",
    ),
    "order": (
        "QLinearConcat",
        [F32(1), octets(1)[0], octets(3), octets(1)[0], F32(1)],
        {"axis": 0},
        "input 3 must hold float32, found uint8",
    ),
    "kernel": (
        "QLinearAveragePool",
        _unary("uint8", 1, 2, 4, 4, result=1.0, point=0),
        {},
        "attribute 'kernel_shape' is required",
    ),
    "opset": ("QLinearSoftmax", _unary("uint8", 3, 4, result=1.0, point=0), {}, "attribute 'opset' is required"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    op, inputs, attributes, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        check_op(op, inputs, attributes, domain=MS, reference=[])
