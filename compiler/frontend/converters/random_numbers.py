"""Random numbers: RandomUniform, RandomNormal, their Like forms, Bernoulli, Multinomial, and Dropout in training.

Each number is a hash of the node's seed and of its place in the tensor, so that kernels need no state, and results
depend neither on threads nor on the target: a compiled model gives the same numbers in each run. A node without a seed
takes one from its name.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from tvm import ir, relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ...loop_marks import INDEPENDENT
from ..dtypes import dtype_name, is_float
from ..node import Node
from ..values import Dim, constant
from .broadcast import scalar
from .registry import Result, converter
from .runtime_checks import with_sizes
from .runtime_sizes import exprs, int64
from .scatter import size_of

op = relax.op
# Bits of a number in [0, 1): all that float32 can hold.
_BITS = 24
_WIDE_BITS = 26
# Of two rounds of mixing: MurmurHash3's own factors, and others that mix as well.
_FACTORS = ((0x85EBCA6B, 0xC2B2AE35), (0x7FEB352D, 0x846CA68B))


def _word(value: int) -> ir.Expr:
    return tirx.const(value & 0xFFFFFFFF, "uint32")


def _low_word(value: ir.Expr) -> ir.Expr:
    """The lower half of 64 bits: sums and products of 32 bits that do not fit have no defined value in TVM."""
    return tirx.Cast("uint32", tirx.bitwise_and(value, tirx.const(0xFFFFFFFF, str(value.ty.dtype))))


def _bits(node: Node, shape: Sequence[Dim], stream: int) -> relax.Expr:
    """32 random bits for each place of `shape`; streams of a node differ."""
    key = zlib.crc32(struct.pack("<qq", _seed(node), stream))

    def body(_: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
        """The number of the place goes through MurmurHash3's finaliser twice, with other factors the second time.

        Steps are statements on the element itself: as one expression, each would write out the one before it twice.
        """
        bits = T.buffer_proxy(outs[0])
        with IRBuilder() as builder:
            with T.serial(0, size_of(outs[0].shape), annotations=INDEPENDENT) as i:
                bits[i] = _low_word(tirx.bitwise_and(i, int64(0xFFFFFFFF)) + int64(key))
                for factors in _FACTORS:
                    for shift, factor in zip((16, 13), factors, strict=True):
                        mixed = bits[i] ^ tirx.shift_right(bits[i], _word(shift))
                        bits[i] = _low_word(tirx.Cast("uint64", mixed) * tirx.const(factor, "uint64"))
                    bits[i] = bits[i] ^ tirx.shift_right(bits[i], _word(16)) ^ _word(key * 0x2545F491)
            return builder.get()

    def compute(sizes: list[ir.Expr]) -> te.Tensor:
        out = tirx.decl_buffer(sizes, "uint32", "bits", layout=None)
        return te.extern([sizes], [], body, dtype="uint32", out_buffers=[out], name="bits")

    return node.te(compute, exprs(shape), name="random_bits")


def _unit(node: Node, shape: Sequence[Dim], stream: int, dtype: str) -> relax.Expr:
    """Numbers in [0, 1), multiples of 2**-24, or of 2**-52 for float64."""

    def part(stream: int, bits: int) -> relax.Expr:
        drawn = op.right_shift(_bits(node, shape, stream), constant(np.array(32 - bits, np.uint32)))
        return op.multiply(op.astype(drawn, dtype), scalar(2.0**-bits, dtype))

    if dtype != "float64":
        return node.emit(part(stream, _BITS))
    low = op.multiply(part(stream + 1, _WIDE_BITS), scalar(2.0**-_WIDE_BITS, dtype))
    return node.emit(op.add(part(stream, _WIDE_BITS), low))


def _normal(node: Node, shape: Sequence[Dim], dtype: str) -> relax.Expr:
    """By Box and Muller's formula: sqrt(-2 ln u) cos(2 pi v), for u in (0, 1]."""
    first = op.subtract(scalar(1, dtype), _unit(node, shape, 0, dtype))
    radius = op.sqrt(op.multiply(op.log(first), scalar(-2, dtype)))
    return op.multiply(radius, op.cos(op.multiply(_unit(node, shape, 2, dtype), scalar(2 * math.pi, dtype))))


def _seed(node: Node) -> int:
    given = node.attr("seed")
    if given is None:
        return zlib.crc32(node.name.encode())
    return int(struct.unpack("<q", struct.pack("<d", given))[0])


def _drawn(node: Node, shape: Sequence[Dim], dtype: str, normal: bool) -> relax.Expr:
    """A tensor of random numbers: in [low, high), or around a mean."""
    if not is_float(dtype):
        raise node.error(f"expected an element type of floats, found {dtype}")
    work = "float64" if dtype == "float64" else "float32"
    if normal:
        numbers, first, scale = _normal(node, shape, work), node.attr("mean", 0.0), node.attr("scale", 1.0)
    else:
        numbers, first = _unit(node, shape, 0, work), node.attr("low", 0.0)
        scale = node.attr("high", 1.0) - first
    return op.astype(op.add(op.multiply(numbers, scalar(scale, work)), scalar(first, work)), dtype)


