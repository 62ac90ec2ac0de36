"""Lengths of loops that compilers shall not know, as they would write the loops out whole.

LLVM does so with short loops however much is in them. It then brings all their loads forward, or moves the arithmetic
back to where its results are needed, with more numbers alive than there are registers. A length that comes out of
shared memory keeps a loop a loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm import tirx
from tvm.tirx import Stmt

from ...shared.index_math import when
from ...shared.tir_loops import Index, i64, seq, store
from ..launch import shared
from .gemm_index import i32


@dataclass(frozen=True)
class HiddenLengths:
    """`lengths` of loops of a block, in an array in shared memory that is called `name`."""

    lengths: tuple[int, ...]
    name: str
    buffer: tirx.Buffer = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "buffer", shared(len(self.lengths), "int32", self.name))

    def tell(self, thread: Index) -> Stmt:
        """One thread stores them; a barrier must follow before they are read."""
        return when(thread < 1, seq(*(store(self.buffer, [k], i32(n)) for k, n in enumerate(self.lengths))))

    def read(self, number: int) -> tuple[Stmt, tirx.Var]:
        """What reads length `number`, and the int64 variable that has it then."""
        count = tirx.Var("count", "int64")
        return tirx.Bind(count, tirx.BufferLoad(self.buffer, [i64(number)]).astype("int64")), count
