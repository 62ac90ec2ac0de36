"""TensorScatter: new keys or values written into a cache."""

from __future__ import annotations

from tvm import ir, relax, te, tirx

from ..node import Node
from .registry import converter
from .runtime_checks import with_sizes


@converter("TensorScatter", since=24)
def tensor_scatter(node: Node) -> relax.Expr:
    """A copy of the cache, with the update from each sample's index on; "circular" wraps around at the cache's end.

    What would lie beyond the end otherwise, which ONNX forbids, is not written.
    """
    shape, mode = node.shape(0), node.attr("mode", "linear")
    axis = node.axis(node.attr("axis", -2), len(shape))
    if mode not in ("linear", "circular") or axis == 0:
        raise node.error(f"expected mode linear or circular and an axis that is not the batch, found {mode!r}, {axis}")
    update = with_sizes(node, 1, {i: d for i, d in enumerate(shape) if i != axis})
    node.require_at_least(shape[axis], node.shape(1)[axis], "the cache's length")
    indices = [with_sizes(node, 2, {0: shape[0]}, "indices")] if node.has(2) else []

    def compute(past: te.Tensor, update: te.Tensor, *where: te.Tensor) -> te.Tensor:
        count = update.shape[axis]

        def element(*at: tirx.Var) -> ir.Expr:
            place = at[axis] - where[0](at[0]).astype("int64") if where else at[axis]
            place = tirx.floormod(place, past.shape[axis]) if mode == "circular" else place
            inside = tirx.max(tirx.min(place, count - 1), tirx.const(0, "int64"))
            new = update(*at[:axis], inside, *at[axis + 1 :])
            return tirx.Select(tirx.all(place >= 0, place < count), new, past(*at))

        return te.compute(past.shape, element, name="cache")

    return node.te(compute, node.inputs[0], update, *indices, name="tensor_scatter")
