"""What all templates for products of matrices have in common: they differ in the unit that multiplies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ..spec import GpuSpec
from .gemm_problem import GemmProblem


@dataclass(frozen=True)
class Found:
    """An operator that a template takes: as a product, how the unit multiplies it, and the GPU."""

    problem: GemmProblem
    unit: Any
    spec: GpuSpec


class GemmTemplate(Template):
    """Products on one kind of unit; `product` reads the operators of one kind."""

    version = 2

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """The tiles for a product that is worth while, of types that the unit multiplies."""
        found = self._read(op, target)
        return self.space(found) if found is not None and found.problem.worthwhile and self.accepts(found) else None

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel; constant right operands are packed."""
        return self.candidate(self._known(op, target), config)

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        return self.traits_of(self._known(op, target), configs)

    def _known(self, op: OpSpec, target: TargetSpec) -> Found:
        found = self._read(op, target)
        assert found is not None, "match accepts only such operators"
        return found

    def _read(self, op: OpSpec, target: TargetSpec) -> Found | None:
        if not isinstance(target, GpuSpec):
            return None
        unit = self.unit(op, target)
        problem = self.product(op) if unit is not None else None
        return Found(problem, unit, target) if problem is not None else None

    @abstractmethod
    def product(self, op: OpSpec) -> GemmProblem | None:
        """`op` as a product; None where it is of another kind."""

    @abstractmethod
    def unit(self, op: OpSpec, spec: GpuSpec) -> Any:
        """How `spec` multiplies the operands of `op`; None where it does not."""

    def accepts(self, found: Found) -> bool:
        """Whether this template is the right one for the product's sizes and layouts."""
        return True

    @abstractmethod
    def space(self, found: Found) -> Space | None:
        """The tiles, likeliest first."""

    @abstractmethod
    def candidate(self, found: Found, config: Config) -> Candidate:
        """The kernel with the tile of `config`."""

    @abstractmethod
    def traits_of(self, found: Found, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
