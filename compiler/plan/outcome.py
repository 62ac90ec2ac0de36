"""What a simulated run comes to: time, throughput, use of devices and links, memory, energy, cost."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from .plan import Plan
from .work import TimedWork

if TYPE_CHECKING:
    from .simulate import _Run


@dataclass(frozen=True)
class Event:
    """Something on a resource from `start` to `end` (seconds): a "run" on a device or a "transfer" on a way, by number,
    of the item (micro-batch) number `item`."""

    kind: str
    resource: int
    label: str
    item: int
    start: float
    end: float
    sent: float = 0.0


@dataclass(frozen=True)
class Simulation:
    """The outcome of simulating `requests` requests.

    `makespan` and `latency` (median of a request, from when it may begin) are seconds, `throughput` requests per second
    of the whole run, its beginning and end included. `device_use` and `way_use` are busy parts of the makespan.
    `peak_bytes` are of each device, weights included; `fits` whether all are within its memory. `joules` and `cost` are
    of one request: of devices in use, idle time included. `most_waiting` is the fullest that any queue was.
    """

    requests: int
    makespan: float
    latency: float
    throughput: float
    device_use: tuple[float, ...]
    way_use: tuple[tuple[str, float], ...]
    peak_bytes: tuple[float, ...]
    fits: bool
    joules: float
    cost: float
    most_waiting: int
    events: tuple[Event, ...] = ()


def outcome_of(work: TimedWork, plan: Plan, run: _Run) -> Simulation:
    """The outcome of a finished run."""
    parts = plan.micro_batches
    ends = [max(run.finished[k : k + parts]) for k in range(0, run.items, parts)]
    began = [min(run.began[k : k + parts]) for k in range(0, run.items, parts)]
    requests, makespan = len(ends), max(ends)
    devices = work.cluster.devices
    used = plan.devices
    joules = sum(
        devices[d].watts_active * run.device_busy[d] + devices[d].watts_idle * (makespan - run.device_busy[d])
        for d in used
    )
    cost = sum(devices[d].price_per_hour for d in used) * makespan / 3600
    whole = makespan or 1.0
    return Simulation(
        requests=requests,
        makespan=makespan,
        latency=median(e - b for b, e in zip(began, ends, strict=True)),
        throughput=requests / whole,
        device_use=tuple(busy / whole for busy in run.device_busy),
        way_use=tuple((name, busy / whole) for name, busy in zip(run.layout.way_names, run.way_busy, strict=True)),
        peak_bytes=tuple(run.peak),
        fits=all(peak <= device.memory_bytes for peak, device in zip(run.peak, devices, strict=True)),
        joules=joules / requests,
        cost=cost / requests,
        most_waiting=run.most_waiting,
        events=tuple(run.events),
    )
