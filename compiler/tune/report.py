"""What a tuning session knows and says: a snapshot while it runs, a report at its end."""

from __future__ import annotations

from dataclasses import dataclass

from ..schedule.op_spec import OpSpec
from .record import Point


@dataclass(frozen=True)
class TaskState:
    """How far one operator has come. Times are seconds of one call, on one thread or on a whole device; None where
    nothing was measured yet.

    The best config is the one worth most on all cores (`TaskSearch.best`), which need not be the fastest on one.

    `start_seconds` is the time of the config that would be used without this session, `best_seconds` the best time
    known, `predicted_seconds` what the cost model thinks the best untried point takes. `history` holds
    (seconds since the session began, best time then), growing with each improvement.
    """

    op: OpSpec
    calls: int
    points: int
    tried: int
    failed: int
    start_point: Point
    start_seconds: float | None
    best_point: Point | None
    best_seconds: float | None
    predicted_seconds: float | None
    history: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class SessionState:
    """A snapshot: `elapsed_s` of `budget_s` seconds are gone; `measured` and `failed` count candidates of this session.

    `running` is False in the last snapshot, which says in `stopped` why the session ended.
    """

    tasks: tuple[TaskState, ...]
    elapsed_s: float
    budget_s: float | None
    measured: int
    failed: int
    running: bool = True
    stopped: str = ""

    def model_seconds(self, start: bool = False) -> float | None:
        """Predicted time of the tuned operators of one inference, with the best times or those of the start."""
        times = [(t.start_seconds if start else t.best_seconds, t.calls) for t in self.tasks]
        if not times or any(seconds is None for seconds, _ in times):
            return None
        return sum(seconds * calls for seconds, calls in times if seconds is not None)


@dataclass(frozen=True)
class TuneReport:
    """The end of a session: the last snapshot, where its records lie, and where its time went.

    `search_s` is the time spent choosing what to measure (cost model included), outside of measuring.
    `skipped` names operators that could not be tuned because their sizes are only known at run time.
    `notes` are sentences on nodes of a cluster that were lost or not used. Times are those of a `whole_device`, or of
    one thread.
    """

    model: str
    target: str
    state: SessionState
    records: str
    search_s: float
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    whole_device: bool = False
