"""Products and convolutions that ONNX Runtime has fused with what stands around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...values import Value
from ..schemas import typed_converter
from .activations import ACTIVATIONS, activated, activation_name
from .operands import FLOATS, given, number, passed_on, permuted

if TYPE_CHECKING:
    from ...node import Node

_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_CONV_ATTRIBUTES = "auto_pad:string dilations:ints group:int kernel_shape:ints pads:ints strides:ints"
_MATMUL_ATTRIBUTES = "alpha:float transA:int transB:int"


def _matrices(node: Node, index: int, batch_turned: bool, turned: bool) -> Value:
    """Input `index` with its first axis moved behind the batch's, and its last two exchanged; vectors stay."""
    rank = node.rank(index)
    order = list(range(rank))
    if batch_turned:
        if rank < 3:
            raise node.error(f"input {index} needs at least 3 dimensions for its batch to be transposed, found {rank}")
        order = [*range(1, rank - 1), 0, rank - 1]
    if turned and rank > 1:
        order[-2:] = reversed(order[-2:])
    return permuted(node, node.value(index), *order)


@typed_converter("FusedMatMul", "A:T B:T", attributes=f"{_MATMUL_ATTRIBUTES} transBatchA:int transBatchB:int", T=FLOATS)
@typed_converter("TransposeMatMul", "A:T B:T", attributes=_MATMUL_ATTRIBUTES, T=FLOATS)
def fused_matmul(node: Node) -> Value:
    """alpha * A' B'."""
    sides = [
        _matrices(node, i, bool(node.attr(f"transBatch{s}", 0)), bool(node.attr(f"trans{s}", 0)))
        for i, s in enumerate("AB")
    ]
    product, alpha = node.call("MatMul", *sides), node.attr("alpha", 1.0)
    return product if alpha == 1 else node.call("Mul", product, number(alpha, product.dtype))


@typed_converter(
    "FusedGemm",
    "A:T B:T C:T?",
    attributes=f"{_MATMUL_ATTRIBUTES} beta:float activation:string "
    "activation_alpha:float activation_beta:float activation_gamma:float",
    T=FLOATS,
)
def fused_gemm(node: Node) -> Value:
    """Gemm, and an activation whose numbers are attributes of their own."""
    names = ACTIVATIONS[activation_name(node)]
    if node.attr("activation", "") == "Clip":
        raise node.error("attribute 'activation' is Clip, which takes numbers that this operator has no attributes for")
    numbers = {name: node.required(f"activation_{name}") for name in names}
    gemm = passed_on(node, "alpha", "beta", "transA", "transB")
    return activated(node, node.call("Gemm", node.value(0), node.value(1), given(node, 2), **gemm), numbers)


@typed_converter(
    "FusedConv",
    "X:T W:T B:T? Z:T?",
    attributes=f"{_CONV_ATTRIBUTES} activation:string activation_params:floats",
    T="float16 float32 float64",
)
def fused_conv(node: Node) -> Value:
    """Conv, the sum with a tensor of its result's shape, and an activation."""
    return _fused(node, _conv(node, node.value(0)), given(node, 3))


def _conv(node: Node, x: Value) -> Value:
    return node.call("Conv", x, node.value(1), given(node, 2), **passed_on(node, *_WINDOW))


def _fused(node: Node, out: Value, residual: Value | None) -> Value:
    names, numbers = ACTIVATIONS[activation_name(node)], node.attr("activation_params") or []
    if len(names) != len(numbers):
        activation = node.attr("activation", "")
        raise node.error(
            f"attribute 'activation_params' needs {len(names)} numbers for activation {activation!r}, "
            f"found {len(numbers)}"
        )
    out = out if residual is None else node.call("Add", out, residual)
    return activated(node, out, dict(zip(names, numbers, strict=True)))


def _channels_first(node: Node, index: int) -> Value:
    rank = node.rank(index)
    if rank < 3:
        raise node.error(f"input {index} needs at least 3 dimensions, found shape {node.shape(index)}")
    return permuted(node, node.value(index), 0, rank - 1, *range(1, rank - 1))


@typed_converter("NhwcConv", "X:T W:T B:T?", attributes=_CONV_ATTRIBUTES, T="float16 float32 float64")
@typed_converter(
    "NhwcFusedConv",
    "X:T W:T B:T? Z:T?",
    attributes=f"{_CONV_ATTRIBUTES} activation:string activation_params:floats",
    T="float16 float32",
)
def nhwc_conv(node: Node) -> Value:
    """FusedConv of tensors whose channels come last; the weights are as those of Conv."""
    residual = _channels_first(node, 3) if node.has(3) else None
    out = _fused(node, _conv(node, _channels_first(node, 0)), residual)
    return permuted(node, out, 0, *range(2, node.rank(0)), 1)


@typed_converter(
    "ConvTransposeWithDynamicPads",
    "X:T W:T Pads:int64? B:T?",
    attributes="auto_pad:string dilations:ints group:int kernel_shape:ints output_padding:ints strides:ints",
    T="float16 float32 float64",
)
def conv_transpose_with_dynamic_pads(node: Node) -> Value:
    """ConvTranspose with pads that are an input, and known at compile time."""
    attributes = passed_on(node, "auto_pad", "dilations", "group", "kernel_shape", "output_padding", "strides")
    pads = node.dims(2)
    if node.has(2) and (pads is None or not all(isinstance(p, int) for p in pads)):
        raise node.error("input 'Pads' must be known at compile time, found data or open sizes")
    if pads:
        attributes["pads"] = pads
    return node.call("ConvTranspose", node.value(0), node.value(1), given(node, 3), **attributes)
