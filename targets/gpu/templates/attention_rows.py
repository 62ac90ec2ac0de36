"""Rows of queries, keys or values on their way to shared memory by asynchronous copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tvm import tirx
from tvm.tirx import Stmt

from ...shared.tir_loops import Index, seq
from . import tensor_core_ptx as ptx
from .attention_tile import SEGMENT, SKEW, rounded
from .gemm_index import Held, i32
from .gemm_matmul import Matrix
from .vectors import dtype_bytes


class Layout(Protocol):
    """How rows lie in shared memory. Those `period` lines apart, or a multiple, lie `pitch` elements a line apart."""

    @property
    def pitch(self) -> int: ...

    @property
    def period(self) -> int: ...

    def at(self, line: Index, rest: Index) -> Index:
        """The place of element `rest` of a line."""


@dataclass(frozen=True)
class Padded:
    """Rows of `width` elements one after the other, with a gap that spreads eight of them over all banks."""

    width: int
    period: int = 1

    @property
    def pitch(self) -> int:
        """See Layout."""
        return self.width + SKEW

    def at(self, line: Index, rest: Index) -> Index:
        """See Layout."""
        return line * self.pitch + rest


@dataclass(frozen=True)
class Swizzled:
    """`count` rows in segments of 128 bytes of each, chunks of 16 bytes exchanged as Hopper's swizzle of 128 bytes."""

    count: int
    pitch: int = SEGMENT
    period: int = 8

    def at(self, line: Index, rest: Index) -> Index:
        """See Layout."""
        segment, within = tirx.truncdiv(rest, i32(SEGMENT)), tirx.truncmod(rest, i32(SEGMENT))
        chunk = tirx.bitwise_xor(tirx.truncdiv(within, i32(8)), tirx.truncmod(line, i32(8)))
        return segment * (self.count * SEGMENT) + line * SEGMENT + chunk * 8 + tirx.truncmod(within, i32(8))


class Rows:
    """Copies `count` rows of `width` elements at a time; a thread of `threads` copies to the same places each time."""

    def __init__(
        self, indices: Held, threads: int, matrix: Matrix, layout: Layout, count: int, width: int, thread: tirx.Expr
    ) -> None:
        self.layout = layout
        self.indices, self.threads, self.matrix = indices, threads, matrix
        self.count, self.width = count, rounded(width)
        self.whole = self.width == width
        self.lanes, self.thread = matrix.lanes, thread
        self.limit = width
        self.per_line = self.width // self.lanes
        self.slots = -(-count * self.per_line // self.threads)
        self.places: list[tuple[Index, Index, Index]] = []

    def prepare(self) -> list[Stmt]:
        """Line, place in memory beyond a first row, and place in shared memory of each of a thread's vectors."""
        statements: list[Stmt] = []
        indices, threads = self.indices, self.threads
        pitch = self.layout.pitch
        even = threads % (self.per_line * self.layout.period) == 0
        for slot in range(self.slots):
            if even and slot:
                down = slot * threads // self.per_line
                line, rest, place = self.places[0]
                self.places.append((line + down, rest, place + down * pitch))
                continue
            number = self.thread + slot * threads
            line = tirx.truncdiv(number, i32(self.per_line))
            rest = tirx.truncmod(number, i32(self.per_line)) * self.lanes
            naming = [
                indices.name("line", indices.const(line)),
                indices.name("rest", indices.const(rest), self.lanes),
                Held("int32").name("place", self.layout.at(line, rest), self.lanes),
            ]
            statements += [s for found, _ in naming for s in found]
            self.places.append((naming[0][1], naming[1][1], naming[2][1]))
        return statements

    def copy(self, first: Index, buffer: tirx.Buffer, start: Index) -> Stmt:
        """Begin to copy the rows from `first` on to `buffer` from `start` on; zeros where there is nothing."""
        return seq(*(self._copy(slot, first, buffer, start) for slot in range(self.slots)))

    def _copy(self, slot: int, first: Index, buffer: tirx.Buffer, start: Index) -> Stmt:
        line, rest, place = self.places[slot]
        row = first + line
        exists, source, _ = self.matrix.fetch(slot, row, rest)
        inside = exists if self.whole else tirx.all(exists, rest < self.limit)
        index = self.matrix.origin + row * self.matrix.stride + rest
        index = tirx.Select(inside, index, tirx.const(0, index.ty.dtype))
        size = self.lanes * dtype_bytes(str(source.dtype))
        statement = ptx.copy_async(size, ptx.address(buffer, start + place), ptx.address(source, index), inside)
        total, threads = self.count * self.per_line, self.threads
        if (slot + 1) * threads <= total:
            return statement
        return tirx.IfThenElse(self.thread + slot * threads < i32(total), statement, None)
