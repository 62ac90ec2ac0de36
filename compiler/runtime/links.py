"""How fast tensors go from one process's device to another's on this machine: measured once, and kept.

Workers share memory: a tensor is written to it once by the device that makes it, and read there by the next. What is
measured is that copy between two cores (the reader finds it in the writer's cache, or in memory), and how long a short
message through a socket takes to wake a process on another core.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from errno import EPIPE
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact.atomic import replace_file
from ..errors import KompiloError
from ..knobs import Knobs
from .host import allowed_cpus
from .machine import machine_key

_BYTES, _COPIES = 16 << 20, 7
_ROUNDS, _WARM = 300, 50
_VAIN = "the link between cores cannot be measured: {}."
_PARTNER = """
import os, socket, sys
end = socket.socket(fileno=int(sys.argv[1]))
os.sched_setaffinity(0, {int(sys.argv[2])})
while end.recv(1):
    end.send(b"x")
"""


@dataclass(frozen=True)
class Link:
    """`latency_s` of a message, and `bytes_per_s` of a copy, between the CPU devices of this machine."""

    latency_s: float
    bytes_per_s: float

    def seconds(self, size: float) -> float:
        """How long `size` bytes take to arrive."""
        return self.latency_s + size / self.bytes_per_s


def shared_memory_link(again: bool = False) -> Link:
    """The link between CPU devices here: what was measured before on this machine, unless it is to be measured `again`.

    Raises:
        KompiloError: no process can be started to measure with, or it ends before that is done.
    """
    place = Knobs.from_environment().cache / "links" / f"{machine_key()}.json"
    found = None if again else _kept(place)
    if found is None:
        found = Link(_latency(), _rate())
        with suppress(OSError, KompiloError):  # a read-only home: measured anew each time
            place.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(place) as file:
                file.write(json.dumps(asdict(found)).encode())
    return found


def _kept(place: Path) -> Link | None:
    try:
        known: Any = json.loads(place.read_text())
        link = Link(float(known["latency_s"]), float(known["bytes_per_s"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return link if link.latency_s > 0 and link.bytes_per_s > 0 else None


def _rate() -> float:
    """Bytes per second of copies into shared memory: the best of several."""
    with mmap.mmap(-1, _BYTES) as memory:
        there = np.frombuffer(memory, np.uint8)
        here = np.ones(_BYTES, np.uint8)
        best = float("inf")
        for _ in range(_COPIES):
            start = time.perf_counter()
            there[...] = here
            best = min(best, time.perf_counter() - start)
        del there
    return _BYTES / best


def _latency() -> float:
    """Seconds that a message of one byte takes to a process on another core: half of a median round trip."""
    cpus = allowed_cpus()
    mine, other = socket.socketpair()
    try:
        with other:
            command = [sys.executable, "-I", "-S", "-c", _PARTNER, str(other.fileno()), str(cpus[-1])]
            partner = subprocess.Popen(command, pass_fds=[other.fileno()])
    except OSError as error:
        mine.close()
        raise KompiloError(_VAIN.format(error.strerror)) from None
    before = os.sched_getaffinity(0)
    times = []
    try:
        os.sched_setaffinity(0, {cpus[0]})
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            mine.send(b"x")
            if not mine.recv(1):
                raise ConnectionError(EPIPE, "the other process ended")
            times.append(time.perf_counter() - start)
    except OSError as error:
        raise KompiloError(_VAIN.format(error.strerror)) from None
    finally:
        os.sched_setaffinity(0, before)
        mine.close()
        partner.wait()
    return sorted(times[_WARM:])[len(times[_WARM:]) // 2] / 2