def _dtype(node: Node, like: str) -> str:
    """The attribute `dtype`, or that of the input."""
    code = node.attr("dtype")
    name = like if code is None else dtype_name(code)
    if name is None:
        raise node.error(f"dtype {code} is no element type that is known here")
    return name


@converter("RandomUniform")
def random_uniform(node: Node) -> relax.Expr:
    return _drawn(node, _shape(node), _dtype(node, "float32"), normal=False)


@converter("RandomNormal")
def random_normal(node: Node) -> relax.Expr:
    return _drawn(node, _shape(node), _dtype(node, "float32"), normal=True)


def _shape(node: Node) -> list[Dim]:
    shape = node.required("shape")
    if any(size < 0 for size in shape):
        raise node.error(f"shape must have sizes of at least 0, found {shape}")
    return list(shape)


@converter("RandomUniformLike")
def random_uniform_like(node: Node) -> relax.Expr:
    return _drawn(node, node.shape(0), _dtype(node, node.dtype(0)), normal=False)


@converter("RandomNormalLike")
def random_normal_like(node: Node) -> relax.Expr:
    return _drawn(node, node.shape(0), _dtype(node, node.dtype(0)), normal=True)


@converter("Bernoulli", since=15)
def bernoulli(node: Node) -> relax.Expr:
    """1 with the probability that the input has at that place, else 0."""
    chance = node.inputs[0]
    chance = chance if node.dtype(0) == "float64" else op.astype(chance, "float32")
    numbers = _drawn(node, node.shape(0), "float64" if node.dtype(0) == "float64" else "float32", normal=False)
    return op.astype(op.less(numbers, chance), _dtype(node, node.dtype(0)))


@converter("Multinomial", since=7)
def multinomial(node: Node) -> relax.Expr:
    """Classes drawn by unnormalised logarithms of probabilities: the largest after adding -log(-log u) to each."""
    dtype, count = _dtype(node, "int32"), node.attr("sample_size", 1)
    if dtype not in ("int32", "int64"):
        raise node.error(f"dtype must be int32 or int64, found {dtype}")
    if node.rank(0) != 2 or count < 1:
        raise node.error(f"expected rows of classes and samples, found shape {node.shape(0)} and {count} samples")

    rows, classes = node.shape(0)
    # Half a step above 0, so that neither logarithm is infinite.
    unit = op.add(_unit(node, [rows, count, classes], 0, "float32"), scalar(2.0 ** -(_BITS + 1), "float32"))
    noise = op.negative(op.log(op.negative(op.log(unit))))
    scores = op.add(op.expand_dims(op.astype(node.inputs[0], "float32"), 1), noise)
    return op.astype(op.argmax(scores, axis=2), dtype)


@converter("Dropout")
def dropout(node: Node) -> tuple[Result, ...]:
    """Nothing at inference. In training elements are zero with the probability `ratio`, others scaled to make up for
    them; the mask says which are kept."""
    training, ratio = node.const(2), node.const(1)
    trains = node.has(2) and (training is None or bool(training.reshape(-1)[0]))
    if trains and (ratio is None or ratio.reshape(-1)[0] != 0):
        return _dropout_in_training(node)
    if node.num_outputs < 2:
        return (node.inputs[0],)
    dtype = "bool" if node.opset >= 10 else node.dtype(0)
    return node.inputs[0], op.full(node.shape(0), scalar(1, dtype), dtype)


def _dropout_in_training(node: Node) -> tuple[relax.Expr, relax.Expr]:
    """With a flag and a ratio that may be data; without training, or with ratio 0, all is kept as it is."""
    dtype = node.dtype(0)
    work = "float64" if dtype == "float64" else "float32"
    zero, one = scalar(0, work), scalar(1, work)
    ratio = op.astype(_scalar(node, 1), work) if node.has(1) else scalar(0.5, work)
    ratio = node.emit(op.where(_scalar(node, 2), ratio, zero))
    mask = node.emit(op.greater_equal(_drawn(node, node.shape(0), work, normal=False), ratio))
    scaled = op.multiply(op.astype(node.inputs[0], work), op.divide(one, op.subtract(one, ratio)))
    return node.emit(op.astype(op.where(mask, scaled, zero), dtype)), mask


def _scalar(node: Node, index: int) -> relax.Expr:
    """Input `index`, which has one element, without dimensions; ModelError where it has another number of them."""
    single = with_sizes(node, index, dict.fromkeys(range(node.rank(index)), 1))
    return op.reshape(single, relax.ShapeExpr([]))
