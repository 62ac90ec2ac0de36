"""The pieces of A and B that a block multiplies in one step: from device memory to shared memory to registers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx import Stmt

from ...shared.tir_loops import Index, i64, seq, store
from ..launch import registers
from . import tensor_core_ptx as ptx
from .gemm_index import Held, i32
from .gemm_operand import Operand
from .tensor_core_tile import CHUNK_BYTES
from .tensor_core_wgmma import ROW_BYTES, SharedOperand
from .vectors import load_vector, vector

if TYPE_CHECKING:
    from .tensor_core_gemm import TensorNest

# Sizes of vectors that are copied asynchronously.
_ASYNC_BYTES = (4, 8, 16)
# Places in shared memory, and stages.
SHARED = Held("int32")


def lies_along_k(operand: Operand, size: int) -> bool:
    """Whether k runs fastest in shared memory: `ldmatrix` transposes elements of two bytes only."""
    return operand.along_k or size != 2


def passes_registers(operand: Operand, size: int, async_copy: bool) -> bool:
    """Whether an operand's pieces pass through registers, rather than by asynchronous copies."""
    turned = lies_along_k(operand, size) != operand.along_k
    return not async_copy or turned or operand.lanes * size not in _ASYNC_BYTES


class Piece:
    """The part of A or B that a block multiplies in one step, in shared memory; `whole` if no step reaches over K."""

    def __init__(
        self,
        nest: TensorNest,
        operand: Operand,
        extent: int,
        first: Index,
        thread: tirx.Expr,
        buffer: tirx.Buffer,
        start: int,
        name: str,
        whole: bool,
    ) -> None:
        self.nest, self.operand, self.extent, self.first = nest, operand, extent, first
        self.buffer, self.start, self.whole = buffer, start, whole
        tile, size = nest.tile, nest.how.size
        self.along_k = lies_along_k(operand, size)
        # Warpgroups want segments of rows of 128 bytes.
        self.width = tile.bk if self.along_k else extent if nest.how.warps == 1 else ROW_BYTES // size
        lanes = operand.lanes
        self.direct = not passes_registers(operand, size, nest.async_copy)
        self.vectors = tile.bk * extent // lanes
        self.slots = -(-self.vectors // tile.threads)
        self.ahead = registers(self.slots * lanes, str(buffer.dtype), f"{name}_ahead")
        self.name = name
        self.positions: list[Index] = []
        self.kept: list[Index] = []
        self.depths: list[Index] = []
        self.entered: list[int] = []
        self.per_line = (tile.bk if operand.along_k else extent) // lanes
        self.thread = thread
        # Lines from one slot of a thread to the next; 0 where slots do not begin at the same place of their lines.
        self.pace = 0 if tile.threads % self.per_line else tile.threads // self.per_line
        self.places = [self._place(slot) for slot in range(self.slots)]

    def _place(self, slot: int) -> tuple[tirx.Expr, tirx.Expr]:
        """Position (row of A, column of B) and k of a slot's first element within the piece."""
        number = self.thread if self.pace else self.thread + slot * self.nest.tile.threads
        line = tirx.truncdiv(number, i32(self.per_line)) + slot * self.pace
        rest = tirx.truncmod(number, i32(self.per_line)) * self.operand.lanes
        return (line, rest) if self.operand.along_k else (rest, line)

    def prepare(self) -> list[Stmt]:
        """What is computed once: where each slot's elements go, and what the operand wants."""
        indices, lanes, along = self.nest.grid.indices, self.operand.lanes, self.operand.along_k
        statements: list[Stmt] = []
        for slot, (position, k) in enumerate(self.places):
            here, place = self._after(slot, self.positions, along), self._swizzled_after(slot)
            if here is None:
                unit = 1 if along else lanes
                naming, here = indices.name(f"{self.name}{slot}", self.first + indices.const(position), unit)
                statements += naming
            if place is None:
                naming, place = SHARED.name(f"{self.name}_place{slot}", self._at(position, k), lanes)
                statements += naming
            self.positions.append(here)
            self.kept.append(place)
            statements += self.operand.prepare(slot, here)
        return statements

    def _after(self, slot: int, known: Sequence[Index], lines: bool) -> Index | None:
        """What follows from the first slot: a coordinate along the lines, or within them."""
        if slot == 0 or not self.pace:
            return None
        return known[0] + slot * self.pace if lines else known[0]

    def _swizzled_after(self, slot: int) -> Index | None:
        """A slot's place in shared memory as it follows from that of one whole eights of rows before."""
        if self.along_k != self.operand.along_k or not self.pace:
            return None
        period = 8 // math.gcd(self.pace, 8)
        if slot < period:
            return None
        return self.kept[slot % period] + (slot - slot % period) * self.pace * self.width

    def _at(self, position: Index, k: Index) -> tirx.Expr:
        """Where element (position, k) of the first stage's piece lies in shared memory."""
        per = CHUNK_BYTES // self.nest.how.size
        row, column = map(i32, (position, k) if self.along_k else (k, position))
        chunks = self.width // per
        segment: Index = 0
        if not self.along_k and self.width < self.extent:
            segment = tirx.truncdiv(column, i32(self.width)) * (self.nest.tile.bk * self.width)
            column = tirx.truncmod(column, i32(self.width))
        chunk, within = tirx.truncdiv(column, i32(per)), tirx.truncmod(column, i32(per))
        eighth = tirx.truncmod(row, i32(8))
        mask = eighth if chunks >= 8 else tirx.truncdiv(eighth, i32(8 // chunks))
        return self.start + segment + row * self.width + tirx.bitwise_xor(chunk, mask) * per + within

    def enter(self, start: Index) -> list[Stmt]:
        """What is computed once for the piece that begins at k = `start`."""
        statements: list[Stmt] = []
        self.depths, along = [], self.operand.along_k
        self.entered = []
        for slot, (_, k) in enumerate(self.places):
            depth = self._after(slot, self.depths, not along)
            number = self.entered[0] if depth is not None and along else slot
            if depth is None:
                unit = self.operand.lanes if along else 1
                indices = self.nest.grid.indices
                naming, depth = indices.name(f"{self.name}_k", start + indices.const(k), unit)
                statements += naming
            if number == slot:
                statements += self.operand.enter(slot, depth)
            self.depths.append(depth)
            self.entered.append(number)
        return statements

    def fetch(self, stage: tirx.Expr) -> Stmt:
        """Begin to bring the piece that was entered into `stage`, or into registers."""
        return seq(*(self._if_mine(slot, self._fetch(slot, stage)) for slot in range(self.slots)))

    def _fetch(self, slot: int, stage: tirx.Expr) -> Stmt:
        nest, lanes = self.nest, self.operand.lanes
        depth, entered = self.depths[slot], self.entered[slot]
        exists, source, index = self.operand.fetch(slot, self.positions[slot], depth, entered)
        conditions = [c for c in (True if self.whole else depth < nest.grid.k, exists) if c is not True]
        if self.direct:
            inside = tirx.all(*conditions) if conditions else tirx.const(True, "bool")
            place = tirx.Select(inside, index, tirx.const(0, index.ty.dtype)) if conditions else index
            to = ptx.address(self.buffer, self._kept(slot, stage))
            return ptx.copy_async(lanes * nest.how.size, to, ptx.address(source, place), inside)
        load = load_vector(self.ahead, slot * lanes, source, index, lanes)
        return tirx.IfThenElse(tirx.all(*conditions), load, self._clear(slot * lanes)) if conditions else load

    def _kept(self, slot: int, stage: tirx.Expr) -> tirx.Expr:
        return self.kept[slot] + stage * (self.extent * self.nest.tile.bk)

    def _clear(self, start: int) -> Stmt:
        """Zeros for a slot's registers. TVM can write no vector of 16 equal elements."""
        lanes = self.operand.lanes
        zero = tirx.const(0, str(self.buffer.dtype))
        step = min(lanes, 8 if self.nest.how.size > 1 else 4)
        return seq(
            *(vector(step, lambda i, at=at: store(self.ahead, [start + at + i], zero)) for at in range(0, lanes, step))
        )

    def keep(self, stage: tirx.Expr) -> Stmt | None:
        """Put what came into registers into `stage`."""
        if self.direct:
            return None
        return seq(*(self._if_mine(slot, self._keep(slot, stage)) for slot in range(self.slots)))

    def _keep(self, slot: int, stage: tirx.Expr) -> Stmt:
        lanes = self.operand.lanes
        position, k = self.places[slot]

        def element(i: int, place: tirx.Expr) -> Stmt:
            return store(self.buffer, [place], tirx.BufferLoad(self.ahead, [i64(slot * lanes + i)]))

        if self.along_k == self.operand.along_k:
            start = self._kept(slot, stage).astype("int64")
            ahead = i64(slot * lanes)
            return vector(lanes, lambda i: store(self.buffer, [start + i], tirx.BufferLoad(self.ahead, [ahead + i])))
        base = stage * (self.extent * self.nest.tile.bk)
        turned = [(position, k + i) if self.operand.along_k else (position + i, k) for i in range(lanes)]
        return seq(*(element(i, base + self._at(*here)) for i, here in enumerate(turned)))

    def _if_mine(self, slot: int, statement: Stmt) -> Stmt:
        """The last slot may have fewer vectors than there are threads."""
        threads = self.nest.tile.threads
        if (slot + 1) * threads <= self.vectors:
            return statement
        return tirx.IfThenElse(self.thread + slot * threads < i32(self.vectors), statement, None)

    @property
    def shared_operand(self) -> SharedOperand:
        """How warpgroups find the piece."""
        return SharedOperand(self.along_k, self.nest.tile.bk, self.nest.how.size)

    def beginning(self, stage: tirx.Expr, rows: tirx.Expr | None = None) -> tirx.Expr:
        """The address of a stage's piece from its `rows`, a multiple of 64, on."""
        place = self.start + stage * (self.extent * self.nest.tile.bk)
        # 64 rows take bk times 64 elements, along k or not.
        return ptx.address(self.buffer, place if rows is None else place + rows * self.nest.tile.bk)

    def load(
        self, into: tirx.Expr, stage: tirx.Expr, first: tirx.Expr, k: int, lane: tirx.Expr, count: int, columns: bool
    ) -> Stmt:
        """`count` fragments of A, or pairs of B's (`columns`), from (first, k) on into registers.

        The four 8x8 matrices of a fragment of A follow each other down its rows first, those of a pair along k first.
        """
        per = CHUNK_BYTES // self.nest.how.size
        eighth, half, quarter = (
            tirx.truncmod(lane, i32(8)),
            tirx.truncmod(tirx.truncdiv(lane, i32(8)), i32(2)),
            tirx.truncdiv(lane, i32(16)),
        )
        beside, deeper = (quarter, half) if columns else (half, quarter)
        if self.along_k:
            row, chunk = first + eighth + beside * 8, deeper + k // per
            steps = (ptx.ROWS * self.width * self.nest.how.size, 0)
        else:
            row, chunk = eighth + deeper * 8 + k, tirx.truncdiv(first, i32(8)) + beside
            steps = (0, ptx.ROWS // 8)
        # Fragments begin at whole eights of rows: the mask follows from the lane.
        mask = tirx.truncdiv(eighth, i32(max(1, 8 * per // self.width)))
        place = self.start + stage * (self.extent * self.nest.tile.bk) + row * self.width
        return ptx.load_fragments(into, ptx.address(self.buffer, place), chunk, mask, count, *steps, not self.along_k)
