"""Resize by scales or to sizes that are data."""

from __future__ import annotations

from functools import reduce

from tvm import ir, relax, te, tirx

from ..node import Node
from ..symbols import as_expr
from ..values import Dim
from .resize_taps import AxisGeometry, Sampling, TirArithmetic, coordinate, kernel_weight
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


def fitted_to_data(node: Node, axes: list[int], policy: str) -> dict[int, AxisGeometry]:
    """The geometry of each of `axes` by one scale, with which all are at most, or at least, the sizes in input 3."""
    shape, count = node.shape(0), len(axes)
    if vector_length(node, 3, "sizes") != count:
        raise node.error(f"the sizes need {count} elements, found shape {node.shape(3)}")
    choose = tirx.min if policy == "not_larger" else tirx.max

    def compute(sizes: te.Tensor, old: list[ir.Expr]) -> Sizes:
        given = elements(sizes)
        ratios = [s.astype("float32") / d.astype("float32") for s, d in zip(given, old, strict=True)]
        scale = reduce(choose, ratios)
        valid = tirx.all(*[s >= 1 for s in given], scale < tirx.const(_LARGEST_SCALE, "float32"))
        safe = tirx.Select(valid, scale, tirx.const(1, "float32"))
        half = tirx.const(0.5, "float32")
        outs = [tirx.max(tirx.floor(safe * d.astype("float32") + half).astype("int64"), int64(1)) for d in old]
        return Sizes([*outs, _units(safe)], tirx.all(fits(outs), valid))

    *outs, unit = sizes_of_run(node, compute, node.inputs[3], exprs([shape[a] for a in axes]), count=count + 1)
    return {axis: AxisGeometry(shape[axis], out, (unit, _UNIT)) for axis, out in zip(axes, outs, strict=True)}


def _units(scale: ir.Expr) -> ir.Expr:
    return (scale.astype("float64") * tirx.const(float(_UNIT), "float64")).astype("int64")


def scaled_by_data(node: Node, axes: list[int], by_sizes: bool, index: int = 2) -> dict[int, AxisGeometry]:
    """The geometry of each of `axes` by the scales in input `index`: floor(size * scale) elements.

    `by_sizes`: coordinates follow from the sizes alone. (A variable that no kernel uses cannot be lowered.)
    """
    shape, count = node.shape(0), len(axes)
    if vector_length(node, index, "scales") != count:
        raise node.error(f"the scales need {count} elements, found shape {node.shape(index)}")

    def compute(scales: te.Tensor, old: list[ir.Expr]) -> Sizes:
        given = [scales(int64(i)) for i in range(count)]
        valid = [tirx.all(s > tirx.const(0, "float32"), s < tirx.const(_LARGEST_SCALE, "float32")) for s in given]
        safe = [tirx.Select(v, s, tirx.const(1, "float32")) for v, s in zip(valid, given, strict=True)]
        outs = [tirx.floor(d.astype("float32") * s).astype("int64") for d, s in zip(old, safe, strict=True)]
        return Sizes([*outs, *([] if by_sizes else map(_units, safe))], tirx.all(fits(outs), *valid))

    found = sizes_of_run(
        node, compute, node.inputs[index], exprs([shape[a] for a in axes]), count=count if by_sizes else 2 * count
    )
    if by_sizes:
        return {a: AxisGeometry(shape[a], out, (out, shape[a])) for a, out in zip(axes, found, strict=True)}
    return {
        axis: AxisGeometry(shape[axis], out, (unit, _UNIT))
        for axis, out, unit in zip(axes, found[:count], found[count:], strict=True)
    }


def antialiased(node: Node, x: relax.Expr, sampling: Sampling, axis: int, geometry: AxisGeometry) -> relax.Expr:
    """`x` sampled along one axis by the kernel stretched by 1 / scale, whose number of taps is known in a run only."""
    num, den = geometry.scale if isinstance(geometry.scale, tuple) else (geometry.out, geometry.size)
    reach = 1 if sampling.mode == "linear" else 2
    sizes: list[Dim] = [geometry.size, geometry.out, num, den]

    def compute(x: te.Tensor, size: ir.Expr, out: ir.Expr, num: ir.Expr, den: ir.Expr) -> te.Tensor:
        half = tirx.floordiv(reach * tirx.max(num, den) + num - 1, num)
        last, work = size.astype("float32") - tirx.const(1, "float32"), "float64" if x.dtype == "float64" else "float32"
        shrinks = tirx.min(num.astype("float64") / den.astype("float64"), tirx.const(1, "float64"))
        one = AxisGeometry(size, out, (num, den))

        def tap(at: ir.Expr, t: ir.Expr) -> tuple[ir.Expr, ir.Expr]:
            """The position of tap `t` of element `at`, and its weight before these are made to sum to 1."""
            place = coordinate(TirArithmetic, sampling, one, at)
            step = (t + 1 - half).astype("float32")
            position = tirx.floor(place) + step
            rest = (place - tirx.floor(place)).astype("float64")
            weight = kernel_weight(TirArithmetic, sampling, tirx.abs(step.astype("float64") - rest) * shrinks)
            if sampling.exclude_outside:
                inside = tirx.all(position >= tirx.const(0, "float32"), position <= last)
                weight = tirx.Select(inside, weight, tirx.const(0, "float64"))
            return position, weight

        def total(at: tirx.Var) -> ir.Expr:
            t = te.reduce_axis((0, 2 * half), name="t")
            return te.sum(tap(at, t)[1], axis=t)

        totals = te.compute((out,), total, name="totals")

        def element(*at: tirx.Var) -> ir.Expr:
            t = te.reduce_axis((0, 2 * half), name="t")
            position, weight = tap(at[axis], t)
            index = tirx.max(tirx.min(position, last), tirx.const(0, "float32")).astype("int64")
            value = x(*at[:axis], index, *at[axis + 1 :]).astype(work)
            return te.sum((weight / totals(at[axis])).astype(work) * value, axis=t)

        shape = [*x.shape[:axis], out, *x.shape[axis + 1 :]]
        y = te.compute(shape, element, name="resize")
        return y if x.dtype == work else te.compute(shape, lambda *at: y(*at).astype(x.dtype), name="narrowed")

    return node.te(compute, x, *[as_expr(d) for d in sizes], name="resize_antialias")
