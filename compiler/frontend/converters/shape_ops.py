"""Operators that rearrange a tensor's dimensions without computing: reshapes, transposes, broadcasts and tiles.

Everything that only regroups elements becomes `reshape`, so that passes have one operator to reason about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import ir, relax, te, tirx

from ...element_types import CARRIED, CARRIER
from ..node import Node
from ..symbols import OpenSqueezeError, Squeezed, as_expr, dim_text
from ..values import Dim
from .broadcast import fit
from .registry import Carried, converter

op = relax.op


def required_dims(node: Node, index: int, what: str) -> list[Dim]:
    """The integers of input `index`; ModelError when they depend on the data of a run."""
    dims = node.dims(index)
    if dims is None:
        raise node.error(
            f"{what} must be known at compile time or follow from tensor shapes, but input {index} is data"
        )
    return dims


def axes_of(node: Node, index: int = 1, rank: int | None = None) -> list[int] | None:
    """`axes`, an attribute in old opsets and input `index` in new ones, counted from the front; None when absent."""
    if node.has(index):
        axes = required_dims(node, index, "axes")
        if not all(isinstance(a, int) for a in axes):
            raise node.error("axes must be fixed numbers")
    else:
        axes = node.attr("axes")
    if axes is None:
        return None
    rank = node.rank(0) if rank is None else rank
    result = [node.axis(a, rank) for a in axes]
    if len(set(result)) < len(result):
        raise node.error(f"axes {list(axes)} name an axis twice")
    return result


def reshaped(node: Node, x: relax.Expr, shape: Sequence[Dim]) -> relax.Expr:
    """`x` itself when it already has `shape`."""
    if node.symbols.same_shape(node.shape(0), shape):
        return x
    if any(_is(d, 0) for d in shape):
        return op.zeros(list(shape), node.dtype(0))
    # A list would give 0 and -1 a meaning.
    return op.reshape(x, relax.ShapeExpr([as_expr(d) for d in shape]))


@converter("Reshape", since=1)
def reshape(node: Node) -> relax.Expr:
    """0 copies the input's size (unless `allowzero`), -1 takes what is left."""
    target = node.attr("shape") if node.opset < 5 and not node.has(1) else required_dims(node, 1, "the shape")
    if target is None:
        raise node.error("a shape is required and was not found")
    shape = node.shape(0)
    if not node.attr("allowzero", 0):
        if any(_is(d, 0) and axis >= len(shape) for axis, d in enumerate(target)):
            raise node.error(f"shape {[str(d) for d in target]} copies a size that an input of rank {len(shape)} lacks")
        target = [shape[axis] if _is(d, 0) else d for axis, d in enumerate(target)]
    unknown = [axis for axis, d in enumerate(target) if _is(d, -1)]
    if len(unknown) > 1 or any(isinstance(d, int) and d < -1 for d in target):
        raise node.error(f"shape {[str(d) for d in target]} is not valid: expected sizes, and at most one -1")
    if unknown:
        target[unknown[0]] = _remaining(node, shape, [d for d in target if not _is(d, -1)])
    else:
        _check_count(node, shape, target)
    return reshaped(node, node.inputs[0], target)


def _is(dim: Dim, value: int) -> bool:
    return isinstance(dim, int) and dim == value


def _check_count(node: Node, shape: list[Dim], target: list[Dim]) -> None:
    """The same number of elements before and after; where that depends, a run checks it."""
    left, right = _cancel(node, shape, target)
    count, wanted = product(left), product(right)
    text = f"{_text(shape)} cannot be reshaped to {_text(target)}"
    equal = node.symbols.equal(count, wanted) if _fits(left) and _fits(right) else False
    if equal is False:
        raise node.error(text)
    if equal is None:
        # In 64 bits a product can wrap around to the wanted number: in floating point it is seen to be too large.
        bounded = [_as_float(part) < tirx.const(_MOST_ELEMENTS, "float64") for part in (left, right)]
        same = tirx.EQ(as_expr(count), as_expr(wanted))
        names = f"`{_text(shape)}` must have as many elements as `{_text(target)}`"
        node.symbols.require(tirx.all(*bounded, same), f"{names} for {node.op_type} node {node.name!r}")


# More than any memory holds, and few enough that the product of such a number and its rounding stays inside int64.
_MOST_ELEMENTS = 2.0**62


def _fits(dims: Sequence[Dim]) -> bool:
    return math.prod(d for d in dims if isinstance(d, int)) < _MOST_ELEMENTS


def _as_float(dims: Sequence[Dim]) -> ir.Expr:
    """The product of `dims` in floating point."""
    result: ir.Expr = tirx.const(float(math.prod(d for d in dims if isinstance(d, int))), "float64")
    for dim in dims:
        if not isinstance(dim, int):
            result = result * tirx.Cast("float64", dim)
    return result


def _text(dims: Sequence[Dim]) -> str:
    return f"[{', '.join(str(dim_text(d)) for d in dims)}]"


