"""`kompilo tune MODEL --target fpga:PART`: search the designs of a whole model, and remember the fastest.

Nothing is run: a design's cycles and blocks are known exactly from its kernel.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..driver import check_precision, quantize_model
from ..errors import UsageError
from ..frontend.importer import import_model
from ..model_source import resolve
from ..passes.lift_weights import lift_weights
from ..passes.pipeline import run_phases
from ..schedule.selection import Selector
from ..schedule.target import Target, find_target
from ..schedule.whole_design import DesignPoint, DesignSpace
from ..version import VERSION
from .budget import budget_seconds
from .design_records import DesignRecord, add_design
from .interrupts import Interrupts
from .library import RecordLibrary
from .session import INTERRUPTED, OUT_OF_TIME, OUT_OF_TRIALS
from .store import RecordStore, user_store

if TYPE_CHECKING:
    import tvm

    from ..calibration.samples import Source as Calibration
    from ..driver import Model


@dataclass(frozen=True)
class DesignReport:
    """What a session found. `default` is what is built without tuning, None if that does not fit: `problem` says why.

    `best` may be of an earlier session, whose record then stands among the `tried`. `stopped` says why it ended.
    """

    model: str
    target: str
    key: str
    default: DesignPoint | None
    problem: str
    best: DesignPoint
    tried: tuple[DesignPoint, ...]
    elapsed_s: float
    stopped: str
    records: str

    @property
    def speedup(self) -> float | None:
        """Cycles by default over those of the best."""
        return self.default.cycles / self.best.cycles if self.default else None


Listener = Callable[[int, DesignPoint, DesignPoint], None]


def _silent(number: int, point: DesignPoint, best: DesignPoint) -> None:
    """Without a listener."""


def tune_design(
    model: Model,
    target: str,
    budget: str | float | None = "5m",
    trials: int | None = None,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    records: str | os.PathLike[str] | None = None,
    seed: int = 0,
    precision: str = "fp32",
    calibration: Calibration | None = None,
    calibration_method: str = "minmax",
    progress: Listener = _silent,
) -> DesignReport:
    """Search designs of `model` for an FPGA; `kompilo.compile` then builds the fastest that is recorded.

    Args:
        trials: most designs to build and estimate; None: no limit. The time of `budget` is looked at between them.
        progress: called with (number, design, best so far) for every design that fits.
        others: as for `kompilo.tune` and `kompilo.compile`.

    Raises:
        ModelError, InputError, TargetError, UsageError: one sentence on what was expected and found.
    """
    hardware = find_target(target)
    check_precision(precision, {target: hardware}, calibration)
    seconds = None if budget is None else budget_seconds(budget)
    if trials is not None and trials < 1:
        raise UsageError(f"trials: expected a whole number of at least 1, or None, found {trials!r}.")
    store = RecordStore(Path(records)) if records is not None else user_store()
    with store.locked(hardware.spec.key):
        pass  # records that cannot be written are told of before anything is searched
    began = time.monotonic()
    imported = import_model(resolve(model), inputs)
    mod = imported.mod
    if calibration is not None:
        mod = quantize_model(imported, calibration, calibration_method).mod
    space = _space(mod, hardware, precision)
    name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else "model in memory"
    earlier = [r.point for r in RecordLibrary((store,)).designs(hardware.spec.key, space.key)]
    session = _Session(space, [*([space.default] if space.default else []), *earlier], began, seconds, trials, progress)

    def keep(point: DesignPoint) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        add_design(store, DesignRecord(hardware.spec.key, space.key, name, point, now, VERSION))

    stopped = session.run(seed, keep)
    elapsed = time.monotonic() - began
    return DesignReport(
        name, hardware.spec.key, space.key, space.default, space.problem, session.best(), tuple(session.tried), elapsed,
        stopped, str(store.folder),
    )  # fmt: skip


def _space(mod: tvm.ir.IRModule, hardware: Target, precision: str) -> DesignSpace:
    selector = Selector(hardware, precision=precision)
    final, weights = lift_weights(run_phases(mod, hardware, selector=selector))
    space = hardware.design_space(final, weights)
    if space is None:
        raise UsageError(f"target {hardware.spec.key}: expected one that builds hardware of whole models.")
    return space


class _Session:
    """Takes designs from a space until the time or the trials are up; `tried` starts with what is known."""

    def __init__(
        self,
        space: DesignSpace,
        known: Sequence[DesignPoint],
        began: float,
        seconds: float | None,
        trials: int | None,
        progress: Listener,
    ):
        self.space, self.tried, self.progress = space, list(known), progress
        self.trials, self.deadline = trials, None if seconds is None else began + seconds
        self.interrupts = Interrupts()

    def best(self) -> DesignPoint:
        """The fastest; of equally fast ones the first."""
        return min(self.tried, key=lambda p: p.cycles)

    def late(self) -> bool:
        """Whether to end; not before one design was found."""
        return self.interrupts.asked or (
            bool(self.tried) and self.deadline is not None and time.monotonic() >= self.deadline
        )

    def run(self, seed: int, keep: Callable[[DesignPoint], None]) -> str:
        """Why it ended; `keep` is called with each design that is faster than all before."""
        with self.interrupts:
            for number, point in enumerate(self._points(seed), 1):
                if not self.tried or point.cycles < self.best().cycles:
                    keep(point)
                self.tried.append(point)
                self.progress(number, point, self.best())
        if not self.tried:
            raise KeyboardInterrupt
        if self.interrupts.asked:
            return INTERRUPTED
        return OUT_OF_TIME if self.late() else OUT_OF_TRIALS

    def _points(self, seed: int) -> Iterator[DesignPoint]:
        return itertools.islice(self.space.points(seed, self.late), self.trials)
