"""What people want to know of a session, in numbers: per operator and for the model as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from ..schedule.flops import bytes_moved, flops, peak_dtype
from ..schedule.op_spec import OpSpec
from ..schedule.op_words import distinct_words
from ..schedule.roofline import Roofline
from .report import SessionState, TaskState


@dataclass(frozen=True)
class Row:
    """One operator. `share` is its part of the time of all operators whose time is known, 0 to 1."""

    words: str
    task: TaskState
    share: float | None
    roofline: Roofline | None

    @property
    def flops(self) -> int | None:
        """Floating-point operations of a call, done directly."""
        return flops(self.task.op)

    @property
    def bytes(self) -> int | None:
        """Bytes that a call must move at least."""
        return bytes_moved(self.task.op)

    def flops_per_second(self, start: bool = False) -> float | None:
        """The rate of a call with the best config, or with that of the start."""
        seconds = self.task.start_seconds if start else self.task.best_seconds
        return self.flops / seconds if self.flops and seconds else None

    @property
    def of_roofline(self) -> float | None:
        """The least time that the machine's rates allow, as a part of the best time; of types whose rate is known.

        May exceed 1 where fewer operations are done than are counted (Winograd), or data come from a nearer cache.
        """
        if self.roofline is None or not self.task.best_seconds or self.bytes is None:
            return None
        dtype = peak_dtype(self.task.op)
        if self.roofline.rate(dtype) is None or (not self.roofline.peaks and _mixed(self.task.op)):
            return None
        return self.roofline.least_seconds(self.flops or 0, self.bytes, dtype) / self.task.best_seconds

    @property
    def speedup(self) -> float | None:
        """Time before over time now."""
        before, after = self.task.start_seconds, self.task.best_seconds
        return before / after if before and after else None

    @property
    def changed(self) -> bool:
        """Whether another config than that of the start is now the best."""
        return self.task.best_point is not None and self.task.best_point != self.task.start_point


def _mixed(op: OpSpec) -> bool:
    return any(t.dtype != op.inputs[0].dtype for t in op.inputs)


def rows(state: SessionState, roofline: Roofline | None = None) -> list[Row]:
    """The operators of `state`, those that take most of the time first, then those not measured yet."""
    words = distinct_words([t.op for t in state.tasks])
    total = sum(t.calls * t.best_seconds for t in state.tasks if t.best_seconds is not None)
    found = []
    for word, task in zip(words, state.tasks, strict=True):
        share = task.calls * task.best_seconds / total if task.best_seconds is not None and total else None
        found.append(Row(word, task, share, roofline))
    return sorted(found, key=lambda row: -1.0 if row.share is None else row.share, reverse=True)


def model_history(state: SessionState) -> list[tuple[float, float]]:
    """(seconds since the session began, predicted time of the model then), from when every operator was measured."""
    if not state.tasks or any(not t.history for t in state.tasks):
        return []
    began = max(t.history[0][0] for t in state.tasks)
    moments = sorted({began, *(when for t in state.tasks for when, _ in t.history if when > began)})
    totals = [(when, sum(t.calls * _at(t, when) for t in state.tasks)) for when in moments]
    return [*totals, (state.elapsed_s, totals[-1][1])] if state.elapsed_s > moments[-1] else totals


def _at(task: TaskState, when: float) -> float:
    return next(seconds for moment, seconds in reversed(task.history) if moment <= when)
