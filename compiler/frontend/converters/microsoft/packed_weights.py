"""Weights of 2, 4 and 8 bits, several to a byte, with a scale for each block: MatMulNBits, MatMulBnb4, and embeddings.

Weights of a product that are constants become numbers of the operand's type when the model is compiled, and take as
much room in the artifact. The table of an embedding, of which a run reads a few rows, stays packed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import ir, relax, te, tirx

from ....element_types import CARRIED
from ...dtypes import numpy_dtype
from ...narrow_types import decoded
from ...values import Dim, Value, constant
from ..data_movement import index_at, require_inside
from ..schemas import typed_converter
from .operands import cast, emitted, one_of

if TYPE_CHECKING:
    from ...node import Node

_FLOATS = "float32 float16 bfloat16"
WIDTHS = (2, 4, 8)


def unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """The numbers in bytes, as many along the last axis as there are, the first in the lowest bits."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape(*packed.shape[:-1], -1)


def _size(node: Node, name: str, *, least: int = 1) -> int:
    value = node.required(name)
    if value < least:
        raise node.error(f"attribute {name!r} must be at least {least}, found {value}")
    return value


def _block(node: Node) -> int:
    block = _size(node, "block_size", least=16)
    if block & (block - 1):
        raise node.error(f"attribute 'block_size' must be a power of two, found {block}")
    return block


def _elements(node: Node, index: int, *shape: int) -> Any:
    """Input `index` in another shape, of as many elements: an array where it is known, else an expression; None where
    it is left out."""
    if not node.has(index):
        return None
    found = node.shape(index)
    if any(not isinstance(s, int) for s in found) or math.prod(found) != math.prod(shape):
        raise node.error(f"input {index} needs shape {list(shape)}, found {found}")
    known = node.const(index)
    return known.reshape(shape) if known is not None else node.emit(relax.op.reshape(node.inputs[index], list(shape)))


