"""Matmul in register tiles: `rows` x `vectors` accumulators held in registers over the whole K loop.

Strategy:
1. B lies in panels of (K, block) columns: packed at compile time when B is constant, read in place when its rows are
   contiguous and whole panels, packed into scratch memory otherwise (a transposed or ragged B).
2. One parallel loop over (batch, chunk of rows, panel). A chunk of A stays in L2 while all panels pass over it.
3. The tile's epilogue runs on the accumulators and stores each result once, in the order `out_perm` asks for.

Packing A as well (the usual GEMM) lost: activations are short (M of 1 to a few hundred), and the copy costs more than
the strided scalar loads it saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import TYPE_CHECKING

import numpy as np
from tvm import tirx

from ....compiler.schedule.epilogue import apply_epilogue
from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import CpuSpec, TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.index_math import ceil_div, floor_div, floor_mod, ramp, split_index, when
from ...shared.matmul_problem import Buffers, MatmulProblem, read_problem
from ...shared.tir_loops import allocate, i64, loop, seq, store
from .cpu_costs import FMA_LATENCY, PARALLEL_FLOPS
from .matmul_traits import matmul_traits
from .tile_builder import RegisterTile

if TYPE_CHECKING:
    from tvm.ir import PrimExpr
    from tvm.tirx import Stmt

    Index = PrimExpr | int


class MatmulTile(Template):
    """Register-tiled matmul with fused epilogue, for constant and for computed right-hand sides."""

    name = "matmul_tile"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """float32 matrices without a size of zero; K is static, N too unless B is computed."""
        problem = read_problem(op)
        if problem is None or not isinstance(target, CpuSpec) or not isinstance(problem.k, int):
            return None
        constant = op.constant[1]
        if (constant and len(op.inputs[1].shape) != 2) or 0 in (problem.k, *op.anchor_type.shape):
            return None
        tiles = [(r, v) for v in range(1, 9) for r in range(1, 29) if _fits(r, v, target)]
        ranked = sorted(tiles, key=lambda t: _cost(problem, t[0], t[1], target))
        configs = [Config.of(rows=r, vectors=v, chunk=_chunk(problem, r, v, target)) for r, v in ranked[:24]]
        return Space(configs[0], tuple(configs))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel, and the packer of B when B is constant."""
        problem = read_problem(op)
        assert problem is not None, "match accepts only such operators"
        assert isinstance(target, CpuSpec)
        lanes = target.lanes("float32")
        block = config.int("vectors") * lanes
        packed = None
        if op.constant[1]:
            packed = (-(-int(problem.n) // block), int(problem.k), block)
        emitter = _Emitter(
            problem, Buffers(op, problem, packed), target.cores, config.int("rows"), config.int("vectors"), lanes,
            config.int("chunk"), packed is not None,
        )  # fmt: skip
        func = tirx.PrimFunc(emitter.buffers.params, emitter.body())
        packers = {1: lambda w: pack_panels(w.transpose(op.ints("rhs_perm")), block)} if packed else {}
        return Candidate(func, packers)

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        problem = read_problem(op)
        assert problem is not None, "match accepts only such operators"
        assert isinstance(target, CpuSpec)
        in_place = op.ints("rhs_perm")[-1] == len(op.inputs[1].shape) - 1
        return matmul_traits(problem, target, configs, in_place)


def pack_panels(matrix: np.ndarray, block: int) -> np.ndarray:
    """(K, N) -> (ceil(N / block), K, block), columns beyond N zero."""
    k, n = matrix.shape
    panels = -(-n // block)
    padded = np.zeros((k, panels * block), matrix.dtype)
    padded[:, :n] = matrix
    return np.ascontiguousarray(padded.reshape(k, panels, block).transpose(1, 0, 2))


def _fits(rows: int, vectors: int, target: CpuSpec) -> bool:
    if rows == 1:
        return True  # B comes from memory operands: only the accumulators need registers
    return rows * vectors + vectors + 1 <= target.vector_registers


def _tile_cycles(problem: MatmulProblem, rows: int, vectors: int, target: CpuSpec) -> float:
    """Cycles of one step of K: the FMAs, or the latency of the accumulators if there are few, and a share of the loads.

    The 0.4 fits the throughput of tiles from 4 x 2 to 28 x 1 on Cascade Lake: 9 x 3 and 6 x 4 reach 130 GFLOP/s where
    4 x 2 reaches 105 and 14 x 1 reaches 90.
    """
    fmas = rows * vectors
    cycles = max(fmas / target.fma_ports, FMA_LATENCY) * (1 + 0.4 * (rows + vectors) / fmas)
    # A panel that does not stay in L1 is read from L2 once per tile: tall tiles read it less often.
    panel_bytes = int(problem.k) * vectors * target.vector_bytes
    return cycles + (0.25 * vectors if panel_bytes > target.l1_bytes // 2 else 0)


def _cost(problem: MatmulProblem, rows: int, vectors: int, target: CpuSpec) -> float:
    """Predicted cycles per unit of K and batch, with a penalty where rows of A collide in the same L1 set."""
    lanes = target.lanes("float32")
    panels = -(-problem.n // (vectors * lanes)) if isinstance(problem.n, int) else 8 / vectors
    if isinstance(problem.m, int):
        full, tail = divmod(problem.m, rows)
        cycles = full * _tile_cycles(problem, rows, vectors, target) + (
            _tile_cycles(problem, tail, vectors, target) if tail else 0
        )
    else:
        # Unknown M: one long run of tiles and an average tail of single rows.
        cycles = 64 / rows * _tile_cycles(problem, rows, vectors, target) + rows / 2 * _tile_cycles(
            problem, 1, vectors, target
        )
    return panels * cycles * _set_conflicts(problem, rows, target)


def _set_conflicts(problem: MatmulProblem, rows: int, target: CpuSpec) -> float:
    """L1 has 64 sets of 64-byte lines and 8 ways or more: rows 4096 bytes apart share one set."""
    stride = int(problem.k) * 4
    positions = max(1, 4096 // gcd(stride, 4096)) if stride % 64 == 0 else 64
    return 1.5 if rows / positions > 6 else 1.0


def _chunk(problem: MatmulProblem, rows: int, vectors: int, target: CpuSpec) -> int:
    """Tiles of rows per work item: a chunk of A fits in half of L2, and the items divide evenly among the cores."""
    fitting = max(1, target.l2_bytes // 2 // (int(problem.k) * 4 * rows))
    if not isinstance(problem.m, int) or not all(isinstance(d, int) for d in (problem.n, *problem.batch)):
        return min(fitting, 16)
    tiles = -(-problem.m // rows)
    others = -(-int(problem.n) // (vectors * target.lanes("float32")))
    for d in problem.batch:
        others *= int(d)
    fewest = -(-tiles // fitting)

    def idle(chunks: int) -> float:
        items = others * -(-tiles // -(-tiles // chunks))
        return -(-items // target.cores) * target.cores / max(1, items) + 0.01 * chunks

    best = min(range(fewest, min(tiles, fewest + 4 * target.cores) + 1), key=idle)
    return -(-tiles // best)


@dataclass
class _Emitter:
    """Generates the loops of one matmul."""

    problem: MatmulProblem
    buffers: Buffers
    cores: int
    rows: int
    vectors: int
    lanes: int
    chunk: int
    constant: bool

    @property
    def block(self) -> int:
        return self.vectors * self.lanes

    def body(self) -> Stmt:
        """Declarations and the parallel loop over work items."""
        tiles = ceil_div(self.buffers.m, self.rows)
        chunks, panels = ceil_div(tiles, self.chunk), ceil_div(self.buffers.n, self.block)
        counts = [*self.buffers.batch, chunks, panels]
        items: Index = 1
        for count in counts:
            items = items * count
        kind = "parallel" if self._worth_sharing() else "serial"
        work = loop("item", items, lambda item: self._item(split_index(item, counts)), kind)
        return seq(*self.buffers.declarations, work)

    def _worth_sharing(self) -> bool:
        sizes = (self.problem.m, self.problem.n, self.problem.k, *self.problem.batch)
        if not all(isinstance(d, int) for d in sizes):
            return True
        return self.cores > 1 and 2 * prod(int(d) for d in sizes) >= PARALLEL_FLOPS

    def _item(self, position: Sequence[Index]) -> Stmt:
        *batch, chunk, panel = position
        if self.constant or self._reads_rhs_in_place():
            return self._rows(batch, chunk, panel, None)
        size = int(self.problem.k) * self.block
        scratch = tirx.decl_buffer((size,), "float32", "panel", scope="global")
        return allocate(scratch, seq(self._pack(scratch, batch, panel), self._rows(batch, chunk, panel, scratch)))

    def _reads_rhs_in_place(self) -> bool:
        strides = self.buffers.strides(1, self.problem.op.ints("rhs_perm"))
        n = self.problem.n
        return isinstance(n, int) and n % self.block == 0 and isinstance(strides[-1], int) and strides[-1] == 1

    def _pack(self, scratch: tirx.Buffer, batch: Sequence[Index], panel: Index) -> Stmt:
        """Copy B's columns of this panel into (K, block), zero beyond N."""
        perm = self.problem.op.ints("rhs_perm")
        lead = self.buffers.batch_indices(1, batch)
        ragged = not (isinstance(self.problem.n, int) and self.problem.n % self.block == 0)

        def element(k: Index, column: Index) -> PrimExpr:
            n = panel * self.block + column
            value = self.buffers.flat(1)[self.buffers.offset(1, [*lead, k, n], perm)]
            return tirx.if_then_else(n < self.buffers.n, value, tirx.const(0.0, "float32")) if ragged else value

        return loop(
            "k",
            self.buffers.k,
            lambda k: loop("c", self.block, lambda c: store(scratch, [k * self.block + c], element(k, c))),
        )

    def _rows(self, batch: Sequence[Index], chunk: Index, panel: Index, scratch: tirx.Buffer | None) -> Stmt:
        """All row tiles of one chunk against one panel."""
        full, tail = floor_div(self.buffers.m, self.rows), floor_mod(self.buffers.m, self.rows)

        def one(t: Index) -> Stmt:
            tile = chunk * self.chunk + t
            first = tile * self.rows
            whole = self._tile(batch, first, panel, self.rows, scratch)
            if not isinstance(tail, int):
                rest = loop("r", tail, lambda r: self._tile(batch, first + r, panel, 1, scratch))
                return when(tile < full, whole, when(tirx.EQ(tile, full), rest))
            if tail == 0:
                return whole if full % self.chunk == 0 else when(tile < full, whole)
            rest = self._tile(batch, first, panel, tail, scratch)
            if full == 0:
                return rest
            return when(tile < full, whole, when(tirx.EQ(tile, i64(full)), rest))

        return loop("t", self.chunk, one)

    def _tile(self, batch: Sequence[Index], first: Index, panel: Index, rows: int, scratch: tirx.Buffer | None) -> Stmt:
        """One register tile: `rows` rows from `first`, all of K, then the epilogue."""
        tile = RegisterTile(rows, self.vectors, self.lanes)
        lead = self.buffers.batch_indices(0, batch)
        perm = self.problem.op.ints("lhs_perm")

        def lhs(row: Index, k: Index) -> PrimExpr:
            return self.buffers.flat(0)[self.buffers.offset(0, [*lead, first + row, k], perm)]

        def step(k: Index) -> Stmt:
            return tile.multiply_add(
                lambda row: lhs(row, k), lambda c, lanes: self._rhs(batch, k, panel, c, lanes, scratch)
            )

        reduce = loop("k", self.buffers.k, step)
        return seq(tile.declare(), tile.zero(), reduce, self._write(tile, batch, first, panel))

    def _rhs(
        self, batch: Sequence[Index], k: Index, panel: Index, column: Index, lanes: int, scratch: tirx.Buffer | None
    ) -> PrimExpr:
        """`lanes` columns of B from `column` of the panel, in row k."""
        if self.constant:
            return tirx.BufferLoad(
                self.buffers.flat(1), [ramp((panel * self.buffers.k + k) * self.block + column, lanes)]
            )
        if scratch is not None:
            return tirx.BufferLoad(scratch, [ramp(k * self.block + column, lanes)])
        perm, lead = self.problem.op.ints("rhs_perm"), self.buffers.batch_indices(1, batch)
        offset = self.buffers.offset(1, [*lead, k, panel * self.block + column], perm)
        return tirx.BufferLoad(self.buffers.flat(1), [ramp(offset, lanes)])

    def _write(self, tile: RegisterTile, batch: Sequence[Index], first: Index, panel: Index) -> Stmt:
        """Epilogue and store; the last panel writes only the columns that exist."""
        op = self.problem.op
        n = self.problem.n
        order = op.ints("out_perm")
        stored = [order.index(axis) for axis in range(len(order))]  # axis `stored[i]` of memory is logical axis i

        def put(value: PrimExpr, row: Index, column: Index) -> Stmt:
            indices = [*batch, first + row, panel * self.block + column]
            result = apply_epilogue(op, value, [i64(i) for i in indices], self.buffers.read)
            return store(self.buffers.flat(-1), [self.buffers.offset(-1, indices, stored)], result)

        def columns(count: int) -> Stmt:
            return tile.finish(put, count, len(op.epilogue))

        last = floor_div(self.buffers.n, self.block)
        if not isinstance(n, int):
            valid = self.buffers.n - panel * self.block
            guarded = tile.finish(lambda value, r, c: when(c < valid, put(value, r, c)), self.block, 0)
            return when(panel < last, columns(self.block), guarded)
        if n % self.block == 0:
            return columns(self.block)
        return columns(n) if n < self.block else when(panel < i64(last), columns(self.block), columns(n % self.block))