def _cancel(node: Node, shape: Sequence[Dim], target: Sequence[Dim]) -> tuple[list[Dim], list[Dim]]:
    """The sizes of both without the symbolic ones that occur in both."""
    left, right = list(shape), []
    for dim in target:
        match = next((i for i, d in enumerate(left) if not isinstance(d, int) and node.symbols.equal(d, dim)), None)
        if match is None:
            right.append(dim)
        else:
            del left[match]
    return left, right


def _remaining(node: Node, shape: list[Dim], known: list[Dim]) -> Dim:
    """The size that -1 stands for."""
    left, right = _cancel(node, shape, known)
    total, divisor = product(left), product(right)
    if isinstance(divisor, int) and divisor == 0:
        raise node.error("a -1 beside a size 0 does not say how large the dimension is")
    if isinstance(total, int) and isinstance(divisor, int) and total % divisor:
        raise node.error(f"{[str(d) for d in shape]} cannot be reshaped: {total} elements do not divide by {divisor}")
    what = f"the elements that a -1 beside {_text(known)} shares out"
    divisor = node.divisor(divisor, what)
    node.require_multiple(total, divisor, what)
    return node.symbols.floordiv(total, divisor)


def product(dims: Sequence[Dim]) -> Dim:
    result: Dim = 1
    for dim in dims:
        result = dim if isinstance(result, int) and result == 1 else result * dim
    return result


