"""The operators that random models consist of: each function adds one operator, or a common group of them, to a model.

A function takes the maker and a value, and returns a new value, or None where it has nothing valid to add.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from random_convolutions import CONVOLUTIONAL, CONVOLUTIONAL_2D
from random_models import Maker, Value

Operator = Callable[[Maker, Value], "Value | None"]

UNARY = (
    *("Abs", "Atan", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "LeakyRelu", "Mish", "Neg", "Relu", "Relu", "Relu", "Selu", "Sigmoid"),
    *("Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh", "ThresholdedRelu"),
)
# Steps of these turn rounding errors into errors of size one: they see inputs only.
JUMPS = {"Ceil", "Floor", "Sign", "ThresholdedRelu"}


def add_operator(maker: Maker) -> None:
    """Append one random operator on one of the values, newer ones more likely."""
    for _ in range(20):
        recent = max(0, len(maker.values) - maker.pick(1, 1, 1, 2, 4))
        value = maker.values[maker.int(recent, len(maker.values) - 1)]
        table = [*BY_RANK.get(value.rank, ()), *ANY_RANK] if value.rank else [unary, positive, with_constant, binary]
        made = maker.pick(*table)(maker, value)
        if made is not None:
            maker.values.append(made)
            return


def unary(m: Maker, x: Value) -> Value | None:
    op = m.pick(*UNARY)
    if op in JUMPS and not x.name.startswith("x"):
        return None
    if op == "Exp":
        x = clip(m, x)
    return m.node(op, [x])


def clip(m: Maker, x: Value) -> Value | None:
    low, high = (m.constant(np.array(v, np.float32)) for v in m.pick((0, 6), (-1, 1), (-0.5, 0.25)))
    return m.node("Clip", [x, *m.pick([low, high], [low], ["", high])])


def positive(m: Maker, x: Value) -> Value | None:
    """Functions of positive numbers only."""
    shifted = m.node("Add", [m.node("Abs", [x]), m.constant(np.array(1.0, np.float32))])
    return m.node(m.pick("Sqrt", "Log", "Reciprocal"), [shifted])


def prelu(m: Maker, x: Value) -> Value | None:
    channels = x.fixed(1) if x.rank > 1 else None
    return m.node("PRelu", [x, m.weights(channels, *[1] * (x.rank - 2))]) if channels else None


def swish(m: Maker, x: Value) -> Value | None:
    return m.node("Mul", [x, m.node("Sigmoid", [x])])


def gelu(m: Maker, x: Value) -> Value | None:
    half, one, root = (m.constant(np.array(v, np.float32)) for v in (0.5, 1, 2**0.5))
    erf = m.node("Erf", [m.node("Div", [x, root])])
    return m.node("Mul", [m.node("Mul", [x, m.node("Add", [erf, one])]), half])


def with_constant(m: Maker, x: Value) -> Value | None:
    """A scalar, something per channel, or any broadcast."""
    shape = [x.fixed(a) or 1 for a in range(x.rank)]
    kept = [d if m.chance(0.5) else 1 for d in shape]
    cut = m.int(0, x.rank)
    constant = m.weights(*kept[cut:])
    return m.node(m.pick("Add", "Mul", "Sub", "Max", "Min"), m.pick([x, constant], [constant, x]))


def binary(m: Maker, x: Value) -> Value | None:
    other = m.pick(*m.values)
    return m.node(m.pick("Add", "Add", "Mul", "Sub", "Max", "Min", "Mean"), [x, other])


def divide(m: Maker, x: Value) -> Value | None:
    other = m.node("Add", [m.node("Abs", [m.pick(*m.values)]), m.constant(np.array(1.0, np.float32))])
    return m.node("Div", [x, other])


def where(m: Maker, x: Value) -> Value | None:
    """Mask by a comparison of inputs, on which rounding has no influence."""
    asked = m.node(m.pick("Greater", "Less"), [m.values[0], m.constant(np.array(0.1, np.float32))])
    other = m.pick(m.constant(np.array(-3.0, np.float32)), *m.values)
    return m.node("Where", [asked, *m.pick([x, other], [other, x])])


def concat(m: Maker, x: Value) -> Value | None:
    others = [v for v in m.values if v.rank == x.rank]
    axis = m.int(-x.rank, x.rank - 1)
    return m.node("Concat", [x, *(m.pick(*others) for _ in range(m.int(1, 2)))], axis=axis)


def split(m: Maker, x: Value) -> Value | None:
    axes = [a for a in range(x.rank) if (x.fixed(a) or 0) > 1]
    if not axes:
        return None
    axis = m.pick(*axes)
    cut = m.int(1, x.fixed(axis) - 1)
    parts = m.node_of(2, "Split", [x, m.constant([cut, x.fixed(axis) - cut])], axis=axis)
    m.values += parts[:1]
    return parts[1] if parts else None


def slice_(m: Maker, x: Value) -> Value | None:
    axis = m.int(0, x.rank - 1)
    low = min(s[axis] for s in x.shapes)
    start, step = m.int(0, low - 1), m.pick(1, 1, 2)
    end = m.pick(2**31, m.int(start + 1, max(start + 1, low)), -1)
    bounds = [[start], [end], [axis], [step]]
    if m.chance(0.1):
        bounds = [[-1], [-(2**31)], [axis], [-1]]
    return m.node("Slice", [x, *(m.constant(b) for b in bounds)])


def gather(m: Maker, x: Value) -> Value | None:
    axis = m.int(0, x.rank - 1)
    low = min(s[axis] for s in x.shapes)
    indices = m.pick(np.array(m.int(0, low - 1)), np.array(m.ints(m.int(1, 4), -low, low - 1)))
    return m.node("Gather", [x, m.constant(indices.astype(np.int64))], axis=axis)


def reduce(m: Maker, x: Value) -> Value | None:
    op = m.pick("Mean", "Mean", "Sum", "Max", "Min", "L2", "SumSquare", "L1", "LogSumExp")
    axes = m.constant(sorted(set(m.ints(m.int(1, x.rank), 0, x.rank - 1))))
    return m.node(f"Reduce{op}", [x, axes], keepdims=m.int(0, 1))


def softmax(m: Maker, x: Value) -> Value | None:
    return m.node(m.pick("Softmax", "Softmax", "LogSoftmax"), [x], axis=m.int(-x.rank, x.rank - 1))


def transpose(m: Maker, x: Value) -> Value | None:
    return m.node("Transpose", [x], perm=[int(a) for a in m.rng.permutation(x.rank)])


def reshape(m: Maker, x: Value) -> Value | None:
    """Two neighbours merged, one axis split, or all but one flattened."""
    dims = [0 if x.fixed(a) is None else x.fixed(a) for a in range(x.rank)]
    axis = m.int(0, x.rank - 1)
    size = x.fixed(axis)
    if size and m.chance(0.5):
        factors = [d for d in range(1, size + 1) if size % d == 0]
        factor = m.pick(*factors)
        if x.rank < 5 and 0 not in dims[axis:]:
            return m.node("Reshape", [x, m.constant([*dims[:axis], factor, size // factor, *dims[axis + 1 :]])])
    if axis + 1 < x.rank and 0 not in dims[axis + 2 :]:
        return m.node("Reshape", [x, m.constant([*dims[:axis], -1, *dims[axis + 2 :]])])
    return m.node("Flatten", [x], axis=axis)


def flatten_by_shape(m: Maker, x: Value) -> Value | None:
    return m.reshape_by_shape(x, m.int(1, x.rank - 1)) if x.rank > 1 else None


def squeeze(m: Maker, x: Value) -> Value | None:
    if m.chance(0.4) and x.rank < 5:
        return m.node("Unsqueeze", [x, m.constant([m.int(0, x.rank)])])
    ones = [a for a in range(x.rank) if x.fixed(a) == 1]
    return m.node("Squeeze", [x, m.constant([m.pick(*ones)])]) if ones and x.rank > 1 else None


def pad(m: Maker, x: Value) -> Value | None:
    widths = [m.pick(0, 0, 1, 2) if a >= x.rank - 2 else m.pick(0, 0, 0, 1) for a in range(x.rank)]
    ends = [m.pick(0, w, 1) if w else 0 for w in widths]
    mode = m.pick("constant", "constant", "reflect", "edge")
    if mode == "reflect" and any(max(w, e) >= s for sh in x.shapes for w, e, s in zip(widths, ends, sh, strict=True)):
        return None
    value = [m.constant(np.array(m.pick(0.0, 0.5), np.float32))] if mode == "constant" else []
    return m.node("Pad", [x, m.constant([*widths, *ends]), *value], mode=mode)


def tile(m: Maker, x: Value) -> Value | None:
    repeats = [m.pick(1, 1, 2) for _ in range(x.rank)]
    return m.node("Tile", [x, m.constant(repeats)])


def expand(m: Maker, x: Value) -> Value | None:
    return m.node("Expand", [x, m.constant([m.pick(1, 2) if s == 1 else 1 for s in x.shape])])


def layer_norm(m: Maker, x: Value) -> Value | None:
    size = x.fixed(-1)
    if not size or size < 2:
        return None
    return m.node("LayerNormalization", [x, m.weights(size), m.weights(size)][: m.int(2, 3)], epsilon=0.01)


def written_layer_norm(m: Maker, x: Value) -> Value | None:
    size = x.fixed(-1)
    if not size or size < 2:
        return None
    centred = m.node("Sub", [x, m.node("ReduceMean", [x, m.constant([-1])])])
    two, epsilon = m.constant(np.array(2.0, np.float32)), m.constant(np.array(0.01, np.float32))
    variance = m.node("ReduceMean", [m.node("Pow", [centred, two]), m.constant([-1])])
    deviation = m.node("Sqrt", [m.node("Add", [variance, epsilon])])
    normal = m.node("Div", [centred, deviation])
    return m.node("Add", [m.node("Mul", [normal, m.weights(size)]), m.weights(size)])


# Matrices


def matmul(m: Maker, x: Value) -> Value | None:
    depth = x.fixed(-1) if x.rank > 1 else None
    return m.node("MatMul", [x, m.weights(depth, m.int(1, 40), fan_in=depth)]) if depth else None


def batched_matmul(m: Maker, x: Value) -> Value | None:
    """With constant matrices for each batch, or constant on the left."""
    depth, rows = x.fixed(-1), x.fixed(-2) if x.rank > 1 else None
    if rows and m.chance(0.5):
        return m.node("MatMul", [m.weights(m.int(1, 9), rows, fan_in=rows), x])
    batch = x.fixed(-3) if x.rank > 2 else None
    if not depth or not batch:
        return None
    return m.node("MatMul", [x, m.weights(batch, depth, m.int(1, 20), fan_in=depth)])


def matmul_of_values(m: Maker, x: Value) -> Value | None:
    if x.rank < 2:
        return None
    other = m.pick(*m.values)
    if other.rank > 1 and m.chance(0.6):
        other = m.node("Transpose", [other], perm=[*range(other.rank - 2), other.rank - 1, other.rank - 2])
    return scaled(m, m.node("MatMul", [x, other]), x.shape[-1])


def scaled(m: Maker, x: Value | None, depth: int) -> Value | None:
    return m.node("Mul", [x, m.constant(np.array(1 / np.sqrt(depth), np.float32))]) if x else None


def gemm(m: Maker, x: Value) -> Value | None:
    depth = x.fixed(1)
    if not depth:
        return None
    n, transposed = m.int(1, 70), m.int(0, 1)
    shape = (n, depth) if transposed else (depth, n)
    bias = m.pick([], [m.weights(n)], [m.weights(1)], [m.weights(1, n)])
    return m.node(
        "Gemm", [x, m.weights(*shape, fan_in=depth), *bias], transB=transposed, alpha=0.5, beta=m.pick(1.0, 2.0)
    )


def attention(m: Maker, x: Value) -> Value | None:
    """Projections, heads, scores, softmax, weighted sum, heads joined, projection, residual."""
    width, heads = x.fixed(2), m.pick(1, 2, 3)
    if not width or width % heads:
        return None

    def project(to: str) -> Value | None:
        y = m.node("Add", [m.node("MatMul", [x, m.weights(width, width, fan_in=width)]), m.weights(width)])
        y = m.node("Reshape", [y, m.constant([0, -1, heads, width // heads])])
        return m.node("Transpose", [y], perm=[0, 2, 3, 1] if to == "k" else [0, 2, 1, 3])

    scores = m.node("MatMul", [scaled(m, project("q"), width // heads), project("k")])
    mixed = m.node("MatMul", [m.node("Softmax", [scores], axis=-1), project("v")])
    joined = m.node("Reshape", [m.node("Transpose", [mixed], perm=[0, 2, 1, 3]), m.constant([0, -1, width])])
    return m.node("Add", [x, m.node("MatMul", [joined, m.weights(width, width, fan_in=width)])])


ANY_RANK: tuple[Operator, ...] = (
    *(unary, unary, unary, unary, clip, positive, prelu, swish, gelu, with_constant, with_constant),
    *(binary, binary, divide, where, concat, concat, split, slice_, gather, reduce, softmax, transpose),
    *(reshape, reshape, flatten_by_shape, squeeze, pad, tile, expand, layer_norm, written_layer_norm),
    *(matmul, batched_matmul, matmul_of_values),
)
BY_RANK: dict[int, tuple[Operator, ...]] = {
    2: (gemm, gemm, gemm, gemm),
    3: (*CONVOLUTIONAL, attention, attention, attention, layer_norm, layer_norm, matmul, matmul, matmul),
    4: (*CONVOLUTIONAL, *CONVOLUTIONAL, *CONVOLUTIONAL_2D),
}
