"""Kernels for maps: elementwise chains, broadcasts, copies, concat, pad, gather, permuted reads.

out[i, j] = f(a[i, j], b[j])
  -> axes that every access walks evenly are joined; each thread computes one vector of 16 bytes: loads that are aligned
     fetch a whole vector, the others fetch elements, and the result is stored as one.
Reads that cross the order of writing go through shared memory (see transpose.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.tirx import Stmt

from ...shared.access import Views, analyzer_for, collapse, flat_index, flatten, split_axes, stride
from ...shared.loops import Index, ceildiv, i64, product, static, unravel, unrolled, vector, when
from ...shared.program import Axis, Stage, is_conditional, loads, map_loads, substitute
from ..launch import allocated, launch, registers
from ..spec import GpuSpec
from .transpose import emit_transposed

# Threads of a block.
BLOCK = 256
# Bytes that one thread loads or stores at once.
_VECTOR_BYTES = 16


@dataclass(frozen=True, eq=False)
class MapNest:
    """A map over flat views: `target[position] = value` for all `axes`."""

    stage: Stage
    position: tirx.Expr
    target: tirx.Buffer

    @property
    def extents(self) -> list[Index]:
        """Extents of the axes."""
        return [a.extent for a in self.stage.axes]

    def at(self, index: Sequence[Index]) -> dict[tirx.Var, tirx.Expr]:
        """Values of the axes' variables at the given coordinates."""
        return {a.var: i64(i) for a, i in zip(self.stage.axes, index, strict=True)}


def map_nest(stage: Stage, views: Views) -> MapNest:
    """`stage` over as few axes as its accesses allow."""
    target = views.view(stage.buffer)
    if stage.flat_copy:
        axis = Axis(tirx.Var("i", "int64"), product([a.extent for a in stage.axes]))
        source = views.view(loads(stage.value)[0].source)
        return MapNest(Stage(stage.buffer, (axis,), tirx.BufferLoad(source, [axis.var])), axis.var, target)
    position = flat_index(stage.buffer, [a.var for a in stage.axes])
    stage, position = collapse(*split_axes(flatten(stage, views), position))
    return MapNest(stage, position, target)


def emit_map(stage: Stage, views: Views, spec: GpuSpec) -> Stmt:
    """The kernel of `stage`, a map whose operands are parameters or whole temporaries."""
    nest = map_nest(stage, views)
    return emit_transposed(nest, spec) or _emit(nest, spec)


def _emit(nest: MapNest, spec: GpuSpec) -> Stmt:
    """One vector to a thread; where the last axis is unknown or odd, one element."""
    lanes = _lanes(nest)
    *outer, last = nest.extents or [1]
    ragged = lanes > 1 and not static(last)
    extents = [*outer, ceildiv(last, lanes)]
    total = product(extents)
    threads = min(BLOCK, _whole_warps(total, spec)) if static(total) else BLOCK

    def work(item: Index) -> Stmt:
        if not nest.stage.axes:
            return _single(nest, [])
        *index, piece = unravel(item, extents)
        start = piece * lanes
        if not ragged:
            return _vector(nest, [*index, start], lanes)
        rest = tirx.min(i64(last) - start, i64(lanes))
        whole = _vector(nest, [*index, start], lanes)
        single = tirx.Var("k", "int64")
        tail = tirx.For(single, i64(0), rest, tirx.ForKind.SERIAL, _single(nest, [*index, start + single]))
        return when(start + lanes <= last, whole, tail)

    def thread(block: Index, lane: Index) -> Stmt:
        item = block * threads + lane
        exact = static(total) and total % threads == 0
        return work(item) if exact else when(item < total, work(item))

    return launch(ceildiv(total, threads), threads, thread)


