"""What is checked and timed on a GPU: small ONNX graphs that reach every template, and the sizes that are timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kompilo.compiler.schedule.op_spec import OpSpec, TensorType

Shape = tuple[int, ...]
_ELEMENTS = {
    "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16,
    "float64": TensorProto.DOUBLE, "int64": TensorProto.INT64,
}  # fmt: skip
_OPSET, _ATTENTION_OPSET = 17, 23


@dataclass(frozen=True)
class Case:
    """An ONNX graph: `inputs` by name with dtype and shape, `weights` by name; `precision` as for `kompilo.compile`."""

    name: str
    nodes: tuple[onnx.NodeProto, ...]
    inputs: Mapping[str, tuple[str, Shape]]
    output: tuple[str, int]
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    precision: str = "fp32"
    opset: int = _OPSET

    def model(self) -> bytes:
        """The graph as a file's bytes."""
        tensors = [helper.make_tensor_value_info(n, _ELEMENTS[d], s) for n, (d, s) in self.inputs.items()]
        result = helper.make_tensor_value_info("y", *self._output_type())
        weights = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(list(self.nodes), "g", tensors, [result], weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=11)
        onnx.checker.check_model(made)
        return bytes(made.SerializeToString())

    def _output_type(self) -> tuple[int, list[str]]:
        dtype, rank = self.output
        return _ELEMENTS[dtype], [f"d{axis}" for axis in range(rank)]


def check_cases() -> list[Case]:
    """Graphs whose operators reach every template that a GPU has; odd sizes, edges, epilogues, broadcasts."""
    found = []
    for dtype, precision in (("float32", "fp32"), ("float16", "fp32"), ("float32", "tf32")):
        found += _products(dtype, precision)
        found += _convolutions(dtype, precision)
        found += _attentions(dtype, precision)
    found += [*_pools("float32"), *_pools("float16"), *_products("bfloat16", "fp32")]
    return [*found, *(case for dtype in ("float32", "float16") for case in _special_attentions(dtype))]


def _products(dtype: str, precision: str) -> list[Case]:
    def constant(name: str, rows: Shape, depth: int, columns: int, *more: onnx.NodeProto, **extra: Shape) -> Case:
        weights = {"w": _numbers((depth, columns), dtype), **{k: _numbers(s, dtype) for k, s in extra.items()}}
        nodes = (helper.make_node("MatMul", ["x", "w"], ["m" if more else "y"]), *more)
        return Case(f"{name}", nodes, {"x": (dtype, (*rows, depth))}, (dtype, len(rows) + 1), weights, precision)

    def both(name: str, a: Shape, b: Shape) -> Case:
        node = helper.make_node("MatMul", ["a", "b"], ["y"])
        return Case(name, (node,), {"a": (dtype, a), "b": (dtype, b)}, (dtype, max(len(a), len(b))), {}, precision)

    bias = helper.make_node("Add", ["m", "c"], ["s"])
    turned = (helper.make_node("Transpose", ["b"], ["t"], perm=[1, 0]), helper.make_node("MatMul", ["a", "t"], ["y"]))
    return [
        constant("matmul", (96,), 128, 64),
        constant("matmul, bias, ReLU", (200,), 160, 104, bias, helper.make_node("Relu", ["s"], ["y"]), c=(104,)),
        constant("matmul, odd", (35,), 57, 21, bias, helper.make_node("Sigmoid", ["s"], ["y"]), c=(21,)),
        constant("matmul, several tiles", (515,), 520, 392),
        constant("matmul, deep", (64,), 8192, 72),
        constant("matmul, thin", (3,), 512, 384),
        constant("matmul, one row", (1,), 1000, 777),
        both("matmul of two inputs", (130, 96), (96, 72)),
        both("matmul of two inputs, odd", (35, 43), (43, 27)),
        both("batches", (2, 3, 50, 40), (2, 3, 40, 56)),
        both("batches of one right side", (5, 66, 48), (48, 40)),
        Case("matmul, transposed", turned, {"a": (dtype, (72, 48)), "b": (dtype, (56, 48))}, (dtype, 2), {}, precision),
    ]


def _convolutions(dtype: str, precision: str) -> list[Case]:
    def conv(name: str, data: Shape, weight: Shape, residual: bool = False, **attributes: Sequence[int] | int) -> Case:
        nodes = [helper.make_node("Conv", ["x", "w", "c"], ["m"], **attributes)]
        inputs = {"x": (dtype, data)}
        if residual:
            inputs["r"] = (dtype, (data[0], weight[0], *data[2:]))
            nodes.append(helper.make_node("Add", ["m", "r"], ["s"]))
        nodes.append(helper.make_node("Relu", ["s" if residual else "m"], ["y"]))
        weights = {"w": _numbers(weight, dtype), "c": _numbers(weight[:1], dtype)}
        return Case(name, tuple(nodes), inputs, (dtype, 4), weights, precision)

    same = {"pads": [1, 1, 1, 1]}
    return [
        conv("conv 3x3, residual", (2, 64, 14, 14), (96, 64, 3, 3), residual=True, **same),
        conv("conv 1x1", (1, 128, 15, 13), (64, 128, 1, 1)),
        conv("conv of an image", (1, 3, 37, 35), (32, 3, 7, 7), strides=[2, 2], pads=[3, 3, 3, 3]),
        conv("conv, odd", (2, 5, 9, 8), (7, 5, 3, 2), pads=[1, 0, 0, 1]),
        conv("conv, dilated", (1, 16, 17, 16), (24, 16, 3, 3), dilations=[2, 3], pads=[2, 3, 2, 3]),
        conv("conv, grouped", (1, 64, 10, 10), (96, 32, 3, 3), group=2, **same),
        conv("depthwise 3x3", (2, 40, 15, 13), (40, 1, 3, 3), group=40, **same),
        conv("depthwise 5x5, strided", (1, 24, 20, 19), (24, 1, 5, 5), group=24, strides=[2, 2], pads=[2, 2, 2, 2]),
    ]


