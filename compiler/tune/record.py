"""One measured candidate, as a line of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from ..device_code import Usage
from ..schedule.op_spec import OpSpec
from ..schedule.template import Config
from .op_json import op_from_json, op_to_json

SCHEMA = 1
# The time of a point rests on so many of its newest measurements.
NEWEST = 5

_DATE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\dZ)?")
# Seconds that a call may take; what lies outside was not measured.
_LEAST_S, _MOST_S = 1e-9, 1e5
# What became of a candidate. Only "ok" has a time; the others are reasons why a config must not be used.
STATUSES = ("ok", "pruned", "build_failed", "crashed", "timed_out", "out_of_memory", "wrong_result", "run_failed")
# What a measurement says of a candidate that there is no result to compare with: nothing to record.
UNCHECKED = "unchecked"


@dataclass(frozen=True)
class Point:
    """A template at a certain version with one config of its space: what is measured."""

    template: str
    version: int
    config: Config

    def __str__(self) -> str:
        return f"{self.template}@{self.version}({self.config})"

    @property
    def unordered(self) -> tuple[str, int, frozenset[tuple[str, int | str]]]:
        """The same for points that name their knobs in another order."""
        return self.template, self.version, frozenset(self.config.knobs)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Point:
        """The point of a line's object; KeyError, TypeError, ValueError and the like if there is none."""
        knobs = tuple(data["config"].items())
        if not all(isinstance(value, int | str) for _, value in knobs):
            raise TypeError(f"expected knobs that are numbers or words, found {data['config']}")
        return cls(str(data["template"]), int(data["version"]), Config(knobs))


@dataclass(frozen=True)
class Measurement:
    """What measuring one candidate gave.

    `seconds` is the median time of a call on one thread, corrected for the machine's drift: the measured time times
    `speed`, which is the reference kernel's usual time divided by its time during this measurement (1.0: no drift).
    `alone` tells whether the core was free of other programs, beside which that correction is rough.
    `spread` is half the width of the median's 95% confidence interval relative to the median; `samples` how many
    timings it rests on; `error` the largest difference from the reference relative to the largest reference value;
    `reason` one sentence where `status` is not "ok". `cache` tells whether weights were in cache ("warm") or had been
    pushed out of it ("cold"). `usage` is what its code takes of a GPU; "pruned" is a candidate that was not run for it.
    """

    status: str
    seconds: float | None = None
    spread: float | None = None
    samples: int = 0
    speed: float = 1.0
    alone: bool = True
    error: float | None = None
    reason: str = ""
    cache: str = "cold"
    usage: Usage | None = None

    @property
    def ok(self) -> bool:
        """Whether the candidate ran, gave the right result, and was timed."""
        return self.status == "ok"

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measurement:
        """The measurement of a line's object; KeyError, TypeError, ValueError and the like if there is none."""
        status, seconds = data["status"], data["seconds"]
        if status not in STATUSES:
            raise ValueError(f"expected a status among {', '.join(STATUSES)}, found {status!r}")
        timed = isinstance(seconds, float) and _LEAST_S <= seconds <= _MOST_S
        if not (timed if status == "ok" else seconds is None):
            raise ValueError(f"status {status!r} with seconds {seconds!r}")
        return cls(
            status,
            seconds,
            _number(data["spread"]),
            int(data["samples"]),
            float(data["speed"]),
            bool(data["alone"]),
            _number(data["error"]),
            str(data["reason"]),
            str(data["cache"]),
            Usage.from_json(data["usage"]) if data.get("usage") else None,
        )


@dataclass(frozen=True)
class Record:
    """A measurement of `point` for `op` on the target whose key is `target`; `created` is UTC in ISO 8601."""

    op: OpSpec
    target: str
    point: Point
    measurement: Measurement
    created: str = ""
    kompilo: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Operator text and target key: what a record holds for, beside its template's version."""
        return str(self.op), self.target

    def to_line(self) -> str:
        """One line of JSON without the line end."""
        m = self.measurement
        measured = {
            "status": m.status,
            "seconds": m.seconds,
            "spread": m.spread,
            "samples": m.samples,
            "speed": m.speed,
            "alone": m.alone,
            "error": m.error,
            "reason": m.reason,
            "cache": m.cache,
        }
        return json.dumps(
            {
                "schema": SCHEMA,
                "target": self.target,
                "op": op_to_json(self.op),
                "template": self.point.template,
                "version": self.point.version,
                "config": dict(self.point.config.knobs),
                **measured,
                **({"usage": asdict(m.usage)} if m.usage is not None else {}),
                "created": self.created,
                "kompilo": self.kompilo,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_line(cls, line: str) -> Record:
        """The record of a line; ValueError says what is wrong with it."""
        data = _object(line)
        if data.get("schema") != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA}, found {data.get('schema')!r}")
        return cls.from_json(data)

    @classmethod
    def from_json(cls, data: dict[str, Any], op: OpSpec | None = None, point: Point | None = None) -> Record:
        """The record of a line's object, of which the caller may have read `op` and `point`; errors as `from_line`."""
        try:
            return cls(
                op_from_json(data["op"]) if op is None else op,
                str(data["target"]),
                Point.from_json(data) if point is None else point,
                Measurement.from_json(data),
                _date(data["created"]),
                str(data["kompilo"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"incomplete record: {type(error).__name__} {error}") from None


# Tells of a record whether its template, at its present version, still offers its config.
Holds = Callable[[Record], bool]


def _date(text: str) -> str:
    """A date whose text can be ordered: in UTC, all alike; "" is older than any. ValueError for other words."""
    if not isinstance(text, str) or (text and not _DATE.fullmatch(text)):
        raise ValueError(f"expected a date such as 2026-11-22T10:30:00Z, found {text!r}")
    if text:
        datetime.fromisoformat(text)
    return text


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _object(line: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("not a record: brackets nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, found {type(data).__name__}")
    return data
