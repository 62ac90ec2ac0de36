"""Projects of hardware for other tools, with the data of one run to check them by."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import UsageError
from .tensor_spec import TensorSpec

if TYPE_CHECKING:
    from .schedule.target import Target

# Of random integers, which may be indices of something small.
_LARGEST_INTEGER = 100

# What tells an earlier project from a folder with other files.
_MARKS = ("report.json", "run_hls.tcl")

Run = Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]


def check_project(project: str | os.PathLike[str] | None, targets: Mapping[str, Target]) -> None:
    """UsageError unless exactly one of `targets` writes projects, where a project is asked for."""
    if project is None:
        return
    able = [name for name, target in targets.items() if target.writes_projects]
    if len(able) != 1:
        found = " and ".join(able) or " and ".join(targets)
        raise UsageError(f"project: expected one target that builds hardware (fpga:PART), found {found}.")
    if Path(project).exists() and not Path(project).is_dir():
        raise UsageError(f"project: expected a folder, found the file {str(project)!r}.")
    if not os.fspath(project):
        raise UsageError("project: expected a folder, found an empty name.")
    folder = Path(project)
    if folder.is_dir() and any(folder.iterdir()) and not all((folder / name).is_file() for name in _MARKS):
        raise UsageError(f"project: expected a new folder or an earlier project, found files in {str(project)!r}.")


def write_project(
    project: str | os.PathLike[str], targets: Mapping[str, Target], inputs: Sequence[TensorSpec], run: Run
) -> None:
    """Writes the project of the target among `targets` that has one. `run` computes the model on this machine: what the
    project's testbench expects of random inputs (seed 0)."""
    rng = np.random.default_rng(0)
    feeds = {spec.name: _random(rng, spec) for spec in inputs}
    outputs = run(feeds)
    for target in targets.values():
        if target.writes_projects:
            target.write_project(Path(project), list(feeds.values()), list(outputs))


def _random(rng: np.random.Generator, spec: TensorSpec) -> np.ndarray:
    shape, kind = [int(d) for d in spec.shape], np.dtype(spec.dtype).kind
    if kind == "f":
        return rng.standard_normal(shape).astype(spec.dtype)
    return rng.integers(0, 2 if kind == "b" else _LARGEST_INTEGER, shape).astype(spec.dtype)
