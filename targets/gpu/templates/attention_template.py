"""What templates of attention have in common, whichever unit multiplies: from an operator to configs and a kernel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tvm import tirx
from tvm.tirx import Stmt

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.index_math import ceil_div
from ...shared.tir_loops import Index, seq
from ..launch import bound_to, narrow
from ..spec import GpuSpec
from .attention_costs import Work, attention_traits, offered
from .attention_problem import AttentionMemory, AttentionProblem, Batch, read_attention
from .gemm_index import Held

Block = Callable[[tirx.Expr, Index, Batch], Stmt]


@dataclass(frozen=True)
class Found:
    """What is to be computed, for which GPU, and by which of its instructions."""

    problem: AttentionProblem
    spec: GpuSpec
    unit: Any = None


class AttentionTemplate(Template):
    """Attention by the tiles that a subclass has."""

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """The likeliest tiles, best first; None where the operator is none of this template's, or no tile runs."""
        found = self._found(op, target)
        if found is None:
            return None
        works = [(tile, self.work(found, tile)) for tile in self.tiles(found)]
        configs = tuple(tile.config() for tile in offered(found.problem, found.spec, works))
        return Space(configs[0], configs) if configs else None

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel."""
        found = self._accepted(op, target)
        indices = Held.of(op)
        memory = AttentionMemory(found.problem, indices)
        return Candidate(memory.function(self.kernel(found, self.tile_of(found, config), memory, indices)))

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        found = self._accepted(op, target)
        works = [self.work(found, self.tile_of(found, c)) for c in configs]
        return attention_traits(found.problem, found.spec, works)

    def _found(self, op: OpSpec, target: TargetSpec) -> Found | None:
        problem = read_attention(op)
        return None if problem is None or not isinstance(target, GpuSpec) else self.read(problem, target)

    def _accepted(self, op: OpSpec, target: TargetSpec) -> Found:
        found = self._found(op, target)
        assert found is not None, "match accepts only such operators"
        return found

    @abstractmethod
    def read(self, problem: AttentionProblem, spec: GpuSpec) -> Found | None:
        """What is to be computed; None where this template does not."""

    @abstractmethod
    def tiles(self, found: Found) -> Iterable[Any]:
        """All tiles that run without spilling registers."""

    @abstractmethod
    def tile_of(self, found: Found, config: Config) -> Any:
        """The tile of a config."""

    @abstractmethod
    def work(self, found: Found, tile: Any) -> Work:
        """What a block of a tile does."""

    @abstractmethod
    def kernel(self, found: Found, tile: Any, memory: AttentionMemory, indices: Held) -> Stmt:
        """All rows of all batches by one tile size."""


class Sizes(Protocol):
    """Queries of a block, and its threads."""

    @property
    def bm(self) -> int: ...

    @property
    def threads(self) -> int: ...


def each_block(problem: AttentionProblem, memory: AttentionMemory, indices: Held, tile: Sizes, block: Block) -> Stmt:
    """All rows of all batches, those that see most keys first; `block` is told thread, first row, and operands."""
    tiles = ceil_div(memory.rows, tile.bm)

    def one(number: Index, thread: tirx.Expr) -> Stmt:
        batch, place = indices.quotient(number, tiles), indices.remainder(number, tiles)
        if problem.causal:
            place = indices.const(tiles) - 1 - place
        rowing, row = indices.name("row", place * tile.bm)
        batching, batch = indices.name("batch", batch)
        return seq(*rowing, *batching, block(thread, row, memory.batch(batch)))

    return bound_to(
        "blockIdx.x",
        memory.batches * tiles,
        lambda number: bound_to("threadIdx.x", tile.threads, lambda t: one(indices.const(number), narrow(t))),
    )