def _pools(dtype: str) -> list[Case]:
    """Behind a convolution: alone, a pooling keeps the model's layout, and generic rules make it."""
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    weights = {"w": _numbers((24, 16, 1, 1), dtype)}
    first = helper.make_node("Conv", ["x", "w"], ["m"])
    return [
        Case(
            name,
            (first, helper.make_node(name, ["m"], ["y"], **window)),
            {"x": (dtype, (2, 16, 21, 19))},
            (dtype, 4),
            weights,
        )
        for name in ("MaxPool", "AveragePool")
    ]


def _attentions(dtype: str, precision: str) -> list[Case]:
    shapes = [(1, 2, 50, 50, 32), (2, 3, 130, 77, 64), (1, 4, 256, 256, 128)]
    return [attention(f"attention {rows} x {keys}, depth {depth}", dtype, (batch, heads, rows, keys, depth), precision)
            for batch, heads, rows, keys, depth in shapes]  # fmt: skip


def _special_attentions(dtype: str) -> list[Case]:
    """ONNX's Attention: later keys hidden, numbers added to the products, six heads of queries on two of keys."""

    def case(name: str, heads: int, rows: int, keys: int, mask: Shape = (), **attributes: int) -> Case:
        inputs = {"q": (dtype, (2, heads, rows, 32)), "k": (dtype, (2, 2, keys, 32)), "v": (dtype, (2, 2, keys, 32))}
        inputs |= {"mask": (dtype, mask)} if mask else {}
        node = helper.make_node("Attention", list(inputs), ["y"], **attributes)
        return Case(name, (node,), inputs, (dtype, 4), opset=_ATTENTION_OPSET)

    return [
        case("attention, causal", 2, 75, 75, is_causal=1),
        case("attention, mask", 2, 50, 77, mask=(50, 77)),
        case("attention, grouped queries", 6, 50, 43),
        case("attention, grouped queries, causal, mask", 6, 66, 66, mask=(2, 1, 66, 66), is_causal=1),
    ]


def attention(name: str, dtype: str, sizes: Shape, precision: str = "fp32") -> Case:
    """softmax(q k^T / sqrt(depth)) v; `sizes` are batch, heads, rows, keys, depth."""
    batch, heads, rows, keys, depth = sizes
    nodes = (
        helper.make_node("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "t"], ["p"]),
        helper.make_node("Mul", ["p", "scale"], ["s"]),
        helper.make_node("Softmax", ["s"], ["w"], axis=-1),
        helper.make_node("MatMul", ["w", "v"], ["y"]),
    )
    inputs = {"q": (dtype, (batch, heads, rows, depth))}
    inputs |= dict.fromkeys(("k", "v"), (dtype, (batch, heads, keys, depth)))
    scale = {"scale": np.array(depth**-0.5, dtype)}
    return Case(name, nodes, inputs, (dtype, 4), scale, precision)


def integer_operators() -> list[OpSpec]:
    """A product and a convolution of int8 with sums in int32."""
    perms = (("lhs_perm", (0, 1)), ("out_perm", (0, 1)), ("rhs_perm", (0, 1)))
    window = {
        "data_layout": "NHWC", "dilation": (1, 1), "groups": 1, "padding": (1, 1, 1, 1), "strides": (1, 1),
    }  # fmt: skip

    def operator(kind: str, left: Shape, right: Shape, result: Shape, attrs: tuple[tuple[str, Any], ...]) -> OpSpec:
        sums = TensorType(result, "int32")
        return OpSpec(kind, (TensorType(left, "int8"), TensorType(right, "int8")), (False, True), attrs, sums, sums)

    return [
        operator("matmul", (70, 96), (96, 80), (70, 80), perms),
        operator("conv2d", (1, 9, 9, 32), (48, 32, 3, 3), (1, 9, 9, 48), tuple(sorted(window.items()))),
    ]


def product(name: str, m: int, n: int, k: int) -> Case:
    """A product of two float16 matrices, (m, k) and (k, n)."""
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    return Case(name, (node,), {"a": ("float16", (m, k)), "b": ("float16", (k, n))}, ("float16", 2))


def timed_cases(small: bool = False) -> list[Case]:
    """The sizes that are timed beside other libraries; `small`: tiny ones, for trying the benchmark out."""
    products = {
        "matmul 8192": (8192, 8192, 8192), "matmul 4096": (4096, 4096, 4096),
        "16 rows": (16, 8192, 8192), "64 columns": (8192, 64, 8192), "one row": (1, 8192, 8192),
        "deep": (256, 256, 65536), "odd": (4095, 4097, 4099), "tail of a wave": (3000, 5000, 2048),
    }  # fmt: skip
    heads = {"attention, depth 64": (4, 16, 4096, 4096, 64), "attention, depth 128": (4, 16, 4096, 4096, 128)}
    if small:
        products = {"matmul 64": (64, 64, 64), "odd": (35, 27, 43)}
        heads = {"attention, depth 16": (1, 2, 24, 24, 16)}
    return [
        *(product(name, *sizes) for name, sizes in products.items()),
        *(attention(name, "float16", sizes) for name, sizes in heads.items()),
    ]


def _numbers(shape: Shape, dtype: str) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)
