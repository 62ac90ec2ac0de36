"""Records of made-up measurements of a real operator, and a target whose templates build nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.compiler.schedule.selection import Selector
from kompilo.compiler.schedule.template import Config, Space
from kompilo.compiler.tune.record import Measurement, Point, Record

KEY = "cpu-test-2c"


def matmul(rows: int | str = 8) -> OpSpec:
    """A matmul with a bias, of `rows` rows."""
    types = (TensorType((rows, 16), "float32"), TensorType((16, 4), "float32"), TensorType((4,), "float32"))
    result = TensorType((rows, 4), "float32")
    steps = (Step("add", ("anchor", "i2"), "float32"), Step("clip", ("s0", 0.0, 6.0), "float32"))
    return OpSpec("matmul", types, (False, True, True), (("groups", 1), ("pads", (0, 0))), result, result, steps)


def point(tile: int, template: str = "tiled", version: int = 1) -> Point:
    """A point of the space of `FakeTemplate`."""
    return Point(template, version, Config.of(tile=tile, order="ij"))


def record(tile: int = 1, seconds: float | None = 1e-3, day: int = 1, **changes: Any) -> Record:
    """A record of the tile; `seconds` None means that it failed with the status `status`."""
    measured = {"status": "ok", "samples": 9} if seconds is not None else {"status": "crashed", "reason": "signal 11"}
    for name in ("status", "cache"):
        if name in changes:
            measured[name] = changes.pop(name)
    made = Record(
        matmul(), KEY, point(tile), Measurement(seconds=seconds, **measured), f"2026-11-{day:02}T06:00:00Z", "0.1.0"
    )
    return replace(made, **changes)


@dataclass(frozen=True)
class FakeTemplate:
    """Offers the tiles; the first is its default."""

    name: str = "tiled"
    version: int = 1
    tiles: tuple[int, ...] = (1, 2, 3, 4)
    imbalance: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)

    def traits(self, op: OpSpec, target: object, configs: Any) -> dict[str, Any]:
        told = dict(zip(self.tiles, self.imbalance, strict=True))
        return {"imbalance": np.array([told[c.int("tile")] for c in configs])}

    def match(self, op: OpSpec, target: object) -> Space:
        configs = tuple(point(tile).config for tile in self.tiles)
        return Space(configs[0], configs)


@dataclass(frozen=True)
class FakeTarget:
    """A target of the key `key`."""

    key: str = KEY
    templates: tuple[FakeTemplate, ...] = field(default_factory=lambda: (FakeTemplate(),))
    timed_on_one_core: bool = False

    @property
    def spec(self) -> SimpleNamespace:
        return SimpleNamespace(key=self.key, cores=2)


def chosen(advisors: Any, target: FakeTarget | None = None, op: OpSpec | None = None) -> tuple[int, str]:
    """The tile that is chosen, and the reason."""
    choice = Selector(target or FakeTarget(), advisors).choose(op or matmul())
    assert choice is not None
    return choice.config.int("tile"), choice.source
