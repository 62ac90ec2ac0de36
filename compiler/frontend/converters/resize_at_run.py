"""Resize by scales or to sizes that are data."""

from __future__ import annotations

from tvm import ir, te, tirx

from ..node import Node
from .resize_taps import AxisGeometry
from .runtime_sizes import Sizes, elements, exprs, fits, int64, sizes_of_run, vector_length

# Scales are handed over as whole numbers of this size: exact for those that float32 writes with 24 bits, up to 2^22.
_UNIT = 2**40
_LARGEST_SCALE = 2.0**22


def resized_to_data(node: Node, axes: list[int]) -> dict[int, AxisGeometry]:
    """The geometry of each of `axes` by the sizes in input 3."""
    shape = node.shape(0)
    if vector_length(node, 3, "sizes") != len(axes):
        raise node.error(f"the sizes need {len(axes)} elements, found shape {node.shape(3)}")

    def compute(sizes: te.Tensor) -> Sizes:
        given = elements(sizes)
        return Sizes(given, tirx.all(fits(given), *[s >= 1 for s in given]))

    outs = sizes_of_run(node, compute, node.inputs[3], count=len(axes))
    return {axis: AxisGeometry(shape[axis], out, (out, shape[axis])) for axis, out in zip(axes, outs, strict=True)}


def scaled_by_data(node: Node, axes: list[int], by_sizes: bool) -> dict[int, AxisGeometry]:
    """The geometry of each of `axes` by the scales in input 2: floor(size * scale) elements.

    `by_sizes`: coordinates follow from the sizes alone. (A variable that no kernel uses cannot be lowered.)
    """
    shape, count = node.shape(0), len(axes)
    if vector_length(node, 2, "scales") != count:
        raise node.error(f"the scales need {count} elements, found shape {node.shape(2)}")

    def compute(scales: te.Tensor, old: list[ir.Expr]) -> Sizes:
        given = [scales(int64(i)) for i in range(count)]
        valid = [tirx.all(s > tirx.const(0, "float32"), s < tirx.const(_LARGEST_SCALE, "float32")) for s in given]
        safe = [tirx.Select(v, s, tirx.const(1, "float32")) for v, s in zip(valid, given, strict=True)]
        outs = [tirx.floor(d.astype("float32") * s).astype("int64") for d, s in zip(old, safe, strict=True)]
        units = [(s.astype("float64") * tirx.const(float(_UNIT), "float64")).astype("int64") for s in safe]
        return Sizes([*outs, *([] if by_sizes else units)], tirx.all(fits(outs), *valid))

    found = sizes_of_run(
        node, compute, node.inputs[2], exprs([shape[a] for a in axes]), count=count if by_sizes else 2 * count
    )
    if by_sizes:
        return {a: AxisGeometry(shape[a], out, (out, shape[a])) for a, out in zip(axes, found, strict=True)}
    return {
        axis: AxisGeometry(shape[axis], out, (unit, _UNIT))
        for axis, out, unit in zip(axes, found[:count], found[count:], strict=True)
    }