@typed_converter(
    "MatMulNBits",
    "A:T B:uint8 scales:T zero_points:Z? g_idx:int32? bias:T?",
    attributes="K:int N:int accuracy_level:int bits:int block_size:int weight_prepacked:int",
    T=_FLOATS,
    Z=f"uint8 {_FLOATS}",
)
def matmul_nbits(node: Node) -> Value:
    """A (..., K) times the transpose of the N rows of weights, which are packed block by block along K.

    Accuracy levels allow A to be rounded; it is not.
    """
    n, k, block = _size(node, "N"), _size(node, "K"), _block(node)
    bits = one_of(node, "bits", WIDTHS, 4)
    if node.attr("weight_prepacked", 0):
        raise node.error(
            "attribute 'weight_prepacked' is set: weights in an order of another runtime are not supported"
        )
    blocks = -(-k // block)
    packed = _elements(node, 1, n, blocks * block * bits // 8)
    scales = _elements(node, 2, n, blocks)
    of_bytes = node.has(3) and node.dtype(3) == "uint8"
    points = _elements(node, 3, n, -(-blocks * bits // 8) if of_bytes else blocks)
    groups = _elements(node, 4, k)
    given = (packed, scales, points, groups)
    weights = _known_weights if all(x is None or isinstance(x, np.ndarray) for x in given) else _weights_of_run
    matrix = weights(node, (n, k, block, bits), packed, scales, points, groups)
    product = node.call("MatMul", node.value(0), matrix)
    if not node.has(5):
        return product
    if node.shape(5) != [n]:
        raise node.error(f"input 5, the bias, needs shape [{n}], found {node.shape(5)}")
    return node.call("Add", product, node.value(5))


def _known_weights(
    node: Node,
    sizes: tuple[int, int, int, int],
    packed: np.ndarray,
    scales: np.ndarray,
    points: np.ndarray | None,
    groups: np.ndarray | None,
) -> Value:
    """(K, N), from constants."""
    _, k, block, bits = sizes
    numbers = unpacked(packed, bits)[:, :k].astype(np.float32)
    blocks = scales.shape[1]
    if points is None:
        zeros = np.full_like(scales, 1 << (bits - 1), np.float32)
    else:
        zeros = unpacked(points, bits)[:, :blocks] if points.dtype == np.uint8 else points
    if groups is not None and groups.size and not (groups.min() >= 0 and groups.max() < blocks):
        raise node.error(f"input 4, the groups, must be at least 0 and less than {blocks}")
    at = np.arange(k) // block if groups is None else groups
    weights = (numbers - zeros.astype(np.float32)[:, at]) * scales.astype(np.float32)[:, at]
    return Value(array=np.ascontiguousarray(weights.T).astype(numpy_dtype(node.dtype(0))))


def _weights_of_run(
    node: Node,
    sizes: tuple[int, int, int, int],
    packed: np.ndarray | relax.Expr,
    scales: np.ndarray | relax.Expr,
    points: np.ndarray | relax.Expr | None,
    groups: np.ndarray | relax.Expr | None,
) -> Value:
    """(K, N), of which a part is data: unpacked in each run."""
    n, k, block, bits = sizes
    operands = {"packed": packed, "scales": scales, "points": points, "groups": groups}
    named = {name: x for name, x in operands.items() if x is not None}

    def compute(*tensors: te.Tensor) -> te.Tensor:
        of = dict(zip(named, tensors, strict=True))

        def element(row: tirx.Var, column: tirx.Var) -> ir.Expr:
            blocks = of["scales"].shape[1]
            at = index_at(of["groups"](row), blocks) if "groups" in of else tirx.floordiv(row, block)
            zero: ir.Expr = tirx.const(1 << (bits - 1), "float32")
            if "points" in of:
                plain = of["points"].dtype != "uint8"
                zero = of["points"](column, at) if plain else _code(of["points"], (column, at), bits)
            number = _code(of["packed"], (column, row), bits).astype("float32") - zero.astype("float32")
            return number * of["scales"](column, at).astype("float32")

        return te.compute((k, n), element, name="weights")

    arguments = [constant(x) if isinstance(x, np.ndarray) else x for x in named.values()]
    return cast(node, emitted(node, node.te(compute, *arguments, name="unpack")), node.dtype(0))


def _code(packed: te.Tensor, at: tuple, bits: int) -> ir.Expr:
    """Element `at` of numbers that are packed along the last axis."""
    if bits == 8:
        return packed(*at)
    index, each = at[-1], 8 // bits
    byte = packed(*at[:-1], tirx.floordiv(index, each))
    shift = (tirx.floormod(index, each) * bits).astype("uint8")
    return (byte >> shift) & tirx.const((1 << bits) - 1, "uint8")


# What the codes of 4 bits stand for, by the attribute quant_type: floats of 4 bits (of whose magnitudes the last three
# bits tell), and the quantiles of a normal distribution of https://arxiv.org/abs/2305.14314, appendix E.
_FP4 = (0.0, 0.0052083333, 2 / 3, 1.0, 1 / 3, 0.5, 1 / 6, 0.25)
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_BNB4 = {0: (*_FP4, *(-x for x in _FP4)), 1: _NF4}


@typed_converter(
    "MatMulBnb4",
    "A:T B:uint8 absmax:T",
    attributes="K:int N:int block_size:int quant_type:int training_mode:int transB:int",
    T=_FLOATS,
)
def matmul_bnb4(node: Node) -> Value:
    """A (..., K) times the transpose of N rows of weights; blocks run over all of them, the first of a byte is high."""
    n, k, block = _size(node, "N"), _size(node, "K"), _block(node)
    node.required("quant_type")
    numbers = np.array(_BNB4[one_of(node, "quant_type", tuple(_BNB4), 0)], np.float32)
    if not node.attr("transB", 1):
        raise node.error("attribute 'transB' must be 1, found 0")
    packed = _elements(node, 1, (n * k + 1) // 2)
    largest = _elements(node, 2, -(-n * k // block))
    if not isinstance(packed, np.ndarray) or not isinstance(largest, np.ndarray):
        raise node.error("inputs 1 and 2, the weights and their scales, must be constants")
    codes = np.stack([packed >> 4, packed & 15], -1).reshape(-1)[: n * k]
    weights = numbers[codes] * np.repeat(largest.astype(np.float32), block)[: n * k]
    return node.call("MatMul", node.value(0), weights.reshape(n, k).T.astype(numpy_dtype(node.dtype(0))))


@typed_converter(
    "GatherBlockQuantized",
    "data:D indices:I scales:T zero_points:D?",
    attributes="bits:int block_size:int gather_axis:int quantize_axis:int",
    D="uint8 int4 uint4",
    I="int32 int64",
    T=_FLOATS,
)
def gather_block_quantized(node: Node) -> relax.Expr:
    """Elements of `data` along one axis, as the indices name them, less their zero points and times their scales.

    Bytes hold numbers of `bits` bits, packed along the last axis; so are zero points. An index that a run gives is
    clamped to its axis.
    """
    block, dtype = _size_or(node, "block_size", 128), node.dtype(0)
    bits = 8 if dtype in CARRIED else one_of(node, "bits", WIDTHS, 4)
    shape = node.shape(0)
    if not shape:
        raise node.error("input 0 needs at least 1 dimension")
    shape[-1] = node.symbols.simplify(shape[-1] * (8 // bits))
    axis = node.axis(node.attr("gather_axis", 0), len(shape))
    blocked = node.axis(node.attr("quantize_axis", 1), len(shape))
    _check_blocks(node, shape, blocked, block, bits)
    require_inside(node, node.const(1), shape[axis], f"axis {axis} of input 0")
    rank = node.rank(1)
    default = 0 if dtype in CARRIED else 1 << (bits - 1)

    def compute(data: te.Tensor, where: te.Tensor, scales: te.Tensor, *points: te.Tensor) -> te.Tensor:
        whole = [*data.shape[:-1], data.shape[-1] * (8 // bits)]

        def element(*i: tirx.Var) -> ir.Expr:
            at = [*i[:axis], index_at(where(*i[axis : axis + rank]), whole[axis]), *i[axis + rank :]]
            own = [tirx.floordiv(p, block) if a == blocked else p for a, p in enumerate(at)]
            zero = _number(points[0], own, bits, dtype) if points else tirx.const(default, "int32")
            number = (_number(data, at, bits, dtype) - zero).astype("float32")
            return (number * scales(*own).astype("float32")).astype(scales.dtype)

        return te.compute([*whole[:axis], *where.shape, *whole[axis + 1 :]], element, name="rows")

    inputs = [node.inputs[i] for i in range(4) if node.has(i)]
    return node.te(compute, *inputs, name="gather_block_quantized")


def _size_or(node: Node, name: str, default: int) -> int:
    return default if node.attr(name) is None else _block(node)


def _check_blocks(node: Node, shape: list[Dim], blocked: int, block: int, bits: int) -> None:
    """Scales, and zero points where there are any, have one number for each block of `blocked`."""
    if not isinstance(shape[blocked], int):
        raise node.error(f"axis {blocked} of input 0, which has the blocks, must be fixed, found {shape[blocked]}")
    wanted = [-(-size // block) if axis == blocked else size for axis, size in enumerate(shape)]
    packed = [*wanted[:-1], -(-wanted[-1] * bits // 8) if bits < 8 and isinstance(wanted[-1], int) else wanted[-1]]
    for index, expected in ((2, wanted), (3, packed)):
        if node.has(index) and not node.symbols.same_shape(node.shape(index), expected):
            raise node.error(f"input {index} needs shape {expected} for blocks of {block}, found {node.shape(index)}")


def _number(codes: te.Tensor, at: list, bits: int, dtype: str) -> ir.Expr:
    """One element as int32."""
    return (decoded(codes(*at), dtype) if dtype in CARRIED else _code(codes, tuple(at), bits)).astype("int32")
