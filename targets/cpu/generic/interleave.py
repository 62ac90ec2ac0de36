"""Copies that interleave a few rows, or take them apart again (channel shuffle, images of 3 channels).

    interleave:  out[.., r, g] = a[.. + g * stride + r]        G rows become one, element by element
    separate:    out[.., g, .., c] = a[.. + c * G + g]         one row becomes G
      -> for each L elements of a row (L lanes of a vector): load G vectors, and store G vectors of shuffled elements.
Only for 2 to 8 rows: more of them are transposed in tiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm import tirx
from tvm.ir import TensorLoad, prim
from tvm.tirx import Stmt

from ....compiler.schedule.target_spec import CpuSpec
from ...shared.access import analyzer_for, stride
from ...shared.loops import Index, ceildiv, i64, minimum, parallel_nest, seq, static
from ...shared.program import substitute

if TYPE_CHECKING:
    from .maps import MapNest

_MAX_ROWS = 8


def emit_interleaved(nest: MapNest, spec: CpuSpec, tasks: int) -> Stmt | None:
    """The loops of `nest` if it is such a copy, otherwise None."""
    load = nest.stage.value
    axes = nest.stage.axes
    if not isinstance(load, TensorLoad) or len(axes) < 2 or not all(static(a.extent) for a in axes):
        return None
    analyzer = analyzer_for(axes)
    reads = [stride(load.indices[0], a, analyzer) for a in axes]
    writes = [stride(nest.position, a, analyzer) for a in axes]
    if str(load.ty.dtype) == "bfloat16":
        return None  # TVM's lowering of bfloat16 to integers leaves the types of bound vectors behind
    lanes = spec.lanes(str(load.ty.dtype))
    for few, a in enumerate(axes):
        for many, b in enumerate(axes):
            if few == many or not 2 <= a.extent <= _MAX_ROWS or b.extent < lanes:
                continue
            if (reads[many], writes[few], writes[many]) == (1, 1, a.extent):
                return _emit(nest, few, many, lanes, tasks, interleave=True)
            if (reads[few], reads[many], writes[many]) == (1, a.extent, 1):
                return _emit(nest, few, many, lanes, tasks, interleave=False)
    return None


def _emit(nest: MapNest, few: int, many: int, lanes: int, tasks: int, *, interleave: bool) -> Stmt:
    axes, load = nest.stage.axes, nest.stage.value
    rows, length = axes[few].extent, axes[many].extent
    order = [k for k in range(len(axes)) if k not in (few, many)]

    def body(index: list[Index]) -> Stmt:
        *outer, piece = index
        at = {axes[k].var: i64(i) for k, i in zip(order, outer, strict=True)}
        # The last piece overlaps the one before.
        start = minimum(piece * lanes, length - lanes) if length % lanes else piece * lanes

        def place(expr: tirx.Expr, row: int, step: int) -> tirx.Expr:
            base = substitute(expr, {**at, axes[few].var: i64(row), axes[many].var: i64(start)})
            return tirx.Ramp(base + step if step else base, i64(1), lanes)

        one_row = [(0, k * lanes) for k in range(rows)]
        each_row = [(k, 0) for k in range(rows)]
        sources, targets = (each_row, one_row) if interleave else (one_row, each_row)
        statements: list[Stmt] = []
        vectors = []
        for row, step in sources:
            var = tirx.Var("v", f"{load.ty.dtype}x{lanes}")
            statements.append(tirx.Bind(var, tirx.BufferLoad(load.source, [place(load.indices[0], row, step)])))
            vectors.append(var)
        for number, (row, step) in enumerate(targets):
            picks = [_pick(number, lane, rows, lanes, interleave) for lane in range(lanes)]
            value = _gather(vectors, picks, lanes, statements)
            statements.append(tirx.BufferStore(nest.target, value, [place(nest.position, row, step)]))
        return seq(statements)

    extents = [axes[k].extent for k in order]
    return parallel_nest([*extents, ceildiv(length, lanes)], tasks, body)


def _gather(vectors: list[tirx.Var], picks: list[int], lanes: int, statements: list[Stmt]) -> tirx.Expr:
    """The elements `picks` of `vectors` put end to end, by shuffles of two vectors: one instruction each."""
    result = vectors[0]
    for number, vector in enumerate(vectors[1:], 1):
        # Lanes that are not known yet keep whatever is there.
        first = picks if number == 1 else range(lanes)
        mask = [lanes + p % lanes if p // lanes == number else f % lanes for p, f in zip(picks, first, strict=True)]
        var = tirx.Var("v", vector.ty.dtype)
        statements.append(tirx.Bind(var, prim.Shuffle([result, vector], [i64(i) for i in mask])))
        result = var
    return result


def _pick(number: int, lane: int, rows: int, lanes: int, interleave: bool) -> int:
    """Which element of the vectors read, put end to end, becomes `lane` of the vector stored as `number`."""
    if interleave:
        element = number * lanes + lane
        return element % rows * lanes + element // rows
    return lane * rows + number
