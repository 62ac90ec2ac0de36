"""Quantized operators of the domain com.microsoft: 8-bit results equal those of ONNX Runtime bit by bit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

pytest.importorskip("onnxruntime", reason="what ONNX Runtime has is compared with ONNX Runtime")

from kompilo.compiler.errors import ModelError

from op_test import check_op, floats, i64, ints, make_model, reference_outputs

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


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_qgemm(dtype: str) -> None:
    a, b, bias = (
        octets(6, 20, dtype=dtype),
        octets(7, 20, dtype="int8", seed=1),
        ints(7, low=-2000, high=2000, dtype="int32"),
    )
    points, scales = octets(2, dtype=dtype, seed=5), floats(7, low=0.01, high=0.1)
    inputs = [a, F32(0.03), points[0], b, scales, octets(7, dtype="int8", seed=2), bias, F32(2.1), points[1]]
    check_op("QGemm", inputs, {"alpha": 0.7, "transB": 1}, const=(1, 2, 3, 4, 5, 6, 7, 8), dynamic=(0,), **EXACT)
    inputs[3:6] = np.ascontiguousarray(b.T), F32(0.05), np.int8(-7)
    inputs[0] = np.ascontiguousarray(a.T)
    check_op("QGemm", [*inputs[:6], None, *inputs[7:]], {"transA": 1}, **EXACT)
    check_op("QGemm", inputs[:7], {"transA": 1}, domain=MS)


def test_products_in_float() -> None:
    dtype = "int8"
    b, scales, points = (
        octets(20, 7, dtype=dtype, seed=1),
        floats(7, low=0.01, high=0.1),
        octets(7, dtype=dtype, seed=2),
    )
    inputs = [octets(2, 6, 20, dtype=dtype), b, F32(0.02), scales, octets(1, dtype=dtype)[0], points, floats(7)]
    check_op("MatMulIntegerToFloat", inputs, domain=MS, const=(1, 3, 5, 6), dynamic=(0,))
    check_op("MatMulIntegerToFloat", [*inputs[:3], F32(0.03)], domain=MS)
    check_op("DynamicQuantizeMatMul", [floats(6, 20), b, scales, points, floats(7)], domain=MS, const=(1, 2, 3, 4))
    check_op("DynamicQuantizeMatMul", [floats(3, 6, 20), b, F32(0.03)], domain=MS, dynamic=(0,))


def _nbits(bits: int, block: int, zero_points: str, k: int = 72, n: int = 5) -> tuple[list[Any], dict[str, int]]:
    blocks = -(-k // block)
    inputs = [
        floats(3, k),
        octets(n, blocks, block * bits // 8),
        floats(n, blocks, low=0.01, high=0.1),
        None,
        None,
        floats(n),
    ]
    if zero_points:
        packed = octets(n, -(-blocks * bits // 8), seed=4)
        inputs[3] = packed if zero_points == "packed" else floats(n, blocks, low=0.0, high=5.0)
    return inputs, {"bits": bits, "block_size": block, "N": n, "K": k}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zero_points", ["", "packed", "float"])
def test_matmul_nbits(bits: int, zero_points: str) -> None:
    if bits == 8 and zero_points == "float":
        pytest.skip("ONNX Runtime refuses zero points of floats for 8 bits")
    for block in (16, 32, 128):
        inputs, attributes = _nbits(bits, block, zero_points)
        check_op("MatMulNBits", inputs, attributes, domain=MS, const=(1, 2, 3, 5)[: 4 if zero_points else 2], atol=5e-5)
    check_op("MatMulNBits", inputs, attributes, domain=MS, dynamic=(0,), atol=5e-5)


def test_matmul_nbits_groups_and_types() -> None:
    """ONNX Runtime mixes up the zero points of groups: with them, groups that are as without any are compared."""
    inputs, attributes = _nbits(4, 16, "")
    inputs[4] = ints(72, low=0, high=5, dtype="int32")
    check_op("MatMulNBits", inputs, attributes, domain=MS, const=(1, 2, 4, 5))
    check_op("MatMulNBits", inputs, attributes, domain=MS)
    inputs, attributes = _nbits(4, 16, "packed")
    named = {f"x{i}": x for i, x in enumerate(inputs) if x is not None}
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    node = helper.make_node("MatMulNBits", names, ["y"], domain=MS, **attributes)
    wanted = reference_outputs(make_model([node], named, ["y"], domain=MS), named)
    inputs[4] = np.arange(72, dtype=np.int32) // 16
    check_op("MatMulNBits", inputs, attributes, domain=MS, reference=wanted, const=(1, 2, 3, 4))
    check_op("MatMulNBits", inputs, attributes, domain=MS, reference=wanted)
    inputs[4] = None
    half = [x.astype(np.float16) if x is not None and x.dtype == np.float32 else x for x in inputs]
    check_op("MatMulNBits", half, attributes, domain=MS, const=(1, 2, 3, 5), dynamic=(0,), rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("kind", [0, 1])
def test_matmul_bnb4(kind: int) -> None:
    inputs = [floats(3, 24), octets(60), floats(8, low=0.1, high=1.0)]
    attributes = {"quant_type": kind, "block_size": 16, "N": 5, "K": 24}
    check_op("MatMulBnb4", inputs, attributes, domain=MS, const=(1, 2), dynamic=(0,))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gather_from_bytes(bits: int) -> None:
    table, scales = octets(7, 64 * bits // 8), floats(7, 4, low=0.01, high=0.1)
    attributes = {"bits": bits, "block_size": 16, "quantize_axis": 1, "gather_axis": 0}
    where = np.array([[1, 6, -1]])
    check_op("GatherBlockQuantized", [table, where, scales], attributes, domain=MS, const=(0, 2), dynamic=(1,))
    check_op(
        "GatherBlockQuantized", [table, where, scales, octets(7, -(-4 * bits // 8), seed=2)], attributes, domain=MS
    )


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_from_narrow_integers(dtype: Any, axis: int) -> None:
    table, points = (ints(6, size, 5, low=0, high=8, seed=size).astype(dtype) for size in (32, 2))
    inputs = [table, np.array([1, -1], np.int32), floats(6, 2, 5, low=0.01, high=0.1), points]
    attributes = {"block_size": 16, "quantize_axis": 1, "gather_axis": axis}
    check_op("GatherBlockQuantized", inputs, attributes, domain=MS, const=(0, 2, 3))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_quantize_and_dequantize(dtype: str) -> None:
    info = np.iinfo(dtype)
    scale = 4.3 / (info.max - info.min)
    check_op("QuantizeLinear", [floats(3, 97), F32(scale), np.array(info.max - 100, dtype)], dynamic=(0,), **EXACT)
    points = np.array([3, 17, 90], dtype)
    check_op("QuantizeLinear", [floats(3, 97), floats(3, low=0.01, high=0.03), points], {"axis": 0}, **EXACT)
    x = ints(3, 97, low=info.min, high=info.max + 1, dtype=dtype)
    check_op("DequantizeLinear", [x, floats(3, low=0.01, high=0.03), points], {"axis": -2}, **EXACT)
    check_op("DequantizeLinear", [x, F32(0.01)], dynamic=(0,), **EXACT)


def test_embeddings_of_bytes() -> None:
    ids, segments = (ints(2, 5, low=0, high=high, dtype="int32") for high in (11, 2))
    tables = [octets(11, 12), octets(9, 12, seed=1), octets(2, 12, seed=2), octets(12, seed=3), octets(12, seed=4)]
    scales, points = [F32(0.01 * (i + 1)) for i in range(5)], [octets(1, seed=i)[0] for i in range(5)]
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    inputs = [ids, segments, *tables, mask, *scales, *points]
    check_op(
        "QEmbedLayerNormalization", inputs, domain=MS, outputs=2, const=(*range(2, 7), *range(8, 18)), dynamic=(0,)
    )


@pytest.mark.parametrize(("direction", "per_column"), [("forward", True), ("reverse", False), ("bidirectional", True)])
def test_dynamic_quantize_lstm(direction: str, per_column: bool) -> None:
    """ONNX Runtime rounds activations to 8 bits: compared as coarsely."""
    count, steps, width, hidden = 1 + (direction == "bidirectional"), 6, 11, 7
    parameters = [count, 4 * hidden] if per_column else [count]
    weights = [octets(count, n, 4 * hidden, dtype="int8", seed=n) for n in (width, hidden)]
    scales = [floats(*parameters, low=0.003, high=0.006, seed=i) for i in range(2)]
    # ONNX Runtime wants zero points of columns to be 0.
    points = [ints(*parameters, dtype="int8", seed=i) * np.int8(not per_column) for i in range(2)]
    initial = [floats(count, 3, hidden, seed=i) for i in (1, 2)]
    inputs = [floats(steps, 3, width), *weights, floats(count, 8 * hidden), None, *initial, None]
    inputs += [scales[0], points[0], scales[1], points[1]]
    attributes = {"hidden_size": hidden, "direction": direction}
    check_op(
        "DynamicQuantizeLSTM",
        inputs,
        attributes,
        domain=MS,
        outputs=3,
        const=(1, 2, 3, 8, 9, 10, 11),
        rtol=0.0,
        atol=2e-2,
    )


def test_qattention() -> None:
    """2 heads of 4 over 6 features, causal, with a past and scales of columns."""
    x, weights = octets(2, 5, 6, dtype="uint8"), octets(6, 24, dtype="int8", seed=1)
    inputs = [x, weights, floats(24), F32(0.01), floats(24, low=0.005, high=0.01), None, np.uint8(120)]
    inputs += [octets(24, dtype="int8", seed=2), floats(2, 2, 2, 3, 4)]
    attributes = {"num_heads": 2, "unidirectional": 1}
    check_op("QAttention", inputs, attributes, domain=MS, outputs=2, const=(1, 2, 3, 4, 6, 7), atol=1e-4)


@pytest.mark.parametrize(("bits", "activation", "block"), [(4, "swiglu", 0), (8, "silu", 0), (4, "relu", 32)])
def test_qmoe(bits: int, activation: str, block: int) -> None:
    """5 rows of 64 through 2 of 3 experts; ONNX Runtime may round activations, so it is compared as coarsely."""
    experts, width, hidden = 3, 64, 32
    rows = hidden * (2 if activation == "swiglu" else 1)
    inputs: list[Any] = [floats(5, width), floats(5, experts, seed=1)]
    for count, columns in ((rows, width), (width, hidden)):
        scales = [experts, count, *([columns // block] if block else [])]
        inputs += [octets(experts, count, columns * bits // 8), floats(*scales, low=0.0, high=0.16 / 2**bits)]
        inputs.append(floats(experts, count))
    attributes = {"k": 2, "activation_type": activation, "expert_weight_bits": bits, "normalize_routing_weights": 1}
    attributes |= {"swiglu_fusion": 1} if activation == "swiglu" else {}
    attributes |= {"block_size": block} if block else {}
    const = [*range(2, 8)]
    if block:  # zero points, packed along the blocks of a row
        inputs += [None, None, None, octets(experts, rows, 1, seed=7), octets(experts, width, 1, seed=8)]
        const += [11, 12]
    check_op("QMoE", inputs, attributes, domain=MS, const=const, atol=1e-2, rtol=1e-2)


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
    "block": (
        "MatMulNBits",
        _nbits(4, 16, "")[0],
        _nbits(4, 16, "")[1] | {"block_size": 24},
        "'block_size' must be a power of two, found 24",
    ),
    "bits": (
        "MatMulNBits",
        _nbits(4, 16, "")[0],
        _nbits(4, 16, "")[1] | {"bits": 3},
        "'bits' must be one of 2, 4, 8, found 3",
    ),
    "packed": (
        "MatMulNBits",
        _nbits(4, 16, "")[0],
        _nbits(4, 16, "")[1] | {"N": 6},
        r"input 1 needs shape \[6, 40\], found \[5, 5, 8\]",
    ),
    "prepacked": (
        "MatMulNBits",
        _nbits(4, 16, "")[0],
        _nbits(4, 16, "")[1] | {"weight_prepacked": 1},
        "'weight_prepacked' is set",
    ),
    "kind": (
        "MatMulBnb4",
        [floats(3, 24), octets(60), floats(8)],
        {"quant_type": 2, "block_size": 16, "N": 5, "K": 24},
        "'quant_type' must be one of 0, 1, found 2",
    ),
    "scales": (
        "GatherBlockQuantized",
        [octets(7, 32), i64(1), floats(7, 3)],
        {"block_size": 16},
        r"input 2 needs shape \[7, 4\] for blocks of 16, found \[7, 3\]",
    ),
    "experts": (
        "QMoE",
        [floats(5, 64), floats(5, 3), octets(3, 32, 32), floats(3, 31), None, octets(3, 64, 16), floats(3, 64)],
        {},
        r"input 3 needs shape \[3, 32\], found \[3, 31\]",
    ),
    "opset": ("QLinearSoftmax", _unary("uint8", 3, 4, result=1.0, point=0), {}, "attribute 'opset' is required"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    op, inputs, attributes, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        check_op(op, inputs, attributes, domain=MS, reference=[], const=(2, 3, 5, 6) if op == "QMoE" else ())
