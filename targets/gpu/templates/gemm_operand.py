"""What kernels by tiles ask of the matrices of a product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tvm import tirx
from tvm.tirx import Stmt

from ...shared.tir_loops import Index


class Operand(Protocol):
    """Where the pieces of A or B come from. `lanes` elements that follow each other are fetched at once.

    Along k if `along_k`, along the rows of A (or columns of B) otherwise, from multiples of `lanes` on.
    """

    lanes: int
    along_k: bool

    def prepare(self, slot: int, position: Index) -> list[Stmt]:
        """Statements before the loop over K that compute what depends on the row of A (column of B) only."""

    def enter(self, number: int, k: Index) -> list[Stmt]:
        """Statements that compute what depends on k only, for a `fetch` that is told the same number."""

    def fetch(
        self, slot: int, position: Index, k: Index, entered: int | None = None
    ) -> tuple[tirx.Expr | bool, tirx.Buffer, Index]:
        """When the element (position, k) exists, and where it is in which flat buffer."""


Write = Callable[[Index, Sequence[Index], Sequence[tirx.Expr]], Stmt]
