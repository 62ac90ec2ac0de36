"""Measures candidates on the nodes of a Ray cluster.

A node offers itself by a resource that is called like the target's key. It gets one actor, which takes all of that
resource so that no other session times anything there meanwhile, and which has a pool of workers of its own. This side
hands out jobs and has at most one call on its way to each actor. A job is done when an answer about it arrives from the
actor that has it now; when that actor is lost, its unanswered jobs go to others, and nothing that it says counts any
more: every job is thus answered exactly once.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from ..errors import KompiloError, UsageError
from ..schedule.op_spec import OpSpec
from ..schedule.target import find_target
from ..version import VERSION
from .measure.job import CACHES, Job
from .measure.protocol import job_to_json
from .measure.queue import JobQueue
from .ray_clock import keep_reference, kept_reference
from .ray_cluster import ClusterNode, import_ray, join, living_nodes
from .ray_node import MeasureNode
from .record import UNCHECKED, Measurement

# Nodes that join while a session runs are found as often as this.
LOOK_EVERY_S = 5.0
# The same while there is none.
WITHOUT_NODES_S = 1.0
# Until a first node is ready. Another session may have them all.
START_TIMEOUT_S = 120.0
CLOSE_TIMEOUT_S = 5.0
# A node that has died is told of by the cluster only after a while.
TRY_AGAIN_AFTER_S = 15.0
# A node is given up when it was lost so often, and so is a job: it may be what kills them.
MOST_LOSSES = 3
# Jobs at a node per worker: one that it measures, and one that it has at hand when that ends.
JOBS_PER_WORKER = 2


@dataclass
class _Seat:
    """A node's actor, the call on its way to it, and the jobs that it has, by number; no `workers`: not ready yet."""

    node: ClusterNode
    actor: Any
    call: Any
    workers: int = 0
    jobs: dict[int, Job] = field(default_factory=dict)
    last: OpSpec | None = None
    spent: dict[str, float] = field(default_factory=dict)

    @property
    def load(self) -> float:
        return len(self.jobs) / self.workers

    @property
    def takes_jobs(self) -> bool:
        return self.workers > 0 and self.call is None and self.load < JOBS_PER_WORKER


