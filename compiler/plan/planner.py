"""The planner: candidates for an objective, all judged by the simulator, every device alone among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil, exp, log

from ..errors import UsageError
from ..number_words import size_text
from .cluster import Cluster
from .grouping import Grouped, group, reordered
from .latency import SEARCH_STEPS, Score, search
from .layout import LaidRoute, lay_out
from .outcome import Simulation
from .plan import NARROW, Plan, alone
from .simulate import simulate
from .throughput import MOST_INNER_NODES, MOST_NODES, needs_levels, pipelines
from .work import TimedWork

# Nodes that the search for latency looks at: it simulates hundreds of plans.
LATENCY_NODES = 72
# Requests in a simulation of throughput, and of one more for each route.
_REQUESTS, _REQUESTS_A_ROUTE = 400, 40
# A run goes on until pipelines were filled this often, but no longer than this.
_TIMES_FILLED, _MOST_REQUESTS = 25, 4000
# How many pipelines are simulated for each way of narrowing, and up to how long queues may be to bridge latencies.
_CANDIDATES, _LONGEST_QUEUE = 4, 128


@dataclass(frozen=True)
class Wish:
    """What to plan for. `deadline_s` bounds a request that is alone; `max_error` what tensors may lose on slow links,
    relative to their largest element and added up along a request's way; `micro_batches` are the divisions to try."""

    objective: str = "latency"
    deadline_s: float | None = None
    max_error: float = 0.0
    micro_batches: tuple[int, ...] = (1,)
    steps: int = SEARCH_STEPS

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UsageError(f"objective: expected one of {', '.join(OBJECTIVES)}, found {self.objective!r}.")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise UsageError(f"deadline: expected more than 0 seconds, found {self.deadline_s}.")
        if not 0 <= self.max_error < 1:
            raise UsageError(f"max error: expected at least 0 and below 1, found {self.max_error}.")
        if not self.micro_batches or min(self.micro_batches) < 1:
            raise UsageError(f"micro-batches: expected numbers of at least 1, found {self.micro_batches}.")


