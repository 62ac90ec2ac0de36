"""All places that hold records, as one: folders the caller names, the user's own, and what comes with Kompilo."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Union

from ..errors import UsageError
from ..schedule.op_spec import OpSpec
from ..schedule.whole_design import KnownDesign, KnownDesigns
from .design_records import FILE as DESIGNS
from .design_records import DesignRecord, designs_of
from .evidence import Known, join
from .record import Holds, Point
from .record_file import Problem
from .store import RecordStore, given_store, installed_store, user_store

Folder = str | os.PathLike[str]
Records = Union[Folder, Sequence[Folder], "RecordLibrary", bool, None]


@dataclass(frozen=True)
class RecordLibrary:
    """`stores` in the order of their precedence; `chosen`: what decided, by target key and the operator's text;
    `chosen_designs`: what was named for hardware of a whole model, and the record's file, by target key."""

    stores: tuple[RecordStore, ...]
    chosen: dict[tuple[str, str], Known] = field(default_factory=dict, compare=False, repr=False)
    chosen_designs: dict[str, tuple[KnownDesign, str]] = field(default_factory=dict, compare=False, repr=False)

    def designs(self, key: str, design: str) -> list[DesignRecord]:
        """Designs of a model's structure on the target `key`, the fastest first: all are exact, wherever they lie."""
        found = [record for store in self.stores for record in designs_of(store, key, design)]
        return sorted(found, key=lambda record: record.point.cycles)

    def known_design(self, key: str) -> KnownDesigns:
        """Tells of a model's structure the fastest recorded design on the target `key`."""

        def known(design: str) -> KnownDesign | None:
            found = self.designs(key, design)
            if not found:
                return None
            store = next(s for s in self.stores if found[0] in designs_of(s, key, design))
            chosen = found[0].known()
            self.chosen_designs[key] = chosen, f"{store.label or store.folder}:{key}/{DESIGNS}"
            return chosen

        return known

    @classmethod
    def of(cls, records: Records = None) -> RecordLibrary:
        """The library that an argument `records=` means.

        A folder or several come before the user's own (KOMPILO_RECORDS) and the installed ones; None means just these
        two, as True does; False means no records at all. UsageError if a folder does not exist.
        """
        if isinstance(records, RecordLibrary):
            return records
        if records is False:
            return cls(())
        if records is None or records is True:
            folders: Sequence[Folder] = ()
        elif isinstance(records, str | os.PathLike):
            folders = (records,)
        elif isinstance(records, Sequence) and all(isinstance(f, str | os.PathLike) for f in records):
            folders = records
        else:
            raise UsageError(f"records: expected a folder or a list of folders, found {records!r}.")
        usual = (user_store(), installed_store())
        return cls(_distinct([*(given_store(f) for f in folders), *(s for s in usual if s is not None)]))

    def known(self, op: OpSpec, key: str, holds: Holds | None = None) -> dict[Point, Known]:
        """What is known of each point of `op` on the target `key`; with `holds`, of those only that it is true of.

        What does not hold any more tells nothing of how times of two places compare either.
        """
        places = (known for store in self.stores for known in store.known(op, key))
        return join({p: k for p, k in place.items() if holds is None or holds(k.record)} for place in places)

    def tried(self, op: OpSpec, key: str, points: Iterable[Point]) -> dict[Point, Known]:
        """What is known of those `points` that were measured; nothing else counts. The order of knobs is no matter."""
        wanted = {p.unordered: p for p in points}
        found: dict[Point, Known] = {}
        for recorded, known in self.known(op, key, lambda record: record.point.unordered in wanted).items():
            found.setdefault(wanted[recorded.unordered], known)
        return found

    def problems(self, key: str) -> list[Problem]:
        """What was found unreadable so far among the records of the target `key`."""
        return [p for store in self.stores for file in store.indexed(key) for p in file.problems]


def _distinct(stores: Iterable[RecordStore]) -> tuple[RecordStore, ...]:
    seen: dict[str, RecordStore] = {}
    for store in stores:
        seen.setdefault(os.path.realpath(store.folder), store)
    return tuple(seen.values())
