"""The process in which candidates are built and run; it may die of any of them.

It answers requests, one JSON object a line, on file descriptors that its parent names; standard output and error are a
log that only serves to explain a death. A job takes two requests, between which the parent lets others be timed:

    {"do": "prepare", "job": ...} -> {"phase": "run"}, then {"checked": true} or {"failed": status, ...}
    {"do": "time", "usual": reading, "rival": seconds or null, "patience": seconds}
                                    -> {"timed": {...}, "usage": {...} or null, "pace": reading, "readings": count,
                                        "leaked": bytes}

A candidate for a device may also be built for elsewhere:

    {"do": "build", "job": ..., "folder": path} -> {"built": {...}}

and the device's own rates be measured:

    {"do": "roofline"} -> {"roofline": {...}}

See `protocol` for the fields.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from .limits import address_space, die_with_parent, resident_bytes
from .protocol import Channel, Failure, Setup, job_from_json, timing_to_json


def main() -> None:
    """`python -m ... REQUESTS REPLIES SETUP`: two file descriptors and a Setup as JSON."""
    requests, replies, text = sys.argv[1:]
    setup = Setup.from_text(text)
    die_with_parent(setup.parent)
    os.sched_setaffinity(0, {setup.core})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = setup.file_limit if most == resource.RLIM_INFINITY else min(setup.file_limit, most)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    channel = Channel(int(requests), int(replies))
    bench = _bench(setup)  # imports TVM
    if not bench.target.drives_device:  # the driver of a device maps far more addresses than it uses memory
        limit = address_space() + setup.memory_limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    channel.send({"ready": True, "usual": asdict(bench.reference.usual())})
    Server(channel, bench, setup).serve()


def _bench(setup: Setup) -> Any:
    from ...schedule.target import find_target

    if find_target(setup.target).drives_device:
        from ..device.bench import DeviceBench

        return DeviceBench(setup)
    from .candidate import Bench

    return Bench(setup)


@dataclass
class Server:
    """Answers the requests of one parent."""

    channel: Channel
    bench: Any
    setup: Setup
    _start: int = field(default_factory=resident_bytes)

    def serve(self) -> None:
        """Until the parent closes its end."""
        actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "prepare": self._prepare,
            "time": self._time,
            "build": self._build,
            "roofline": lambda request: {"roofline": self.bench.roofline().to_json()},
        }
        while (request := self.channel.receive()) is not None:
            os.ftruncate(1, 0)
            began, cpu = time.perf_counter(), time.process_time()
            try:
                reply = actions[request["do"]](request)
            except Failure as failure:
                reply = failure.to_json()
            spent = {"total": time.perf_counter() - began, "processor": time.process_time() - cpu}
            self.channel.send({**reply, "spent": {**spent, **self.bench.take_spent()}})

    def _prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        self.bench.prepare(job_from_json(request["job"]), lambda phase: self.channel.send({"phase": phase}))
        return {"checked": True}

    def _build(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"built": self.bench.build(job_from_json(request["job"]), request["folder"])}

    def _time(self, request: dict[str, Any]) -> dict[str, Any]:
        from .pace import Pace, Reading, middle_of

        pace = Pace(self.bench.reference.read, Reading(**request["usual"]))
        timed = timing_to_json(self.bench.time(pace, request["rival"], request["patience"]), self.bench.error)
        usage = getattr(self.bench, "usage", None)  # of a device
        self.bench.forget()
        leaked = resident_bytes() - self._start - self.bench.kept_bytes
        return {
            "timed": timed,
            "usage": usage and asdict(usage),
            "pace": asdict(middle_of(pace.readings)),
            "readings": len(pace.readings),
            "leaked": leaked,
        }


if __name__ == "__main__":
    main()
