"""What a template is: an algorithm with its schedule, and the small space of configs it can be built with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .op_spec import OpSpec, TensorType
from .target_spec import TargetSpec
from .traits import Traits

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

Packer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Config:
    """A point of a template's space: knob names with int or string values, in the template's own order."""

    knobs: tuple[tuple[str, int | str], ...]

    @classmethod
    def of(cls, **knobs: int | str) -> Config:
        """`Config.of(block_oc=32, tile_w=7)`."""
        return cls(tuple(knobs.items()))

    def __getitem__(self, name: str) -> int | str:
        return dict(self.knobs)[name]

    def int(self, name: str) -> int:
        """The knob `name` as an int."""
        return int(self[name])

    def __str__(self) -> str:
        return ",".join(f"{k}={v}" for k, v in self.knobs)


@dataclass(frozen=True)
class Space:
    """The configs a template offers for one OpSpec: `default` is the analytic choice, for when nothing was measured."""

    default: Config
    configs: tuple[Config, ...] = ()

    def __iter__(self) -> Iterator[Config]:
        yield self.default
        yield from (c for c in self.configs if c != self.default)


@dataclass(frozen=True)
class Candidate:
    """Scheduled code for an OpSpec.

    `func` takes the OpSpec's inputs in order (constant ones listed in `packers` in their packed shape), then the output
    buffer. `packers[k]` maps the constant operand k (numpy, the OpSpec's shape) to the array that `func` expects.
    Where there is a `workspace`, `func` takes an array of that type behind the output and may leave anything in it.
    """

    func: PrimFunc
    packers: Mapping[int, Packer] = field(default_factory=dict)
    workspace: TensorType | None = None

    @property
    def standalone(self) -> PrimFunc:
        """`func` without the parameter for the workspace, which its host code then allocates."""
        if self.workspace is None:
            return self.func
        from tvm import tirx

        *params, workspace = self.func.params
        body = tirx.SeqStmt([tirx.AllocBuffer(workspace), self.func.body])
        return tirx.PrimFunc(params, body, self.func.ret_type, self.func.attrs)


class Template(ABC):
    """An algorithm for one kind of operator on one kind of hardware.

    `version` is raised whenever the generated code or the meaning of a knob changes; that voids older records.
    """

    name: str
    version: int = 1

    @abstractmethod
    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """The space of configs for `op`, or None when this template does not apply; touches nothing."""

    @abstractmethod
    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """Generate the code of `op` with `config`, a member of the space that `match` returned."""

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """What the cost model should know about `configs`, members of the space of `op`: see `traits.TRAITS`.

        Each value is a column with a number for each config, or one number for all. A template that says nothing is
        judged by its operator and its knobs alone.
        """
        return {}