@converter("Flatten")
def flatten(node: Node) -> relax.Expr:
    shape = node.shape(0)
    axis = node.attr("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise node.error(f"axis {axis} is out of range for {len(shape)} dimensions")
    axis = axis + len(shape) if axis < 0 else axis
    sizes = [node.symbols.simplify(product(part)) for part in (shape[:axis], shape[axis:])]
    return reshaped(node, node.inputs[0], sizes)


@converter("Squeeze")
def squeeze(node: Node) -> relax.Expr:
    axes, shape = axes_of(node), node.shape(0)
    if axes is None:
        axes = _axes_to_squeeze(node, shape)
    wrong = next((a for a in axes if isinstance(shape[a], int) and shape[a] != 1), None)
    if wrong is not None:
        raise node.error(f"axis {wrong} has size {shape[wrong]}, expected 1")
    for axis in axes:
        node.require_equal(shape[axis], 1, f"axis {axis} of input 0")
    return reshaped(node, node.inputs[0], [d for axis, d in enumerate(shape) if axis not in axes])


def _axes_to_squeeze(node: Node, shape: Sequence[Dim]) -> list[int]:
    """The axes of size 1; those of open sizes by `Symbols.squeezed`, behind a check when the model runs."""
    open_axes = [axis for axis, d in enumerate(shape) if not isinstance(d, int)]
    known = node.symbols.squeezed is not Squeezed.UNKNOWN and all(node.symbols.named(shape[a]) for a in open_axes)
    if open_axes and not known:
        text = (
            f"axes are required where the size of an axis is open: whether axis {open_axes[0]} "
            f"({dim_text(shape[open_axes[0]])}) stays would depend on each run"
        )
        raise OpenSqueezeError(node.error(text).message, "fix that size with `inputs`")
    if node.symbols.squeezed is Squeezed.KEPT:
        for axis in open_axes:
            node.require_at_least(shape[axis], 2, f"axis {axis} of input 0, which stays")
        open_axes = []
    return [axis for axis, d in enumerate(shape) if _is(d, 1) or axis in open_axes]


@converter("Unsqueeze")
def unsqueeze(node: Node) -> relax.Expr:
    shape = node.shape(0)
    given = node.dims(1) if node.has(1) else node.attr("axes")
    if given is None:
        raise node.error("axes must be known at compile time")
    axes = axes_of(node, 1, len(shape) + len(given)) or []
    rest = iter(shape)
    return reshaped(node, node.inputs[0], [1 if i in axes else next(rest) for i in range(len(shape) + len(axes))])


@converter("Transpose")
def transpose(node: Node) -> relax.Expr:
    rank = node.rank(0)
    perm = node.attr("perm", list(reversed(range(rank))))
    if sorted(perm) != list(range(rank)):
        raise node.error(f"perm {perm} is not a permutation of {rank} axes")
    return node.inputs[0] if perm == list(range(rank)) else op.permute_dims(node.inputs[0], perm)


@converter("Expand", since=8)
def expand(node: Node) -> relax.Expr:
    """Broadcast in both directions: a 1 in the target keeps the input's size."""
    target = required_dims(node, 1, "the shape")
    shape = node.shape(0)
    rank = max(len(shape), len(target))
    old, new = ([1] * (rank - len(s)) + list(s) for s in (shape, target))
    sizes = [_expanded(node, a, b) for a, b in zip(old, new, strict=True)]
    if node.symbols.same_shape(shape, sizes):
        return node.inputs[0]
    return op.broadcast_to(fit(node, node.inputs[0], sizes), sizes)


def _expanded(node: Node, old: Dim, new: Dim) -> Dim:
    if _is(new, 1):
        return old
    if _is(old, 1):
        return new
    if isinstance(old, int) and isinstance(new, int) and old != new:
        raise node.error(f"size {old} does not broadcast to {new}")
    return old if isinstance(old, int) else new


@converter("Tile", since=1)
def tile_one_axis(node: Node) -> relax.Expr:
    """In opset 1 the inputs were the number of tiles and the axis."""
    (tiles,), (axis,) = required_dims(node, 1, "tiles"), required_dims(node, 2, "axis")
    return _tile(node, [tiles if a == axis else 1 for a in range(node.rank(0))])


@converter("Tile", since=6)
def tile(node: Node) -> relax.Expr:
    repeats = required_dims(node, 1, "repeats")
    if len(repeats) != node.rank(0):
        raise node.error(f"{len(repeats)} repeats are given for {node.rank(0)} dimensions")
    for axis, count in enumerate(repeats):
        node.require_at_least(count, 0, f"the repeats of axis {axis}")
        if isinstance(count, int) and count >= 2**31:
            raise node.error(f"expected fewer than 2^31 repeats of axis {axis}, found {count}")
    return _tile(node, repeats)


def _tile(node: Node, repeats: list[Dim]) -> relax.Expr:
    if all(_is(r, 1) for r in repeats):
        return node.inputs[0]
    out = [as_expr(node.symbols.simplify(d * r)) for d, r in zip(node.shape(0), repeats, strict=True)]

    def compute(x: te.Tensor, shape: list) -> te.Tensor:
        return te.compute(shape, lambda *i: x(*(tirx.floormod(v, d) for v, d in zip(i, x.shape, strict=True))))

    return node.te(compute, node.inputs[0], out, name="tile")


@converter("DepthToSpace")
def depth_to_space(node: Node) -> relax.Expr:
    """(N, C*b*b, H, W) -> (N, C, H*b, W*b); DCR has the block before the channels, CRD behind."""
    n, c, h, w = _image(node)
    b, mode = node.required("blocksize"), node.attr("mode", "DCR")
    if (isinstance(c, int) and c % (b * b)) or mode not in _BLOCK_ORDER:
        raise node.error(f"{c} channels do not divide by blocksize {b} squared, or mode {mode!r} is not DCR or CRD")
    node.require_multiple(c, b * b, "axis 1 of input 0")
    depth = node.symbols.floordiv(c, b * b)
    split, perm = (
        ([n, b, b, depth, h, w], [0, 3, 4, 1, 5, 2]) if mode == "DCR" else ([n, depth, b, b, h, w], [0, 1, 4, 2, 5, 3])
    )
    return op.reshape(op.permute_dims(op.reshape(node.inputs[0], split), perm), [n, depth, h * b, w * b])


_BLOCK_ORDER = {"DCR": [0, 3, 5, 1, 2, 4], "CRD": [0, 1, 3, 5, 2, 4]}


@converter("SpaceToDepth")
def space_to_depth(node: Node) -> relax.Expr:
    """(N, C, H*b, W*b) -> (N, b*b*C, H, W); DCR has the block before the channels, CRD behind."""
    n, c, h, w = _image(node)
    b, mode = node.required("blocksize"), node.attr("mode", "DCR")
    if mode not in _BLOCK_ORDER:
        raise node.error(f"mode must be DCR or CRD, found {mode!r}")
    for axis, size in ((2, h), (3, w)):
        node.require_multiple(size, b, f"axis {axis} of input 0")
    h, w = (node.symbols.floordiv(size, b) for size in (h, w))
    blocks = op.permute_dims(op.reshape(node.inputs[0], [n, c, h, b, w, b]), _BLOCK_ORDER[mode])
    return op.reshape(blocks, [n, c * b * b, h, w])


def _image(node: Node) -> tuple[Dim, Dim, Dim, Dim]:
    shape = node.shape(0)
    if len(shape) != 4:
        raise node.error(f"expected an input (N, C, H, W), found {len(shape)} dimensions")
    return tuple(shape)


@converter("ConstantOfShape", since=9)
def constant_of_shape(node: Node) -> relax.Expr | Carried:
    """A shape of fixed sizes is folded before; here at least one is symbolic."""
    value = node.attr("value", np.zeros(1, np.float32)).reshape(-1)
    shape = [as_expr(d) for d in required_dims(node, 0, "the shape")]
    if value.dtype.name in CARRIED:
        return Carried(filled(node, shape, value.view(CARRIER)[0]), value.dtype.name)
    return filled(node, shape, value[0])


def filled(node: Node, shape: Sequence[ir.Expr], value: np.generic) -> relax.Expr:
    """A tensor of one value."""
    dtype = str(value.dtype)
    element = tirx.const(value.item(), dtype)
    return node.te(lambda sizes: te.compute(sizes, lambda *_: element), list(shape), name="full")
