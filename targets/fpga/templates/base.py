"""What a kernel template is: a problem's loop kernel for each config of a small space, and its reference in numpy."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from ....compiler.errors import KompiloError
from ....compiler.schedule.template import Config, Space
from ..kernel.ir import Kernel
from ..spec import FpgaSpec

Problem = TypeVar("Problem")


class KernelTemplate(ABC, Generic[Problem]):
    """`version` is raised whenever the kernels or the meaning of a knob change."""

    name: str
    version: int = 1

    @abstractmethod
    def space(self, problem: Problem, spec: FpgaSpec) -> Space:
        """Configs of `problem` that fit the part; the default is the fastest by arithmetic on lanes."""

    @abstractmethod
    def build(self, problem: Problem, config: Config) -> Kernel:
        """The kernel; KompiloError if a knob is out of range."""

    @abstractmethod
    def reference(self, problem: Problem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the kernel's outputs are, in numpy, bit by bit; where configs differ in the order of float sums, those
        of one lane."""

    def expected(self, problem: Problem, config: Config, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the outputs of this config's kernel are, bit by bit."""
        return self.reference(problem, inputs)


def powers_to(limit: int) -> list[int]:
    """1, 2, 4, ... up to `limit`, and `limit` itself."""
    powers = [1 << k for k in range(limit.bit_length()) if 1 << k <= limit]
    return powers if powers[-1] == limit else [*powers, limit]


def check_knob(template: str, name: str, value: int, most: int) -> int:
    """`value`; KompiloError unless it lies in 1..most."""
    if not 1 <= value <= most:
        raise KompiloError(f"FPGA template {template}, knob {name}: expected 1..{most}, found {value}.")
    return value


def check_sizes(template: str, problem: Any, **sizes: int) -> None:
    """KompiloError unless all sizes are above 0."""
    bad = {name: size for name, size in sizes.items() if size < 1}
    if bad:
        raise KompiloError(f"FPGA template {template}: expected sizes above 0, found {bad} in {problem}.")


# Lanes beyond this make modules that no tool places well; larger engines are built of several kernels.
MAX_LANES = 1024


def lane_space(choices: Mapping[str, Sequence[int]], lanes: Sequence[str], limit: int) -> Space:
    """All combinations of `choices` whose knobs `lanes` multiply to `limit` at most; most lanes first, then even
    shapes."""
    names = list(choices)
    found = []
    for values in itertools.product(*choices.values()):
        knobs = dict(zip(names, values, strict=True))
        width = int(np.prod([knobs[k] for k in lanes]))
        if width <= min(limit, MAX_LANES):
            found.append((-width, max(knobs[k] for k in lanes), Config.of(**knobs)))
    ordered = [config for _, _, config in sorted(found, key=lambda x: (x[0], x[1], str(x[2])))]
    return Space(ordered[0], tuple(ordered))