def _whole_warps(total: int, spec: GpuSpec) -> int:
    return max(1, -(-total // spec.warp)) * spec.warp


def _single(nest: MapNest, index: Sequence[Index]) -> Stmt:
    at = nest.at(index)
    return tirx.BufferStore(nest.target, substitute(nest.stage.value, at), [substitute(nest.position, at)])


def _vector(nest: MapNest, index: Sequence[Index], lanes: int) -> Stmt:
    """The elements from `index` on along the last axis: loaded as vectors, computed one by one, stored as a vector."""
    if lanes == 1:
        return _single(nest, index)
    start = nest.at(index)
    last = nest.stage.axes[-1].var
    fetched: dict[int, tuple[TensorLoad, tirx.Buffer]] = {}
    if not is_conditional(nest.stage.value):
        for load in loads(nest.stage.value):
            key = tvm_ffi.structural_hash(load)
            if key not in fetched and not loads(load.indices[0]) and _aligned(load, nest, lanes):
                fetched[key] = (load, registers(lanes, str(load.ty.dtype), f"v{len(fetched)}"))
    result = registers(lanes, str(nest.target.dtype), "result")

    def fetch(load: TensorLoad, buffer: tirx.Buffer) -> Stmt:
        base = substitute(load.indices[0], start)
        return vector(lanes, lambda k: tirx.BufferStore(buffer, tirx.BufferLoad(load.source, [base + k]), [k]))

    def compute(k: Index) -> Stmt:
        def known(load: TensorLoad) -> tirx.Expr:
            found = fetched.get(tvm_ffi.structural_hash(load))
            return tirx.BufferLoad(found[1], [i64(k)]) if found else load

        value = substitute(map_loads(nest.stage.value, known), {**start, last: start[last] + k})
        return tirx.BufferStore(result, value, [i64(k)])

    target = substitute(nest.position, start)
    store = vector(lanes, lambda k: tirx.BufferStore(nest.target, tirx.BufferLoad(result, [k]), [target + k]))
    buffers = [buffer for _, buffer in fetched.values()]
    return allocated([*buffers, result], *(fetch(*f) for f in fetched.values()), unrolled(lanes, compute), store)


def _lanes(nest: MapNest) -> int:
    """Elements that one thread computes: a vector of the widest type, if the store can be one and a load wants it."""
    if not nest.stage.axes or any(str(d) in ("bool", "bfloat16") for d in _dtypes(nest)):
        return 1
    widest = max(_bytes(d) for d in _dtypes(nest))
    last = nest.stage.axes[-1].extent
    for lanes in (16, 8, 4, 2):
        if lanes * widest > _VECTOR_BYTES or (static(last) and last % lanes):
            continue
        if not static(last) and len(nest.stage.axes) > 1:
            return 1  # rows of unknown length start anywhere
        reads = loads(nest.stage.value)
        useful = not reads or any(_aligned(load, nest, lanes) for load in reads)
        if useful and _is_aligned(nest.position, nest, lanes):
            return lanes
    return 1


def _dtypes(nest: MapNest) -> list[str]:
    return [str(nest.target.dtype), *(str(load.ty.dtype) for load in loads(nest.stage.value))]


def _bytes(dtype: str) -> int:
    return max(1, int("".join(c for c in dtype if c.isdigit()) or "8") // 8)


def _aligned(load: TensorLoad, nest: MapNest, lanes: int) -> bool:
    return _is_aligned(load.indices[0], nest, lanes)


def _is_aligned(index: tirx.Expr, nest: MapNest, lanes: int) -> bool:
    """Whether `index` runs along the last axis, from multiples of `lanes` where that axis does."""
    last = nest.stage.axes[-1]
    analyzer = analyzer_for(nest.stage.axes)
    step = stride(index, last, analyzer)
    if not static(step) or step != 1:
        return False
    base = analyzer.simplify(substitute(index, {last.var: i64(0)}))
    return _divisible(base, lanes, analyzer)


def _divisible(value: tirx.Expr, by: int, analyzer: tvm.sym.Analyzer) -> bool:
    rest = analyzer.modular_set(value)
    return rest.coeff % by == 0 and rest.base % by == 0
