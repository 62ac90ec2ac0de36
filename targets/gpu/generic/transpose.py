"""Maps that read along another axis than they write: tiles that pass through shared memory.

out[.., r, .., c] = f(a[.. + c * stride + r])
  -> a block reads tiles of 32 x 32 along r, which is contiguous in `a`, and writes them along c, which is contiguous
     in `out`. Rows of a tile are one element longer than 32, so that a column lies in 32 different banks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm import tirx
from tvm.ir import TensorLoad
from tvm.tirx import Stmt

from ...shared.access import analyzer_for, stride
from ...shared.loops import Index, ceildiv, i64, product, static, unravel, unrolled, when
from ...shared.program import is_conditional, loads, map_loads, substitute
from ..estimates import STATIC_SHARED_BYTES
from ..launch import allocated, barrier, launch_rows, shared
from ..spec import GpuSpec
from ..templates.vectors import dtype_bytes

if TYPE_CHECKING:
    from .maps import MapNest

TILE = 32
# Rows of a tile that a block moves at once.
_ROWS = 8
# Shorter axes leave most of a tile empty.
_SHORTEST = 16


def emit_transposed(nest: MapNest, spec: GpuSpec) -> Stmt | None:
    """The kernel of `nest` in transposed tiles, or None if its reads do not ask for that."""
    found = _crossed_reads(nest)
    if found is None:
        return None
    row, reads = found
    pitch = TILE + 1
    tile_bytes = sum(TILE * pitch * dtype_bytes(str(r.ty.dtype)) for r in reads)
    if tile_bytes > min(STATIC_SHARED_BYTES, spec.shared_bytes):
        return None
    axes = nest.stage.axes
    column = len(axes) - 1
    order = [k for k in range(len(axes)) if k not in (row, column)]
    grid = [*(axes[k].extent for k in order), ceildiv(axes[row].extent, TILE), ceildiv(axes[column].extent, TILE)]
    tiles = [shared(TILE * pitch, str(r.ty.dtype), f"tile{k}") for k, r in enumerate(reads)]

    def body(block: Index, x: Index, y: Index) -> Stmt:
        *outer, tile_row, tile_column = unravel(block, grid)
        at = {axes[k].var: i64(i) for k, i in zip(order, outer, strict=True)}

        def place(r: Index, c: Index) -> tuple[dict[tirx.Var, tirx.Expr], tirx.Expr | bool]:
            values = {axes[row].var: i64(tile_row * TILE + r), axes[column].var: i64(tile_column * TILE + c)}
            limits = [values[axes[k].var] < axes[k].extent for k in (row, column) if not _exact(axes[k].extent)]
            return {**at, **values}, (tirx.all(*limits) if limits else True)

        def fetch(step: Index) -> Stmt:
            here, inside = place(x, y + step * _ROWS)
            stores = [
                tirx.BufferStore(tile, substitute(read, here), [i64((y + step * _ROWS) * pitch + x)])
                for tile, read in zip(tiles, reads, strict=True)
            ]
            return when(inside, stores[0] if len(stores) == 1 else tirx.SeqStmt(stores))

        def store(step: Index) -> Stmt:
            here, inside = place(y + step * _ROWS, x)

            def from_tile(load: TensorLoad) -> tirx.Expr:
                for tile, read in zip(tiles, reads, strict=True):
                    if load.source.same_as(read.source) and load.indices[0].same_as(read.indices[0]):
                        return tirx.BufferLoad(tile, [i64(x * pitch + y + step * _ROWS)])
                return load

            value = substitute(map_loads(nest.stage.value, from_tile), here)
            return when(inside, tirx.BufferStore(nest.target, value, [substitute(nest.position, here)]))

        steps = TILE // _ROWS
        return allocated(tiles, unrolled(steps, fetch), barrier(), unrolled(steps, store))

    return launch_rows(product(grid), TILE, _ROWS, body)


def _exact(extent: Index) -> bool:
    return static(extent) and extent % TILE == 0


def _crossed_reads(nest: MapNest) -> tuple[int, list[TensorLoad]] | None:
    """The axis along which some reads are contiguous while the innermost one is strided, and those reads."""
    axes = nest.stage.axes
    if len(axes) < 2 or is_conditional(nest.stage.value):
        return None
    analyzer = analyzer_for(axes)
    rows: set[int] = set()
    reads: list[TensorLoad] = []
    for load in loads(nest.stage.value):
        index = load.indices[0]
        step = stride(index, axes[-1], analyzer)
        if step is None or loads(index) or (static(step) and step in (0, 1)):
            continue
        steps = [stride(index, a, analyzer) for a in axes[:-1]]
        along = [k for k, s in enumerate(steps) if static(s) and s == 1]
        if not along:
            continue
        rows.add(along[0])
        reads.append(load)
    if len(rows) != 1:
        return None
    row = rows.pop()
    long = all(not static(axes[k].extent) or axes[k].extent >= _SHORTEST for k in (row, len(axes) - 1))
    return (row, reads) if long else None
