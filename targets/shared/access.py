"""Flat memory accesses: where a load reads as a function of the loops around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.ir import TensorLoad, prim

from .loops import Index, as_int, i64, product
from .program import Axis, Stage, loads, map_loads, substitute, uses, with_value

_COMPARISONS = (prim.LT, prim.GE, prim.LE, prim.GT, prim.EQ, prim.NE)
# Comparison of (rate * v + c) with 0 -> where it changes its outcome, relative to its root.
_CHANGES = {
    **{(kind, 1): (0,) for kind in (prim.LT, prim.GE)},
    **{(kind, 1): (1,) for kind in (prim.LE, prim.GT)},
    **{(kind, -1): (1,) for kind in (prim.LT, prim.GE)},
    **{(kind, -1): (0,) for kind in (prim.LE, prim.GT)},
    **{(kind, rate): (0, 1) for kind in (prim.EQ, prim.NE) for rate in (1, -1)},
}


# Divisions of axes undone per stage.
_MAX_SPLITS = 4


class Views:
    """One-dimensional views of the buffers of a function; `declarations` must precede their use."""

    def __init__(self) -> None:
        self._views: dict[tirx.Buffer, tirx.Buffer] = {}
        self.declarations: list[tirx.Stmt] = []

    def view(self, buffer: tirx.Buffer) -> tirx.Buffer:
        """`buffer` as one dimension."""
        if buffer not in self._views:
            size = i64(product([as_int(d) for d in buffer.shape]))
            alias = tirx.decl_buffer(
                [size], buffer.dtype, f"{buffer.name}_flat", data=buffer.data, scope=buffer.scope()
            )
            self._views[buffer] = alias
            self.declarations.append(tirx.DeclBuffer(alias, data=buffer.data))
        return self._views[buffer]

    def allocate(self, buffer: tirx.Buffer) -> tirx.Stmt:
        """The statement that allocates an intermediate buffer, directly in its flat form."""
        size = product([as_int(d) for d in buffer.shape])
        flat = tirx.decl_buffer([i64(size)], buffer.dtype, buffer.name)
        self._views[buffer] = flat
        return tirx.AllocBuffer(flat)


def analyzer_for(axes: Sequence[Axis]) -> tvm.sym.Analyzer:
    """An analyzer that knows the ranges of `axes`."""
    analyzer = tvm.sym.Analyzer()
    for axis in axes:
        analyzer.bind(axis.var, ir.Range.from_min_extent(i64(0), i64(axis.extent)))
    return analyzer


def flat_index(buffer: tirx.Buffer, indices: Sequence[tirx.Expr]) -> tirx.Expr:
    """The row-major position of `indices`, as int64."""
    position: tirx.Expr = i64(0)
    for index, extent in zip(indices, buffer.shape, strict=True):
        index = index if str(index.ty.dtype) == "int64" else index.astype("int64")
        position = position * i64(as_int(extent)) + index
    return position


def flatten(stage: Stage, views: Views, inner: frozenset[tirx.Buffer] = frozenset()) -> Stage:
    """`stage` with loads through flat views and indices simplified; those from `inner` keep their coordinates."""
    analyzer = analyzer_for(stage.all_axes)

    def change(load: TensorLoad) -> tirx.Expr:
        if load.source in inner:
            return load
        index = analyzer.simplify(flat_index(load.source, load.indices))
        return tirx.BufferLoad(views.view(load.source), [index])

    return with_value(stage, map_loads(stage.value, change))


def flatten_group_stage(stage: Stage, inner: frozenset[tirx.Buffer], views: Views) -> Stage:
    """`stage` of a group that keeps `inner` to itself: other loads through flat views, the reduction on one axis."""
    flat = flatten(stage, views, inner)
    return collapse_reduction(flat, inner) if stage.reduce else flat


def stride(index: tirx.Expr, axis: Axis, analyzer: tvm.sym.Analyzer) -> Index | None:
    """How far `index` moves when `axis` advances by one; None if that is not the same everywhere."""
    step = as_int(analyzer.simplify(substitute(index, {axis.var: axis.var + 1}) - index))
    return None if not isinstance(step, int) and uses(step, axis.var) else step


def used_outside_loads(value: tirx.Expr, var: tirx.Var) -> bool:
    """Whether `var` occurs in `value` elsewhere than in the index of a load (in a condition, or as data)."""
    hidden = map_loads(value, lambda load: tirx.const(0, load.ty.dtype))
    return uses(hidden, var)


def split_axes(stage: Stage, position: tirx.Expr) -> tuple[Stage, tirx.Expr]:
    """Split axes that are read as v // c and v % c (what a reshape leaves behind), so that reads become linear.

    `position` is the flat index stored to. Splits that do not pay are undone by `collapse`.
    """
    axes, value = list(stage.axes), stage.value
    for _ in range(_MAX_SPLITS):
        found = _divided_axis(axes, value)
        if found is None:
            break
        k, factor = found
        axis = axes[k]
        outer = Axis(tirx.Var(f"{axis.var.name}o", "int64"), axis.extent // factor)
        inner = Axis(tirx.Var(f"{axis.var.name}i", "int64"), factor)
        axes[k : k + 1] = [outer, inner]
        analyzer = analyzer_for(axes)
        at = {axis.var: outer.var * factor + inner.var}
        value = _simplified(substitute(value, at), analyzer)
        position = analyzer.simplify(substitute(position, at))
    return Stage(stage.buffer, tuple(axes), value), position


def _divided_axis(axes: Sequence[Axis], value: tirx.Expr) -> tuple[int, int] | None:
    """An axis and the constant it is divided by inside the index of a load, if the extent is a multiple of it."""
    found: list[tuple[int, int]] = []

    def visit(node: prim.FloorDiv | prim.FloorMod) -> None:
        factor = as_int(node.b)
        if not isinstance(factor, int):
            return
        for k, axis in enumerate(axes):
            divides = isinstance(axis.extent, int) and 1 < factor < axis.extent and axis.extent % factor == 0
            if divides and uses(node.a, axis.var):
                found.append((k, factor))

    for load in loads(value):
        tvm_ffi.structural_walk(load.indices[0], ((prim.FloorDiv, prim.FloorMod), visit), order="post")
    return found[0] if found else None


def collapse(stage: Stage, position: tirx.Expr) -> tuple[Stage, tirx.Expr]:
    """Join neighbouring axes that all accesses walk through as one, and drop axes of extent 1.

    `position` is the flat index stored to. Returns the stage and position over fewer axes.
    """
    axes = list(stage.axes)
    value = stage.value
    for axis in [a for a in axes if isinstance(a.extent, int) and a.extent == 1]:
        value = substitute(value, {axis.var: i64(0)})
        position = substitute(position, {axis.var: i64(0)})
        axes.remove(axis)
    merged = True
    while merged:
        merged = False
        for k in range(len(axes) - 1, 0, -1):
            joined = _join(axes, k, value, position)
            if joined:
                axes, value, position = joined
                merged = True
                break
    analyzer = analyzer_for(axes)
    return Stage(stage.buffer, tuple(axes), _simplified(value, analyzer)), analyzer.simplify(position)


def _simplified(value: tirx.Expr, analyzer: tvm.sym.Analyzer) -> tirx.Expr:
    """`value` with the indices of its loads simplified."""
    return map_loads(value, lambda x: tirx.BufferLoad(x.source, [analyzer.simplify(x.indices[0])]))


def _join(
    axes: list[Axis], k: int, value: tirx.Expr, position: tirx.Expr | None
) -> tuple[list[Axis], tirx.Expr, tirx.Expr | None] | None:
    """Axes k-1 and k as one, if every access strides through both evenly."""
    outer, inner = axes[k - 1], axes[k]
    analyzer = analyzer_for(axes)
    flat = [x.indices[0] for x in loads(value) if len(x.indices) == 1]
    for index in flat if position is None else [position, *flat]:
        far, near = stride(index, outer, analyzer), stride(index, inner, analyzer)
        if far is None or near is None or not analyzer.can_prove_equal(i64(far), i64(near) * i64(inner.extent)):
            return None
    if used_outside_loads(value, outer.var) or used_outside_loads(value, inner.var):
        return None
    var = tirx.Var(inner.var.name, "int64")
    # Both strides agree, so that the whole way can be attributed to the inner axis.
    both = {outer.var: i64(0), inner.var: var}
    fused = Axis(var, product([outer.extent, inner.extent]))
    moved = None if position is None else substitute(position, both)
    return [*axes[: k - 1], fused, *axes[k + 1 :]], substitute(value, both), moved


def collapse_reduction(stage: Stage, inner: frozenset[tirx.Buffer]) -> Stage:
    """Join neighbouring reduction axes that all reads walk through as one, and drop those of extent 1.

    Reads from `inner` keep their coordinates, so axes they use stay apart.
    """
    axes = list(stage.reduce)
    value = stage.value
    if len(axes) > 1:
        for axis in [a for a in axes if isinstance(a.extent, int) and a.extent == 1]:
            value = substitute(value, {axis.var: i64(0)})
            axes.remove(axis)
    axes = axes or [stage.reduce[-1]]
    kept = [x for x in loads(value) if x.source in inner]
    k = len(axes) - 1
    while k > 0:
        pair = axes[k - 1 : k + 1]
        used = any(uses(i, a.var) for x in kept for i in x.indices for a in pair)
        joined = None if used else _join_all([*stage.axes, *axes], len(stage.axes) + k, value)
        if joined:
            axes, value = joined[0][len(stage.axes) :], joined[1]
        k -= 1
    return replace(stage, reduce=tuple(axes), value=value)


def _join_all(axes: list[Axis], k: int, value: tirx.Expr) -> tuple[list[Axis], tirx.Expr] | None:
    joined = _join(axes, k, value, None)
    return (joined[0], joined[1]) if joined else None


def breakpoints(value: tirx.Expr, axis: Axis, axes: Sequence[Axis]) -> list[int]:
    """Places inside `axis` where a comparison in `value` changes its outcome, if it depends on that axis only."""
    if not isinstance(axis.extent, int):
        return []
    points: set[int] = set()

    def visit(node: prim.CmpExpr) -> None:
        if str(node.a.ty.dtype) != "int64" or not uses(node, axis.var):
            return
        form = tvm.sym.detect_linear_equation(node.a - node.b, [a.var for a in axes])
        parts = [as_int(f) for f in form]
        if not parts or not all(isinstance(p, int) for p in parts):
            return
        rates = {a.var: p for a, p in zip(axes, parts, strict=False)}
        rate = rates[axis.var]
        if rate not in (1, -1) or sum(map(abs, rates.values())) != 1:
            return
        # a - b is zero at `root`; where the outcome changes depends on whether the root itself belongs to what follows.
        root = -parts[-1] * rate
        points.update(root + step for step in _CHANGES[type(node), rate])

    tvm_ffi.structural_walk(value, (_COMPARISONS, visit), order="post")
    return sorted(p for p in points if 0 < p < axis.extent)


def constrain(value: tirx.Expr, axes: Sequence[Axis]) -> tirx.Expr:
    """`value` with the conditions decided that hold (or fail) for all of `axes`."""
    return analyzer_for(axes).simplify(value)
