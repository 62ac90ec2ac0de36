"""What both simulators are given and what they give."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ....compiler.errors import KompiloError, TargetError
from ..kernel.ir import Array, Kernel

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Case:
    """A kernel with its "in" arrays by name, and the "out" arrays that are expected, where the simulator shall
    compare."""

    kernel: Kernel
    inputs: Arrays
    expected: Arrays | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """The "out" arrays, how many elements differ from what was expected (bit by bit), and cycles (RTL only)."""

    outputs: dict[str, np.ndarray]
    mismatches: int = 0
    cycles: int | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """Outcomes in the order of the cases, and whether the simulator's own check failed: its exit status is 1 then."""

    outcomes: list[Outcome] = field(default_factory=list)
    failed: bool = False


def check_arrays(case: Case) -> None:
    """Raises KompiloError unless the arrays of `case` have the shapes and dtypes of the kernel's."""
    for role, given in (("in", case.inputs), ("out", case.expected)):
        for array in case.kernel.role(role) if given is not None else ():
            _check(case.kernel, array, given.get(array.name) if given is not None else None)


def _check(kernel: Kernel, array: Array, data: np.ndarray | None) -> None:
    expected = f"{array.dtype.numpy()}{list(array.shape)}"
    found = f"{data.dtype}{list(data.shape)}" if data is not None else "nothing"
    if expected != found:
        raise KompiloError(f"FPGA kernel {kernel.name}, array {array.name}: expected {expected}, found {found}.")


def tool(name: str, package: str) -> str:
    """The path of a program; TargetError says which package has it."""
    found = shutil.which(name)
    if found is None:
        raise TargetError(f"fpga: {name} is not installed.", f"install the system package {package}.")
    return found
