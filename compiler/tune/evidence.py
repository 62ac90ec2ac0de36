"""What the measurements of one operator amount to, point by point.

A point may have been measured often: in several sessions, on several machines of the same kind.
- A line that stands there several times counts once.
- A wrong result, ever, rules a point out: the same version of a template generates the same code.
- Otherwise the newest measurement tells whether the point works (crashes and time-outs may be the machine's).
- Its time is the median of its newest five times, those with weights out of cache ("cold") if there are any; of the
  five, times taken while another program worked on the core do not count if there are others.
- Points whose times were taken beside other programs' work give way to all others.
- Points are compared by cold times where any point has one: warm times are shorter and compare with warm ones only.
- Places are asked in order; what a store has imported is a place of its own, after the rest of the store. The first
  that knows a point decides on it; times of later places are scaled by the median ratio of the points that both have
  timed, as another machine of the same kind may run at another clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from .record import NEWEST, Measurement, Point, Record


@dataclass(frozen=True)
class Found:
    """A record and the file it stands in, as artifacts name it: "user:cpu-.../tuned.jsonl"."""

    record: Record
    file: str


@dataclass(frozen=True)
class Known:
    """What is known of a point: `record` is the measurement that decided, `file` where it stands.

    `seconds` is the time of a call, comparable among the points of the operator; None if the point must not be used.
    """

    record: Record
    file: str
    seconds: float | None

    @property
    def point(self) -> Point:
        """What was measured."""
        return self.record.point

    @property
    def measurement(self) -> Measurement:
        """The measurement that decided, with the comparable time."""
        return replace(self.record.measurement, seconds=self.seconds)


def combine(found: Sequence[Found]) -> dict[Point, Known]:
    """What one place's records of one operator say of each point, in the order of first mention."""
    by_identity: dict[int, list[Found]] = {}  # a file's equal points are one object: hashing 20,000 takes 0.1 s
    for item in found:
        by_identity.setdefault(id(item.record.point), []).append(item)
    by_point: dict[Point, list[Found]] = {}
    for items in by_identity.values():
        by_point.setdefault(items[0].record.point, []).extend(items)
    return {point: _decide(items) for point, items in by_point.items()}


def _decide(items: Sequence[Found]) -> Known:
    if len(items) > 1:
        items = _last_of_equals(items)
    newest = sorted(items, key=lambda item: item.record.created)  # stable: of equal dates the later line is the newer
    wrong = [item for item in newest if item.record.measurement.status == "wrong_result"]
    last = (wrong or newest)[-1]
    if not last.record.measurement.ok:
        return Known(last.record, last.file, None)
    timed = [item for item in newest if item.record.measurement.ok and item.record.measurement.seconds]
    cold = [item for item in timed if item.record.measurement.cache == "cold"]
    recent = (cold or timed)[-NEWEST:]
    alone = [item for item in recent if item.record.measurement.alone]
    times = sorted(alone or recent, key=lambda item: item.record.measurement.seconds or 0.0)
    middle = times[(len(times) - 1) // 2]
    return Known(middle.record, middle.file, middle.record.measurement.seconds)


def _last_of_equals(items: Sequence[Found]) -> list[Found]:
    """Without what stands there again further on; the order is kept."""
    places = {(item.record.created, item.record.measurement): k for k, item in enumerate(items)}
    return [items[k] for k in sorted(places.values())]


def join(places: Iterable[dict[Point, Known]]) -> dict[Point, Known]:
    """What all places together say of one operator's points; earlier places have precedence."""
    joined: dict[Point, Known] = {}
    for known in places:
        scale = _scale(joined, known)
        for point, news in known.items():
            if point not in joined:
                joined[point] = replace(news, seconds=news.seconds and news.seconds * scale)
            elif news.record.measurement.status == "wrong_result":
                joined[point] = news
    return joined


def _scale(joined: dict[Point, Known], known: dict[Point, Known]) -> float:
    ratios = []
    for point, news in known.items():
        old = joined.get(point)
        same = old is not None and old.record.measurement.cache == news.record.measurement.cache
        if old is not None and same and old.seconds and news.seconds:
            ratios.append(old.seconds / news.seconds)
    return median(ratios) if ratios else 1.0


def best_of(known: Iterable[Known], factors: Mapping[Point, float] | None = None) -> Known | None:
    """The fastest that works, or None; `factors` are what times count for beside others, 1 where they name no point.

    Of times that other programs' work has disturbed the least errs most: they count only if there are no others.
    """
    usable = [k for k in known if k.seconds is not None]
    comparable = [k for k in usable if k.record.measurement.cache == "cold"] or usable
    sure = [k for k in comparable if k.record.measurement.alone]
    weigh = factors or {}
    return min(sure or comparable, key=lambda k: (k.seconds or 0.0) * weigh.get(k.point, 1.0), default=None)