@dataclass(frozen=True)
class Judged:
    """A plan for the fine work. `outcome` is of the objective's own run, `latency` seconds of a request alone,
    `score` what is compared (least is best), `error` the bound on what narrow transfers lose."""

    name: str
    plan: Plan
    outcome: Simulation
    latency: float
    score: Score
    error: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether every device has memory for it."""
        return self.outcome.fits


@dataclass(frozen=True)
class Planned:
    """The best plan, every device alone, and the best plan over several devices (None where none fits)."""

    work: TimedWork
    wish: Wish
    best: Judged
    singles: tuple[Judged, ...]
    together: Judged | None

    @property
    def meets_deadline(self) -> bool:
        """Whether the best plan answers a lone request in time."""
        return self.wish.deadline_s is None or self.best.latency <= self.wish.deadline_s


@dataclass(frozen=True)
class Objective:
    """How an outcome is scored, given the latency of a request alone; whether many requests are simulated."""

    score: Callable[[Simulation], float]
    many: bool = False


OBJECTIVES = {
    "latency": Objective(lambda o: o.makespan),
    "throughput": Objective(lambda o: -o.throughput, many=True),
    "energy": Objective(lambda o: o.joules),
    "cost": Objective(lambda o: o.cost),
}


def make_plan(work: TimedWork, wish: Wish) -> Planned:
    """The best plan for `work` by simulation; never one that is worse than the best single device.

    A plan that misses the deadline comes behind those that keep it, the least late first. UsageError if the devices,
    even together, do not hold the model.
    """
    singles = [_with_room(work, wish, device.name, alone(work, k)) for k, device in enumerate(work.cluster.devices)]
    together: list[Judged] = []
    if len(work.cluster.devices) > 1:
        for template in _templates(work.cluster, wish):
            together += [j for j in _CANDIDATES_FOR[_is_many(wish)](work, wish, template) if j.error <= wish.max_error]
    fitting = [j for j in (*singles, *together) if j.fits]
    if not fitting:
        raise _does_not_fit(work)
    several = [j for j in together if j.fits and len(j.plan.devices) > 1]
    best = min(fitting, key=lambda j: j.score)
    return Planned(work, wish, best, tuple(singles), min(several, key=lambda j: j.score, default=None))


def _is_many(wish: Wish) -> bool:
    return OBJECTIVES[wish.objective].many


def _does_not_fit(work: TimedWork) -> UsageError:
    weights = size_text(work.graph.weight_bytes)
    memory = size_text(sum(d.memory_bytes for d in work.cluster.devices))
    return UsageError(
        f"{work.graph.name}: expected memory for {weights} of weights and the tensors between operators, found that it "
        f"does not fit into the {memory} of all devices."
    )


def _templates(cluster: Cluster, wish: Wish) -> Iterator[Plan]:
    """Plans without routes: micro-batches, and what slow links narrow to."""
    slow = slow_links(cluster)
    kinds = ["", *(dtype for dtype, (_, error) in NARROW.items() if error <= wish.max_error)]
    for parts in wish.micro_batches:
        for dtype in kinds:
            yield Plan((), parts, narrow=tuple((name, dtype) for name in slow) if dtype else ())


def slow_links(cluster: Cluster) -> tuple[str, ...]:
    """The names of the links that are nearer to the slowest than to the fastest, in ratios; all, if all are alike."""
    count = len(cluster.devices)
    links = {cluster.joined(a, b).link for a in range(count) for b in range(count) if a != b}
    rates = [link.bytes_per_s for link in links]
    middle = exp((log(min(rates)) + log(max(rates))) / 2)
    return tuple(sorted(link.name for link in links if link.bytes_per_s <= middle * (1 + 1e-9)))


def _for_one_request(work: TimedWork, wish: Wish, template: Plan) -> Iterable[Judged]:
    grouped = group(work, LATENCY_NODES)
    found = search(grouped.work, lambda o: _score(wish, o, o.makespan), template, wish.steps)
    yield _judged(work, wish, _name(work, found.plan), _used(work, grouped.expanded(found.plan)))


def _for_many_requests(work: TimedWork, wish: Wish, template: Plan) -> Iterable[Judged]:
    grouped = _chain(work)
    fitting = 0
    for rated in pipelines(grouped.work, template):
        plan = _used(work, grouped.expanded(rated.plan))
        plan = replace(plan, queue=_places(work, plan, rated.rate))
        judged = _with_room(work, wish, _name(work, plan), plan, rated.rate)
        yield judged
        fitting += judged.fits
        if fitting == _CANDIDATES:
            return


def _with_room(work: TimedWork, wish: Wish, name: str, plan: Plan, rate: float = 0.0) -> Judged:
    """`plan` with queues as long as it says, or as memory allows."""
    judged = _judged(work, wish, name, plan, rate)
    while plan.queue > 1 and not judged.fits:
        plan = replace(plan, queue=plan.queue // 2)
        judged = _judged(work, wish, name, plan, rate)
    return judged


def _places(work: TimedWork, plan: Plan, rate: float) -> int:
    """How many requests' tensors have to be kept for `rate` requests a second: those between the stage that makes a
    tensor and the last that reads it, be it far along the pipeline or behind a link of great latency."""
    layout = lay_out(work, plan)
    most = 0.0
    for route, laid in zip(plan.routes, layout.routes, strict=True):
        channels = [layout.channels[c] for s in laid.stages for c in s.sends]
        sent_by = {c: k for k, stage in enumerate(laid.stages) for c in stage.sends}
        begins = [0.0] * len(laid.stages)
        ends = list(begins)
        waits = [[layout.channels[c] for c in s.receives if c in sent_by] for s in laid.stages]
        before = _before(laid)
        for k, stage in enumerate(laid.stages):
            there = [ends[sent_by[c.number]] + c.seconds + c.delay for c in waits[k]]
            begins[k] = max([*there, *(ends[p] for p in before[k])], default=0.0)
            ends[k] = begins[k] + stage.seconds
        per_second = rate * plan.micro_batches * route.share
        pairs = [(sent_by[c.number], r) for c in channels for r in c.wakes]
        pairs += [(p, k) for k in range(len(before)) for p in before[k]]
        # Each stage on the way may have a request waiting.
        most = max([most, *(per_second * (ends[r] - begins[p]) + r - p for p, r in pairs)])
        inputs = [layout.channels[c] for c in laid.sources]
        most = max([most, *(per_second * (ends[r] + c.seconds + c.delay) + r for c in inputs for r in c.wakes)])
    return max(plan.queue, min(_LONGEST_QUEUE, ceil(most) + 1))


def _before(laid: LaidRoute) -> list[list[int]]:
    """For each stage those on the same device that it follows."""
    found: list[list[int]] = [[] for _ in laid.stages]
    for k, stage in enumerate(laid.stages):
        for follower in stage.followers:
            found[follower].append(k)
    return found


_CANDIDATES_FOR = {False: _for_one_request, True: _for_many_requests}


def _chain(work: TimedWork) -> Grouped:
    """The work as the planner of pipelines takes it."""
    grouped = group(work, MOST_INNER_NODES if needs_levels(work.cluster) else MOST_NODES)
    return grouped.then(reordered(grouped.work))


def _name(work: TimedWork, plan: Plan) -> str:
    names = [work.cluster.devices[d].name for d in plan.devices]
    return " + ".join(names) if len(names) < 5 else f"{len(names)} devices"


def _used(work: TimedWork, plan: Plan) -> Plan:
    """`plan` without what it says of links that nothing crosses."""
    if not plan.narrow:
        return plan
    crossed = {name.rstrip(" <>") for name in lay_out(work, plan).way_names}
    return replace(plan, narrow=tuple((name, dtype) for name, dtype in plan.narrow if name in crossed))


def _judged(work: TimedWork, wish: Wish, name: str, plan: Plan, rate: float = 0.0) -> Judged:
    """`plan` judged by simulation; `rate` is how many requests a second it may serve, if that is known."""
    latencies = [simulate(work, replace(plan, routes=(replace(r, share=1.0),))) for r in plan.routes]
    latency = max(o.makespan for o in latencies)
    outcome = latencies[0]
    if _is_many(wish):
        # Filling and emptying pipelines shall hardly count, nor that the requests of a route are whole ones.
        enough = max(_REQUESTS + _REQUESTS_A_ROUTE * len(plan.routes), ceil(_TIMES_FILLED * rate * latency))
        outcome = simulate(work, plan, min(enough, _MOST_REQUESTS))
    return Judged(name, plan, outcome, latency, _score(wish, outcome, latency), error_of(work, plan))


def _score(wish: Wish, outcome: Simulation, latency: float) -> Score:
    late = 0.0 if wish.deadline_s is None else max(0.0, latency - wish.deadline_s)
    return late, OBJECTIVES[wish.objective].score(outcome), outcome.joules


def error_of(work: TimedWork, plan: Plan) -> float:
    """What narrow transfers may lose, relative to tensors' largest elements: the sum along the worst way.

    That is a bound on what is sent, to first order, if operators do not magnify errors; not on the model's results.
    """
    if not plan.narrow:
        return 0.0
    lost = {name: NARROW[dtype][1] for name, dtype in plan.narrow}
    layout = lay_out(work, plan)
    worst = 0.0
    for route in layout.routes:
        errors = [0.0] * len(route.stages)
        for k, stage in enumerate(route.stages):
            for follower in stage.followers:
                errors[follower] = max(errors[follower], errors[k])
            for number in stage.sends:
                channel = layout.channels[number]
                link = work.cluster.joined(channel.source, channel.target).link.name
                step = lost[link] if channel.sent < channel.size else 0.0
                worst = max(worst, errors[k] + step)
                for reader in channel.wakes:
                    errors[reader] = max(errors[reader], errors[k] + step)
    return worst
