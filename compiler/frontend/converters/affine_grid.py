"""AffineGrid: where each point of an image comes from under an affine map."""

from __future__ import annotations

from tvm import ir, relax, te, tirx

from ..node import Node
from ..values import Dim
from .registry import converter
from .runtime_sizes import Sizes, elements, exprs, fits, int64, sizes_of_run, vector_length


@converter("AffineGrid", since=20)
def affine_grid(node: Node) -> relax.Expr:
    """theta (N, k, k + 1), for k = 2 or 3 spatial axes, times the point (x, y, ..., 1) of each place of `size`.

    `size` is (N, C, spatial...), the grid (N, spatial..., k). Points span [-1, 1], as centres with `align_corners`,
    else as edges; a single centre is at -1.
    """
    rank, align = vector_length(node, 1, "the size") - 2, bool(node.attr("align_corners", 0))
    if rank not in (2, 3) or node.rank(0) != 3:
        raise node.error(
            f"expected a size of 4 or 5 numbers and theta of 3 dimensions, found {rank + 2} and {node.rank(0)}"
        )
    for axis, wanted in enumerate((rank, rank + 1), 1):
        node.require_equal(node.shape(0)[axis], wanted, f"axis {axis} of input 0")
    batch = node.shape(0)[0]

    def compute(theta: te.Tensor, sizes: list[ir.Expr]) -> te.Tensor:
        dtype = str(theta.dtype)
        work = dtype if dtype == "float64" else "float32"

        def point(i: tirx.Var, size: ir.Expr) -> ir.Expr:
            one, two = tirx.const(1.0, work), tirx.const(2.0, work)
            if align:
                steps = tirx.max(size - int64(1), int64(1)).astype(work)
                return i.astype(work) * (two / steps) - one
            return (i.astype(work) * two + one) / size.astype(work) - one

        def element(n: tirx.Var, *at: tirx.Var) -> ir.Expr:
            *places, row = at
            points = [point(i, s) for i, s in zip(places, sizes, strict=True)][::-1]
            total = theta(n, row, rank).astype(work)
            for column, value in enumerate(points):
                total = total + theta(n, row, column).astype(work) * value
            return total.astype(dtype)

        return te.compute((theta.shape[0], *sizes, rank), element, name="affine_grid")

    return node.te(compute, node.inputs[0], exprs(_spatial(node, batch, rank)), name="affine_grid")


def _spatial(node: Node, batch: Dim, rank: int) -> list[Dim]:
    """The spatial part of `size`, whose first number is that of the maps."""
    known = node.dims(1)
    if known is not None:
        node.require_equal(known[0], batch, "the first size")
        for axis in range(2, rank + 2):
            node.require_at_least(known[axis], 1, f"size {axis}")
        return known[2:]

    def sizes(given: te.Tensor, maps: ir.Expr) -> Sizes:
        first, _, *found = elements(given)
        return Sizes(found, tirx.all(tirx.EQ(first, maps), fits(found), *[size >= 1 for size in found]))

    return sizes_of_run(node, sizes, node.inputs[1], exprs([batch])[0], count=rank)
