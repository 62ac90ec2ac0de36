"""Tiles as configs: the whole numbers of a frozen record are the knobs of a template's space."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

from ....compiler.schedule.template import Config


@dataclass(frozen=True)
class Knobs:
    """Base of tiles. Fields of type int are knobs; what else a tile has is told again where a config becomes one."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of the knobs, in their order."""
        return tuple(f.name for f in fields(cls) if f.type in ("int", int))

    @classmethod
    def of(cls, config: Config, **rest: Any) -> Self:
        """The tile of a config; `rest` are the fields that are no knobs."""
        return cls(**{name: config.int(name) for name in cls.names()}, **rest)

    def config(self, **more: int) -> Config:
        """The tile as a config, with `more` than its knobs."""
        return Config.of(**{name: getattr(self, name) for name in type(self).names()}, **more)
