"""Sizes that the data of a run decide: computed by a small kernel, then named like any other open dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import ir, relax, te, tirx

from ...errors import ModelError
from ..node import Node
from ..symbols import as_expr, identifier
from ..values import Dim

# Products of sizes below this cannot wrap around in 64 bits, and no memory holds as many elements.
MOST_ELEMENTS = 2.0**62


# Of what is read as sizes, axes or bounds, each by a statement of its own.
_MOST_ELEMENTS = 4096


@dataclass(frozen=True)
class Sizes:
    """What a kernel tells of a run: int64 expressions of its sizes, none negative, and whether the run is valid."""

    sizes: Sequence[ir.Expr]
    valid: ir.Expr


def int64(value: Dim) -> ir.Expr:
    return as_expr(value) if isinstance(value, int) else value.astype("int64")


def choose(condition: ir.Expr, yes: Dim, no: Dim) -> ir.Expr:
    return tirx.Select(condition, int64(yes), int64(no))


def elements(tensor: te.Tensor) -> list[ir.Expr]:
    """The elements of an integer scalar, or of a vector of fixed length, as int64."""
    if not tensor.shape:
        return [tensor().astype("int64")]
    if int(tensor.shape[0]) > _MOST_ELEMENTS:
        raise ModelError(f"Expected at most {_MOST_ELEMENTS} sizes, found a vector of {int(tensor.shape[0])}.")
    return [tensor(tirx.IntImm("int64", i)).astype("int64") for i in range(int(tensor.shape[0]))]


def vector(values: Sequence[ir.Expr], name: str) -> te.Tensor:
    """A tensor of int64 `values`."""

    def element(i: tirx.Var) -> ir.Expr:
        result = values[0]
        for index, value in enumerate(values[1:], 1):
            result = tirx.Select(i >= index, value, result)
        return result

    return te.compute((len(values),), element, name=name)


def sizes_of_run(node: Node, compute: Callable[..., Sizes], *args: Any, count: int) -> list[Dim]:
    """The `count` sizes that `compute` gives for `args`, as new variables; an invalid run ends as an `InputError`."""

    def kernel(*given: Any) -> te.Tensor:
        found = compute(*given)
        least = [tirx.max(s, tirx.const(0, "int64")) for s in found.sizes]
        valid = tirx.all(found.valid, *[s >= tirx.const(0, "int64") for s in found.sizes])
        return vector([*least, valid.astype("int64")], "sizes")

    found = node.te(kernel, *args, name="sizes")
    names = [f"{identifier(node.name or node.op_type)}_size{i}" for i in range(count)]
    sizes = [tirx.Var(name, "int64") for name in names]
    shape = node.emit(relax.op.tensor_to_shape(found))
    node.bb.match_cast(shape, relax.ShapeType([*sizes, tirx.IntImm("int64", 1)]))
    return list(sizes)


def vector_length(node: Node, index: int, what: str) -> int:
    """The number of elements of an input that holds sizes or axes; ModelError where it is open."""
    shape = node.shape(index)
    if not shape:
        return 1
    if len(shape) > 1 or not isinstance(shape[0], int):
        raise node.error(f"{what} must be a vector of fixed length, found shape {[str(d) for d in shape]}")
    return shape[0]


def exprs(dims: Sequence[Dim]) -> list[ir.Expr]:
    """Sizes as arguments of a TE function."""
    return [as_expr(d) for d in dims]


def picked(options: Sequence[ir.Expr], index: ir.Expr) -> ir.Expr:
    """options[index], the last one beyond."""
    result = options[-1]
    for i in reversed(range(len(options) - 1)):
        result = tirx.Select(index <= i, options[i], result)
    return result


def fits(sizes: Sequence[ir.Expr]) -> ir.Expr:
    """Whether a tensor of `sizes` has fewer elements than any memory."""
    product: ir.Expr = tirx.const(1.0, "float64")
    for size in sizes:
        product = product * size.astype("float64")
    return product < tirx.const(MOST_ELEMENTS, "float64")


def product_of(sizes: Sequence[ir.Expr]) -> ir.Expr:
    result: ir.Expr = tirx.IntImm("int64", 1)
    for size in sizes:
        result = result * size
    return result
