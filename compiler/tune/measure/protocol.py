"""The lines that a pool and its workers exchange."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from ...schedule.template import Config
from ..op_json import op_from_json, op_to_json
from ..record import Point
from .job import Job
from .timing import Timing

# A line of garbage must not fill the parent's memory.
LONGEST_LINE = 1 << 20


@dataclass(frozen=True)
class Setup:
    """What a worker is told at its start: whose child it is, the core it is pinned to, and what it may use.

    `memory_limit` are bytes of address space beyond what the libraries take, `file_limit` bytes of any file written,
    `cold_file` the descriptor of the memory that weights are read from (see `memory.cold_file`), or -1.
    """

    parent: int
    target: str
    core: int
    memory_limit: int
    file_limit: int = 64 << 20
    cold_file: int = -1

    def to_text(self) -> str:
        """As a command line argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Setup:
        """The inverse of `to_text`."""
        return cls(**json.loads(text))


class Failure(Exception):
    """What is wrong with a candidate: a status of `record.STATUSES` other than "ok", and one sentence."""

    def __init__(self, status: str, reason: str, error: float | None = None):
        super().__init__(reason)
        self.status, self.reason, self.error = status, reason, error

    def to_json(self) -> dict[str, Any]:
        """As a reply."""
        return {"failed": self.status, "reason": self.reason, "error": self.error}


class Channel:
    """A worker's end: requests come and replies go on file descriptors that nothing else knows."""

    def __init__(self, requests: int, replies: int):
        self._requests = os.fdopen(requests, "r")
        self._replies = replies

    def receive(self) -> dict[str, Any] | None:
        """The next request; None at the end."""
        line = self._requests.readline()
        return json.loads(line) if line else None

    def send(self, reply: dict[str, Any]) -> None:
        """Give an answer, or a note on the way to it."""
        os.write(self._replies, encode(reply))


def encode(message: dict[str, Any]) -> bytes:
    """A message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Lines:
    """Takes bytes apart into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that `data` completes; ValueError if there is anything but messages."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise ValueError(f"a line of more than {LONGEST_LINE} bytes")
        try:
            messages = [json.loads(line) for line in lines]
        except RecursionError:
            raise ValueError("brackets nested too deeply") from None
        if not all(isinstance(m, dict) for m in messages):
            raise ValueError("a line that is no object")
        return messages


def job_to_json(job: Job) -> dict[str, Any]:
    """A job as a JSON value."""
    return {
        "op": op_to_json(job.op),
        "template": job.point.template,
        "version": job.point.version,
        "config": [list(knob) for knob in job.point.config.knobs],
        "seed": job.seed,
        "cache": job.cache,
    }


def job_from_json(data: dict[str, Any]) -> Job:
    """The inverse of `job_to_json`."""
    config = Config(tuple((name, value) for name, value in data["config"]))
    point = Point(data["template"], data["version"], config)
    return Job(op_from_json(data["op"]), point, data["seed"], data["cache"])


def timing_to_json(timing: Timing, error: float) -> dict[str, Any]:
    """A timing as a JSON value; `error` is the candidate's relative error."""
    return {**asdict(timing), "error": error}
