"""Pipelines over a chain of nodes, exact: which devices, in which order, with which cuts, and how many side by side.

A unit is a device, or a team of units (the devices of a node, the nodes of a site). Its table says, for each segment
[i, j) of the chain, in how many seconds it can serve one request after another. A team's table comes from those of its
members by two dynamic programmes:

    pipe(v, c, j) = min over i, b of  max(pipe(v - c, b, i), link(b, c, i), table(c, i, j))
    rate(v)       = max over u <= v of  1 / pipe(u) + rate(v - u)

where v counts the members of each class (those that are alike) and c is the class of the last stage. The first finds
the pipeline whose slowest stage or link is fastest, the second which pipelines stand side by side. Both are exact for
tables and links that do not wait for each other; what several pipelines share is seen to by `throughput`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf, prod

import numpy as np

# A stage: device, first node, end.
Piece = tuple[int, int, int]
# Pieces that follow each other, and how many requests a second they serve.
Flow = tuple[float, tuple[Piece, ...]]
Vector = tuple[int, ...]
# link(a, b): seconds that each cut, shape (cuts,), keeps the link from a device of `a` to one of `b` busy.
LinkSeconds = Callable[[Sequence[int], Sequence[int]], np.ndarray]


class Unit(ABC):
    """Devices that serve segments of a chain."""

    devices: tuple[int, ...]
    # Units of equal signatures can stand for each other.
    signature: object

    @abstractmethod
    def table(self) -> np.ndarray:
        """Seconds a request of each segment [i, j), shape (cuts, cuts); inf where it does not fit, or is none."""

    @abstractmethod
    def flows(self, i: int, j: int) -> list[Flow]:
        """How it serves the segment [i, j) so."""


@dataclass(frozen=True, eq=False)
class Single(Unit):
    """One device; `seconds` is its table."""

    device: int
    seconds: np.ndarray
    signature: object

    @property
    def devices(self) -> tuple[int, ...]:  # type: ignore[override]
        """The device."""
        return (self.device,)

    def table(self) -> np.ndarray:
        """As given."""
        return self.seconds

    def flows(self, i: int, j: int) -> list[Flow]:
        """The segment as one stage."""
        return [(1.0 / self.seconds[i, j], ((self.device, i, j),))]


class Team(Unit):
    """Units that work together. With `from_start` only segments that begin at 0 are of interest."""

    def __init__(self, members: Sequence[Unit], link: LinkSeconds, from_start: bool = False):
        by_class: dict[object, list[Unit]] = {}
        for unit in members:
            by_class.setdefault(unit.signature, []).append(unit)
        self.classes = list(by_class.values())
        self.counts: Vector = tuple(len(c) for c in self.classes)
        self.devices = tuple(d for unit in members for d in unit.devices)
        self.signature = tuple(sorted((repr(s), len(c)) for s, c in by_class.items()))
        self._tables = [c[0].table() for c in self.classes]
        self._links = self._between(link)
        cuts = self._tables[0].shape[0]
        self._starts = [0] if from_start else list(range(cuts))
        self._pipe: dict[tuple[Vector, int], np.ndarray] = {}
        self._best: dict[Vector, np.ndarray] = {}
        self._rate: dict[Vector, np.ndarray] = {}
        self._solve()

    def _between(self, link: LinkSeconds) -> dict[tuple[int, int], np.ndarray]:
        """Seconds of each cut on the slowest link from a unit of one class to one of another, or of the same."""
        found = {}
        for a, b in product(range(len(self.classes)), repeat=2):
            pairs = [(x, y) for x in self.classes[a] for y in self.classes[b] if x is not y]
            if pairs:
                found[a, b] = np.max([link(x.devices, y.devices) for x, y in pairs], axis=0)
        return found

    def _solve(self) -> None:
        for v in product(*(range(n + 1) for n in self.counts)):
            if not any(v):
                self._rate[v] = np.zeros((len(self._starts), self._tables[0].shape[0]))
                continue
            for c in self._classes_in(v):
                self._pipe[v, c] = self._last_stage(v, c)
            self._best[v] = np.min([self._pipe[v, c] for c in self._classes_in(v)], axis=0)
            with np.errstate(divide="ignore"):
                options = [1.0 / self._best[u] + self._rate[_minus(v, u)] for u in _parts(v)]
            options += [self._rate[_less(v, c)] for c in self._classes_in(v)]
            self._rate[v] = np.max(options, axis=0)

    def _classes_in(self, v: Vector) -> list[int]:
        return [c for c, n in enumerate(v) if n]

    def _before(self, v: Vector, c: int) -> np.ndarray | None:
        """The bottleneck of everything ahead of a last stage of class `c`, its link included, by start and cut."""
        rest = _less(v, c)
        ahead = [np.maximum(self._pipe[rest, b], self._links[b, c][None, :]) for b in self._classes_in(rest)]
        return np.min(ahead, axis=0) if ahead else None

    def _last_stage(self, v: Vector, c: int) -> np.ndarray:
        before = self._before(v, c)
        if before is None:
            return self._tables[c][self._starts]
        return np.stack([np.min(np.maximum(row[:, None], self._tables[c]), axis=0) for row in before])

    def table(self) -> np.ndarray:
        """From the best pipelines side by side; segments that do not begin at a known start are inf."""
        cuts = self._tables[0].shape[0]
        seconds = np.full((cuts, cuts), inf)
        with np.errstate(divide="ignore"):
            seconds[self._starts] = 1.0 / self._rate[self.counts]
        return seconds

    def flows(self, i: int, j: int) -> list[Flow]:
        """The pipelines of the best choice, each expanded to devices."""
        row = self._starts.index(i)
        free = [list(units) for units in self.classes]
        found: list[Flow] = []
        for u in self._groups(row, j):
            stages = [(free[c].pop(), a, b) for c, a, b in self._stages(u, row, j)]
            found += side_by_side([unit.flows(a, b) for unit, a, b in stages], 1.0 / self._best[u][row, j])
        return found

    def _groups(self, row: int, j: int) -> Iterator[Vector]:
        """How the members are divided among pipelines."""
        v = self.counts
        while any(v) and self._rate[v][row, j] > 0:
            unused = next(
                (c for c in self._classes_in(v) if self._rate[_less(v, c)][row, j] >= self._rate[v][row, j]), None
            )
            if unused is not None:
                v = _less(v, unused)
                continue
            with np.errstate(divide="ignore"):
                u = max(_parts(v), key=lambda u: 1.0 / self._best[u][row, j] + self._rate[_minus(v, u)][row, j])
            yield u
            v = _minus(v, u)

    def _stages(self, u: Vector, row: int, j: int) -> list[Piece]:
        """(class, first node, end) of the stages of the best pipeline of the members `u`."""
        stages: list[Piece] = []
        last: int | None = None
        while any(u):
            link = {c: self._links[c, last][j] if last is not None else 0.0 for c in self._classes_in(u)}
            c = min(link, key=lambda c: (max(self._pipe[u, c][row, j], link[c]), c))
            before = self._before(u, c)
            if before is None:
                stages.append((c, self._starts[row], j))
            else:
                i = int(np.argmin(np.maximum(before[row], self._tables[c][:, j])))
                stages.append((c, i, j))
                j = i
            u, last = _less(u, c), c
        return stages[::-1]


def _less(v: Vector, c: int) -> Vector:
    return (*v[:c], v[c] - 1, *v[c + 1 :])


def _minus(v: Vector, u: Vector) -> Vector:
    return tuple(a - b for a, b in zip(v, u, strict=True))


def _parts(v: Vector) -> list[Vector]:
    """All u <= v but nothing."""
    return [u for u in product(*(range(n + 1) for n in v)) if any(u)]


def states(counts: Sequence[int]) -> int:
    """How many vectors a team with so many members of each class looks at."""
    return prod(n + 1 for n in counts)


def side_by_side(stages: Sequence[list[Flow]], rate: float) -> list[Flow]:
    """Flows through stages that each have several: requests are handed on so that every part gets its share.

    `rate` is that of all together; each stage's flows serve at least as many.
    """
    ends = []
    for flows in stages:
        total = sum(r for r, _ in flows)
        ends.append(np.cumsum([r / total for r, _ in flows]))
    marks = sorted({round(float(e), 12) for cumulated in ends for e in cumulated} | {1.0})
    found: list[Flow] = []
    begin = 0.0
    for mark in marks:
        if mark - begin < 1e-9:
            continue
        middle = (begin + mark) / 2
        pieces = tuple(
            piece
            for flows, cumulated in zip(stages, ends, strict=True)
            for piece in flows[min(int(np.searchsorted(cumulated, middle)), len(flows) - 1)][1]
        )
        found.append((rate * (mark - begin), pieces))
        begin = mark
    return found
