"""Records of designs for hardware of whole models: `<folder>/<target key>/designs.ndjson`, one a line, only added to.

They stand beside the records of operators, from which they differ in everything but the place: a design belongs to a
model's structure, and what counts is not measured but known exactly.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..number_words import time_text
from ..schedule.whole_design import DesignPoint, KnownDesign
from .store import RecordStore, append_whole

SCHEMA = 1
FILE = "designs.ndjson"


@dataclass(frozen=True)
class DesignRecord:
    """A design of the structure `design` on the target whose key is `target`; `model` is what the model was called,
    `created` is UTC in ISO 8601, `kompilo` the version that found it."""

    target: str
    design: str
    model: str
    point: DesignPoint
    created: str
    kompilo: str

    def to_line(self) -> str:
        """JSON without spaces, with a line's end."""
        data = {"schema": SCHEMA, **asdict(self), **asdict(self.point)}
        del data["point"]
        return json.dumps(data, separators=(",", ":")) + "\n"

    def known(self) -> KnownDesign:
        """As a compilation takes it."""
        return KnownDesign(self.point.folds, f"record of {self.created[:10]}: {time_text(self.point.seconds)}")


def _of_line(line: str) -> DesignRecord | None:
    """The record of a line; None for one that is broken, or of another schema."""
    try:
        data: dict[str, Any] = json.loads(line)
        if data["schema"] != SCHEMA:
            return None
        folds = tuple(tuple(int(n) for n in fold) for fold in data["folds"])
        resources = tuple((str(name), int(used), int(usable)) for name, used, usable in data["resources"])
        point = DesignPoint(folds, int(data["cycles"]), float(data["seconds"]), resources)
        words = [str(data[key]) for key in ("target", "design", "model", "created", "kompilo")]
    except (ValueError, TypeError, KeyError):
        return None
    if point.cycles < 1 or not 0 < point.seconds < 1e5 or any(n < 1 for fold in folds for n in fold):
        return None
    return DesignRecord(words[0], words[1], words[2], point, words[3], words[4])


def path_of(store: RecordStore, key: str) -> Path:
    """The file of designs for the target `key`."""
    return store.target_folder(key) / FILE


def designs_of(store: RecordStore, key: str, design: str) -> list[DesignRecord]:
    """What a store has of a structure on the target `key`, in the order of lines; broken lines are passed over."""
    try:
        lines = path_of(store, key).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = (_of_line(line) for line in lines if design in line)
    return [r for r in found if r is not None and r.design == design and r.target == key]


def add_design(store: RecordStore, record: DesignRecord) -> None:
    """Appends a record; UsageError if it cannot be written."""
    with store.locked(record.target) as folder:
        append_whole(folder / FILE, record.to_line().encode())
