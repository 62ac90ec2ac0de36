"""The child process that holds one runtime and does what its parent says, one JSON line at a time.

Requests (stdin) and replies (what stdout was at the start; anything a library prints goes to stderr):

    {"do": "load", "runtime": "openvino", "path": ..., "threads": 1, "cores": [0], "options": {}}
                                                -> {"version": ..., "load_s": ..., "runs_on": ...}
    {"do": "inputs", "path": "inputs.npz"}      -> {"first_ms": ...}
    {"do": "burst", "runs": 10, "warm": 1}      -> {"ms": [...]}
    {"do": "outputs", "path": "outputs.npz"}    -> {"names": [...]}

A failure answers {"error": {"kind": ..., "message": ..., "hint": ...}}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import KompiloError

# Thread pools spin for a while after a run in the hope of more work: a burst is over when they have stopped, so that
# they do not steal cycles from the runtime measured next.
_SETTLE_STEP_S = 0.004
_SETTLE_LIMIT_S = 0.4
_SETTLED_SHARE = 0.1


class Worker:
    """One runtime with one model and one set of inputs."""

    def load(self, runtime: str, path: str, threads: int, cores: list[int], options: dict[str, str]) -> dict[str, Any]:
        """Pin the process to `cores`, then load the model with the runtime's own `options`."""
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        from .base import find_peer

        start = time.perf_counter()
        self._peer = find_peer(runtime, **options)
        self._peer.load(Path(path), threads)
        took = time.perf_counter() - start
        return {"version": self._peer.version(), "load_s": took, "runs_on": self._peer.runs_on}

    def inputs(self, path: str) -> dict[str, Any]:
        """Take the inputs from an .npz file and run once, so that the first failure comes here."""
        import numpy as np

        with np.load(path, allow_pickle=False) as members:
            self._inputs = dict(members)
        self._run = self._peer.prepare(self._inputs)
        start = time.perf_counter()
        self._run()
        return {"first_ms": (time.perf_counter() - start) * 1e3}

    def burst(self, runs: int, warm: int) -> dict[str, Any]:
        """Run `warm` times untimed (caches hold another runtime's data), then `runs` times timed one by one."""
        run, now = self._run, time.perf_counter_ns
        for _ in range(warm):
            run()
        times = []
        for _ in range(runs):
            start = now()
            run()
            times.append(now() - start)
        _settle()
        return {"ms": [t * 1e-6 for t in times]}

    def outputs(self, path: str) -> dict[str, Any]:
        """Run once and store the outputs by position."""
        from .base import save_arrays

        outputs = self._peer.outputs(self._inputs)
        with open(path, "wb") as file:
            save_arrays(file, {str(k): v for k, v in enumerate(outputs.values())})
        return {"names": list(outputs)}


def _settle() -> None:
    """Wait until this process uses next to no processor time."""
    deadline = time.perf_counter() + _SETTLE_LIMIT_S
    while time.perf_counter() < deadline:
        used, start = time.process_time(), time.perf_counter()
        time.sleep(_SETTLE_STEP_S)
        if time.process_time() - used < _SETTLED_SHARE * (time.perf_counter() - start):
            return


def _answer(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    action: Callable[..., dict[str, Any]] = getattr(worker, request.pop("do"))
    try:
        return action(**request)
    except KompiloError as error:
        return {"error": {"kind": type(error).__name__, "message": error.message, "hint": error.hint}}
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        return {"error": {"kind": "KompiloError", "message": f"{type(error).__name__}: {text}", "hint": None}}


def serve() -> None:
    """Answer requests until stdin ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        print(json.dumps(_answer(worker, json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    serve()
