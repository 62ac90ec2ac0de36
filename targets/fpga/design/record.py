"""What a design is: a kernel that computes a whole model, where its arrays' values come from, and what it takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..kernel.ir import Kernel
from ..spec import FpgaSpec


@dataclass(frozen=True)
class StageFacts:
    """A stage, one nest of the kernel: `source` is the model's operator, `fold` how far it is unfolded.

    cycles: from the start of its first iteration to its last effect. macs: multiply-accumulates of it. The other
    numbers are counts of blocks that it takes, with the weights that it alone reads.
    """

    name: str
    source: str
    lanes: int
    terms: int
    interleaved: int
    ii: int
    trip: int
    depth: int
    cycles: int
    macs: int
    dsp: int
    bram18: int
    uram: int
    lut: int

    @property
    def fold(self) -> str:
        """How far it is unfolded and what that makes of it, in words."""
        words = ("lanes", "terms", "interleaved", "ii", "cycles", "dsp", "bram18", "uram")
        return ",".join(f"{word}={getattr(self, word)}" for word in words)


@dataclass(frozen=True, eq=False)
class Design:
    """A model in hardware.

    `inputs` and `outputs` name the kernel's arrays of the model's inputs and outputs in the model's order (flat),
    `weights` the others of role "in" with their values. `cycles` are those from start to done, with all data on the
    chip; `simulated` is the same kernel without banks, for fast simulation. `resources` counts blocks by name, of
    which look-up tables are an estimate.
    """

    spec: FpgaSpec
    kernel: Kernel
    simulated: Kernel
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[tuple[str, np.ndarray], ...]
    stages: tuple[StageFacts, ...]
    cycles: int
    resources: tuple[tuple[str, int], ...]
