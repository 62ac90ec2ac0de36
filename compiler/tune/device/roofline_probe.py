"""Measures a GPU's roofline in a worker process, which kernels that never end, or break the driver, take along."""

from __future__ import annotations

import os
import select
import time
from typing import Any

from ...errors import KompiloError
from ...schedule.roofline import Roofline
from ..measure.pool import GIB, usable_cores
from ..measure.process import WorkerProcess
from ..measure.protocol import Setup

# Loading TVM, building two products and running them takes some ten seconds.
_LIMIT_S = 60.0


def measured_apart(target_name: str, limit_s: float = _LIMIT_S) -> Roofline:
    """The rates of this machine's GPU, for which `target_name` is; its worker has `limit_s` seconds.

    Raises KompiloError, one sentence: the worker does not end in time or dies, or the GPU does not work.
    """
    process = WorkerProcess(Setup(os.getpid(), target_name, usable_cores()[0], 4 * GIB))
    try:
        process.send({"do": "roofline"})
        answer = _answer(process, limit_s)
    finally:
        process.kill()
    if "failed" in answer:
        raise KompiloError(answer["reason"])
    return Roofline.from_json(answer["roofline"])


def _answer(process: WorkerProcess, limit_s: float) -> dict[str, Any]:
    """The first message behind that of a worker which is ready."""
    until = time.monotonic() + limit_s
    while select.select([process], [], [], max(0.0, until - time.monotonic()))[0]:
        try:
            messages = process.receive()
        except ValueError as error:
            raise KompiloError(f"the process that measures them answered with {error}.") from None
        if messages is None:
            how, words = process.cause_of_death()
            raise KompiloError(f"the process that measures them {how}" + (f": {words}" if words else "."))
        for message in messages:
            if "ready" not in message:
                return message
    raise KompiloError(f"the process that measures them did not end in {limit_s:g} s.")
