"""Loops for maps: elementwise chains, broadcasts, copies, concat, pad, gather, permuted reads.

out[i, j] = f(a[i, j], b[j])
  -> axes that every access walks evenly are joined; the outer loops are shared by threads;
     the innermost one becomes vectors, cut where a condition changes (concat, pad),
     or two axes become tiles where a read is contiguous along another axis (transposition).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from tvm import tirx
from tvm.tirx import Stmt

from ....compiler.schedule.target_spec import CpuSpec
from ...shared.access import (
    Views,
    analyzer_for,
    breakpoints,
    collapse,
    constrain,
    flat_index,
    flatten,
    split_axes,
    stride,
)
from ...shared.loops import (
    Index,
    ceildiv,
    i64,
    loop,
    minimum,
    parallel_nest,
    product,
    seq,
    static,
    strip_mine,
    unrolled,
    when,
)
from ...shared.program import Axis, Stage, cost, loads, substitute
from .interleave import emit_interleaved
from .transpose import emit_transposed

# Work (elements times instructions) from which threads pay off: a parallel region costs about 2 us.
PARALLEL_WORK = 96 * 1024
# What an unknown extent is taken for when the work is estimated.
_UNKNOWN = 64
# Pieces a loop may be cut into at its conditions.
_MAX_PIECES = 48
# Elements of one piece when a one-dimensional loop is shared by threads.
_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class MapNest:
    """A map over flat views: `target[position] = value` for all `axes`."""

    stage: Stage
    position: tirx.Expr
    target: tirx.Buffer

    def store(self, index: Sequence[Index]) -> Stmt:
        """The store at the given coordinates."""
        at = {a.var: i64(i) for a, i in zip(self.stage.axes, index, strict=True)}
        return tirx.BufferStore(self.target, substitute(self.stage.value, at), [substitute(self.position, at)])


def estimate(extents: Sequence[Index]) -> int:
    """The product of extents, unknown ones guessed."""
    return int(product([e if static(e) else _UNKNOWN for e in extents]))


def task_count(work: int, spec: CpuSpec) -> int:
    """Pieces to share among threads: several per core, so that they end together; 1 for little work."""
    if work < PARALLEL_WORK or spec.cores == 1:
        return 1
    return min(4 * spec.cores, max(spec.cores, work // (PARALLEL_WORK // 2)))


def enough_work(extents: Sequence[Index], unit: int, spec: CpuSpec) -> tirx.Expr | None:
    """The run-time condition for threads where an extent is unknown; None where all are known, or with one core."""
    work = product(extents)
    if static(work) or spec.cores == 1:
        return None
    return work >= i64(-(-PARALLEL_WORK // unit))


def one_core(spec: CpuSpec) -> CpuSpec:
    """The same CPU without threads."""
    return replace(spec, cores=1)


def emit_map(stage: Stage, views: Views, spec: CpuSpec) -> Stmt:
    """The loops of `stage`, a map whose operands are parameters or whole temporaries."""
    target = views.view(stage.buffer)
    if stage.flat_copy:
        axis = Axis(tirx.Var("i", "int64"), product([a.extent for a in stage.axes]))
        source = views.view(loads(stage.value)[0].source)
        stage, position = Stage(stage.buffer, (axis,), tirx.BufferLoad(source, [axis.var])), axis.var
    else:
        position = flat_index(stage.buffer, [a.var for a in stage.axes])
        stage = flatten(stage, views)
    enough = enough_work([a.extent for a in stage.axes], _unit(stage), spec)
    if enough is None:
        return _emit(stage, position, target, spec)
    return when(enough, _emit(stage, position, target, spec), _emit(stage, position, target, one_core(spec)))


def _emit(stage: Stage, position: tirx.Expr, target: tirx.Buffer, spec: CpuSpec) -> Stmt:
    stage, position = collapse(*split_axes(stage, position))
    nest = MapNest(stage, position, target)
    if not stage.axes:
        return nest.store([])
    inner = stage.axes[-1]
    cuts = breakpoints(stage.value, inner, stage.axes)
    if cuts and len(cuts) < _MAX_PIECES:
        return _emit_pieces(nest, [0, *cuts, inner.extent], spec)
    tasks = task_count(_work(stage), spec)
    rows = partial(_emit_rows, nest, spec)
    return emit_interleaved(nest, spec, tasks) or emit_transposed(nest, spec, tasks, rows) or rows()


def _work(stage: Stage) -> int:
    return estimate([a.extent for a in stage.axes]) * _unit(stage)


def _unit(stage: Stage) -> int:
    """Work of one element."""
    return 2 + cost(stage.value)


def _piece(nest: MapNest, low: int, high: int) -> tuple[Stage, tirx.Expr]:
    """`nest` restricted to [low, high) of its innermost axis, conditions decided."""
    *outer, inner = nest.stage.axes
    part = Axis(tirx.Var(inner.var.name, "int64"), high - low)
    at = {inner.var: part.var + low}
    axes = (*outer, part)
    value = constrain(substitute(nest.stage.value, at), axes)
    return Stage(nest.stage.buffer, axes, value), analyzer_for(axes).simplify(substitute(nest.position, at))


def _emit_pieces(nest: MapNest, cuts: Sequence[int], spec: CpuSpec) -> Stmt:
    """One loop for each interval between `cuts`: inside shared outer loops if there are enough of those."""
    pieces = [_piece(nest, low, high) for low, high in itertools.pairwise(cuts)]
    outer = [a.extent for a in nest.stage.axes[:-1]]
    tasks = task_count(_work(nest.stage), spec)
    if estimate(outer) < tasks:
        return seq([_emit(stage, position, nest.target, spec) for stage, position in pieces])

    def body(index: list[Index]) -> Stmt:
        return seq([_row(MapNest(stage, position, nest.target), index, spec) for stage, position in pieces])

    return parallel_nest(outer, tasks, body)


def _emit_rows(nest: MapNest, spec: CpuSpec) -> Stmt:
    """Outer loops in parallel, the innermost axis in vectors."""
    extents = [a.extent for a in nest.stage.axes]
    tasks = task_count(_work(nest.stage), spec)
    inner = extents[-1]
    if tasks == 1 or estimate(extents[:-1]) >= tasks:
        return parallel_nest(extents[:-1], tasks, lambda index: _row(nest, index, spec))
    return _emit_split_row(nest, tasks, inner, spec)


def _emit_split_row(nest: MapNest, tasks: int, inner: Index, spec: CpuSpec) -> Stmt:
    """Too few rows for the threads: the innermost axis is cut into chunks too."""
    outer = [a.extent for a in nest.stage.axes[:-1]]
    if static(inner):
        per_row = ceildiv(tasks, max(1, estimate(outer)))
        lanes = 4 * spec.lanes(str(nest.target.dtype))
        chunk = min(inner, ceildiv(ceildiv(inner, per_row), lanes) * lanes)
    else:
        chunk = _CHUNK
    pieces = ceildiv(inner, chunk)

    def body(index: list[Index]) -> Stmt:
        *row, piece = index
        if static(inner):
            # The last chunk overlaps the one before, so that all have the same constant size.
            start = minimum(piece * chunk, inner - chunk)
            return _row(nest, row, spec, start, chunk)
        start = piece * chunk
        return _row(nest, row, spec, start, minimum(chunk, inner - start))

    return parallel_nest([*outer, pieces], tasks, body)


def _row(nest: MapNest, index: list[Index], spec: CpuSpec, start: Index = 0, size: Index = None) -> Stmt:
    """The innermost axis, or the part of it that begins at `start`, for fixed outer coordinates."""
    inner = nest.stage.axes[-1]
    extent = inner.extent if size is None else size
    lanes = _lanes(nest, spec)

    def store(i: Index) -> Stmt:
        return nest.store([*index, i + start])

    if static(extent) and extent <= 4:
        return unrolled(extent, store)
    return strip_mine(extent, lanes, store) if lanes > 1 else loop(extent, store)


def _lanes(nest: MapNest, spec: CpuSpec) -> int:
    """Vector length for the innermost axis; 1 where reads are strided, which LLVM vectorises better by itself."""
    inner = nest.stage.axes[-1]
    analyzer = analyzer_for(nest.stage.axes)
    widest = str(nest.target.dtype)
    for load in loads(nest.stage.value):
        step = stride(load.indices[0], inner, analyzer)
        if step is not None and not (static(step) and step in (0, 1)):
            return 1
        if _bits(str(load.ty.dtype)) > _bits(widest):
            widest = str(load.ty.dtype)
    return spec.lanes(widest)


def _bits(dtype: str) -> int:
    return int("".join(c for c in dtype if c.isdigit()) or "8")