class RayPool:
    """As `MeasurePool`, on the nodes of a Ray cluster that have a resource called `find_target(target_name).spec.key`.

    A node measures with as many workers as it has of the resource, at most one per core, and times one candidate at a
    time. Times of all nodes are scaled to one clock by the reference kernel (see `ray_clock`). Nodes may leave and join
    meanwhile. Use the pool as a context manager.

    Args:
        target_name: as for `find_target`; how a node's workers build.
        address: of the cluster ("HOST:6379", "ray://HOST:10001"); by default that which this machine is in.
        timeout_s: as for `MeasurePool`, whose default holds if it is None.

    Raises (when entered):
        TargetError: there is no such target.
        UsageError: Ray is not installed, there is no cluster, or no node of it offers the target.
    """

    def __init__(self, target_name: str, address: str | None = None, timeout_s: float | None = None):
        self._target_name, self._address, self._timeout_s = target_name, address, timeout_s
        self._key = find_target(target_name).spec.key
        self._seats: dict[str, _Seat] = {}
        self._refused: dict[str, str] = {}
        self._node_losses: Counter[str] = Counter()
        self._try_again: dict[str, float] = {}
        self._job_losses: Counter[int] = Counter()
        self._queue = JobQueue()
        self._again: deque[tuple[int, Job]] = deque()
        self._finished: deque[tuple[Job, Measurement]] = deque()
        self._outstanding = self._number = 0
        self._reference_s = kept_reference(target_name, self._key)
        self._left: Counter[str] = Counter()
        self._joined = self._answered = False
        self._began = self._looked = 0.0
        self.notes: list[str] = []

    def __enter__(self) -> RayPool:
        self._joined = join(self._address)
        self._began = time.monotonic()
        try:
            self._look_for_nodes()
            if not self._seats:
                raise UsageError(
                    f"workers: expected nodes of the Ray cluster with a resource {self._key!r}, found none.",
                    f"start them with ray start --address=HOST:6379 --resources='{{\"{self._key}\": 2}}'.",
                )
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        closing = [seat.actor.close.remote() for seat in self._seats.values() if seat.workers]
        if closing:  # nodes then remember their pace
            import_ray().wait(closing, num_returns=len(closing), timeout=CLOSE_TIMEOUT_S)
        for seat in self._seats.values():
            self._kill(seat)
        self._seats.clear()
        if self._joined:
            import_ray().shutdown()
            self._joined = False

    @property
    def spent(self) -> Mapping[str, float]:
        """Seconds of worker time so far, of all nodes together; as `MeasurePool.spent`."""
        total = self._left.copy()
        for seat in self._seats.values():
            total.update(seat.spent)
        return total

    def submit(self, job: Job) -> None:
        """Have `job` measured; returns at once. UsageError if its `cache` is not one of CACHES."""
        if job.cache not in CACHES:
            raise UsageError(f"cache: expected one of {', '.join(CACHES)}, found {job.cache!r}.")
        self._outstanding += 1
        self._queue.add(job)

    def results(self, timeout_s: float | None = None) -> Iterator[tuple[Job, Measurement]]:
        """Jobs with what came of them, in the order in which they end, until none is left or `timeout_s` are over.

        More jobs may be submitted meanwhile. Raises KompiloError if no node is left, or none gets ready.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        over = False
        while True:
            while self._finished:
                self._outstanding -= 1
                yield self._finished.popleft()
            if over or not self._outstanding:
                return
            left = LOOK_EVERY_S if deadline is None else min(LOOK_EVERY_S, deadline - time.monotonic())
            over = left <= 0  # but what is there already is taken
            self._turn(max(0.0, left))

    def _turn(self, timeout_s: float) -> None:
        """Hand out work, then wait for the next answer; with no time left, only take all that is ready."""
        if timeout_s > 0:
            if time.monotonic() - self._looked >= LOOK_EVERY_S:
                self._look_for_nodes()
            self._check_hope()
            self._hand_out()
        calls = {seat.call: seat for seat in self._seats.values() if seat.call is not None}
        if not calls:
            time.sleep(min(timeout_s, WITHOUT_NODES_S))
            return
        answered, _ = import_ray().wait(list(calls), num_returns=1 if timeout_s > 0 else len(calls), timeout=timeout_s)
        for call in answered:
            self._hear(calls[call], call)

    # Nodes.

    def _look_for_nodes(self) -> bool:
        """Start actors on nodes that have none; whether one has an actor now, or will be tried again."""
        self._looked = time.monotonic()
        hope = bool(self._seats)
        for node in living_nodes(self._key):
            known = node.id in self._seats or node.id in self._refused
            if not known and self._node_losses[node.id] < MOST_LOSSES:
                hope = True
                if self._try_again.get(node.id, 0.0) <= self._looked:
                    self._seats[node.id] = self._start(node)
        return hope

    def _start(self, node: ClusterNode) -> _Seat:
        ray = import_ray()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = (
            ray.remote(MeasureNode)
            .options(
                num_cpus=0,
                resources={self._key: node.amount},
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
                # What it was doing is done again by decision of this side alone.
                max_restarts=0,
                max_task_retries=0,
            )
            .remote(self._target_name, self._key, VERSION, int(node.amount), self._timeout_s)
        )
        return _Seat(node, actor, actor.open.remote())

    def _check_hope(self) -> None:
        """KompiloError if waiting is in vain."""
        if not self._seats and not self._look_for_nodes():
            why = "; ".join(self.notes) or "all have left the cluster"
            raise KompiloError(f"no node of the Ray cluster is left that measures for {self._key}: {why}")
        if time.monotonic() - self._began > START_TIMEOUT_S and not self._answered:
            if any(seat.workers for seat in self._seats.values()):
                return
            raise KompiloError(
                f"no node of the Ray cluster with the resource {self._key!r} was free within {START_TIMEOUT_S:g} s.",
                "another session may be using them.",
            )

    def _refuse(self, seat: _Seat, reason: str) -> None:
        """Do without this node for the rest of the session."""
        self._refused[seat.node.id] = reason
        self._drop(seat, f"node {seat.node.name} is not used: {reason}")

    def _lose(self, seat: _Seat) -> None:
        """The actor has died, or its node, or the way to it."""
        self._node_losses[seat.node.id] += 1
        self._try_again[seat.node.id] = time.monotonic() + TRY_AGAIN_AFTER_S
        for number in seat.jobs:
            self._job_losses[number] += 1
        jobs = len(seat.jobs)
        self._drop(seat, f"node {seat.node.name} was lost; jobs done again elsewhere: {jobs}")

    def _drop(self, seat: _Seat, note: str) -> None:
        self.notes.append(note)
        self._kill(seat)
        self._left.update(seat.spent)
        del self._seats[seat.node.id]
        for number, job in seat.jobs.items():
            if self._job_losses[number] < MOST_LOSSES:
                self._again.append((number, job))
            else:
                reason = f"the node was lost each of {MOST_LOSSES} times that it was measured."
                self._finished.append((job, Measurement("crashed", reason=reason, cache=job.cache)))

    @staticmethod
    def _kill(seat: _Seat) -> None:
        """End an actor, whose workers end with it; one that lives on where nobody can reach it is not listened to."""
        import_ray().kill(seat.actor)

    # Work.

    def _hand_out(self) -> None:
        """Give jobs to the nodes with the least to do, and ask those that have some how far they are."""
        new: dict[str, list[tuple[int, dict[str, Any]]]] = {node: [] for node in self._seats}
        while self._again or len(self._queue):
            seats = [seat for seat in self._seats.values() if seat.takes_jobs]
            if not seats:
                break
            seat = min(seats, key=lambda s: s.load)
            number, job = self._next_job(seat)
            seat.jobs[number], seat.last = job, job.op
            new[seat.node.id].append((number, job_to_json(job)))
        for seat in self._seats.values():
            if seat.call is None and seat.jobs:
                seat.call = seat.actor.exchange.remote(new[seat.node.id])

    def _next_job(self, seat: _Seat) -> tuple[int, Job]:
        if self._again:
            return self._again.popleft()
        others = {s.last for s in self._seats.values() if s is not seat and s.jobs and s.last is not None}
        job = self._queue.take(seat.last, others)
        assert job is not None, "asked for only when there is one"
        self._number += 1
        return self._number, job

    def _hear(self, seat: _Seat, call: Any) -> None:
        ray = import_ray()
        try:
            answer = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            self._refuse(seat, f"{type(error.cause).__name__}: {error.cause}".splitlines()[0])
            return
        except ray.exceptions.RayError as error:
            self._on_ray_error(seat, str(error))
            return
        seat.call = None
        if "refused" in answer:
            self._refuse(seat, answer["refused"])
        elif "workers" in answer:
            seat.workers = answer["workers"]
        else:
            self._note(seat, answer)

    def _on_ray_error(self, seat: _Seat, words: str) -> None:
        """An actor that cannot even be made, for want of Kompilo on its node, would fail again."""
        lines = [line.strip() for line in words.splitlines() if "Error: " in line]
        if not seat.workers and "creation task" in words and lines:
            self._refuse(seat, lines[-1])
        else:
            self._lose(seat)

    def _note(self, seat: _Seat, answer: dict[str, Any]) -> None:
        seat.spent = answer["spent"]
        self._answered = True
        own = answer["reference_s"]
        if self._reference_s is None and own:
            self._reference_s = own
            keep_reference(self._key, own)
        # How much slower than this node the one is whose clock counts.
        scale = self._reference_s / own if own and self._reference_s else 1.0
        for number, data in answer["done"]:
            job = seat.jobs.pop(number)
            if data["status"] == UNCHECKED:
                self._finished.append((job, Measurement(UNCHECKED, reason=str(data["reason"]), cache=job.cache)))
                continue
            measurement = Measurement.from_json(data)
            if measurement.seconds is not None:
                seconds, speed = measurement.seconds * scale, measurement.speed * scale
                measurement = replace(measurement, seconds=seconds, speed=speed)
            self._finished.append((job, measurement))
