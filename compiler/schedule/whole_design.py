"""What a target gives that builds hardware for a whole model instead of kernels that a program calls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..device_code import DeviceCode

# The format of a design's code: JSON that the target's simulator reads.
DESIGN = "design"


@dataclass(frozen=True)
class DesignStage:
    """An operator of the model in hardware: its name, what it does, how far it is unfolded, and its operations."""

    name: str
    spec: str
    config: str
    flops: int | None = None


@dataclass(frozen=True, eq=False)
class WholeDesign:
    """A model in hardware.

    `code` has the format DESIGN; `weights` are in the order in which it takes them; `buffers` are sizes in bytes.
    """

    code: DeviceCode
    weights: tuple[np.ndarray, ...]
    stages: tuple[DesignStage, ...]
    buffers: tuple[int, ...]
