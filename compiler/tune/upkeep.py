"""Take records over from elsewhere, write them out, and drop those that no longer say anything."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from ..artifact.atomic import replace_file
from ..errors import TargetError, UsageError
from ..schedule.op_spec import OpSpec
from ..schedule.target import find_target
from .offered import Offered
from .record import NEWEST, SCHEMA, Holds, Point, Record
from .record_file import Problem, numbered_lines, read_bytes
from .store import IMPORTED, RecordStore


@dataclass(frozen=True)
class Taken:
    """Records taken over: `added` are new, `present` were there already; `problems` are lines that are no record."""

    added: int
    present: int
    problems: tuple[Problem, ...]


def take_over(store: RecordStore, sources: Iterable[Path]) -> Taken:
    """Add the records of `sources` (files, or folders as a RecordStore has them) to `store`, each once.

    Raises UsageError if a source does not exist or cannot be read, or if `store` cannot be written.
    """
    records: dict[str, Record] = {}
    problems: list[Problem] = []
    for source in sources:
        found, bad = read_source(source)
        problems += bad
        records.update((record.to_line(), record) for record in found)
    added = store.add_missing(records.values(), IMPORTED)
    return Taken(added, len(records) - added, tuple(problems))


def read_source(source: Path) -> tuple[list[Record], list[Problem]]:
    """The records of a file, of whatever targets, or of a folder of a folder for each target."""
    if source.is_dir():
        store = RecordStore(source)
        read = [store.read(key) for key in store.targets()]
        if not read:
            raise UsageError(
                f"there are no records in {str(source)!r}.", "expected a folder of <target key>/<name>.jsonl."
            )
        return [r for records, _ in read for r in records], [p for _, problems in read for p in problems]
    if source.is_char_device() or source.is_block_device():  # may never end
        raise UsageError(f"cannot read records from {str(source)!r}: it is a device.")
    try:
        content, damage = read_bytes(source)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read records from {str(source)!r}: {reason.lower()}.") from None
    records, problems = [], [Problem(source, 0, damage)] if damage else []
    for number, line in numbered_lines(content):
        try:
            record = Record.from_line(line)
            RecordStore(source).target_folder(record.target)
            records.append(record)
        except (ValueError, UsageError) as error:
            problems.append(Problem(source, number, str(error)))
    if not records:
        reason = f": {problems[0].reason}" if problems else ", it is empty"
        raise UsageError(f"there are no records in {str(source)!r}{reason}.", "expected a file that export wrote.")
    return records, problems


def write_out(store: RecordStore, keys: Sequence[str], path: Path) -> int:
    """Write all records of the targets `keys` as one file, gzipped if its name ends in .gz; how many there were.

    Raises ArtifactError if it cannot be written; an older file then stays. Equal records give equal bytes.
    """
    lines = list(dict.fromkeys(record.to_line() for key in keys for record in store.read(key)[0]))
    data = "".join(line + "\n" for line in lines).encode()
    with replace_file(path) as file:
        file.write(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return len(lines)


@dataclass
class Pruned:
    """What pruning leaves and drops, the latter by reason; `packed` files are never rewritten."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    packed: int = 0


def prune(store: RecordStore, key: str, holds: Holds | None, failed: bool = False, dry_run: bool = False) -> Pruned:
    """Drop what says nothing any more about the target `key`: see `_Sieve`. Lines of a newer schema stay.

    `holds` None: it is not known what the templates offer. With `failed` failures are forgotten, to be tried again.
    """
    pruned = Pruned()
    with nullcontext() if dry_run or not store.files(key) else store.locked(key):
        for files in store.places(key):  # what is newer elsewhere supersedes nothing that was measured here
            _prune_files(files, _Sieve(key, holds, failed), pruned, dry_run)
    return pruned


def _prune_files(files: Sequence[Path], sieve: _Sieve, pruned: Pruned, dry_run: bool) -> None:
    plain = [path for path in files if path.suffix != ".gz" and path.is_file()]
    pruned.packed += sum(path.suffix == ".gz" for path in files)
    lines = [(k, line) for k, path in enumerate(plain) for _, line in numbered_lines(path.read_bytes())]
    reasons = sieve.reasons_to_drop([line for _, line in lines])
    pruned.dropped.update(reason for reason in reasons if reason)
    for k, path in enumerate(plain):
        mine = [(line, reason) for (file, line), reason in zip(lines, reasons, strict=True) if file == k]
        kept = [line for line, reason in mine if not reason]
        pruned.kept += len(kept)
        if dry_run or len(kept) == len(mine):
            continue
        if kept:
            with replace_file(path) as file:
                file.write("".join(line + "\n" for line in kept).encode())
        else:
            path.unlink()


@dataclass
class _Sieve:
    """Tells which lines of a target to drop: what choices rest on (see `evidence`) is the same without them."""

    key: str
    holds: Holds | None
    failed: bool

    def reasons_to_drop(self, lines: Sequence[str]) -> list[str]:
        """For each line why to drop it; "" to keep it."""
        reasons = ["" for _ in lines]
        records: list[tuple[str, int, Record]] = []
        for number, line in enumerate(lines):
            try:
                record = Record.from_line(line)
            except ValueError:
                reasons[number] = "" if _newer(line) else "broken"
                continue
            reasons[number] = self._reason(record)
            if not reasons[number]:
                records.append((record.created, number, record))
        seen: set[str] = set()
        counts: Counter[tuple[OpSpec, Point, str, bool]] = Counter()
        for _, number, record in sorted(records, key=lambda r: r[:2], reverse=True):
            if lines[number] in seen:
                reasons[number] = "repeated"
                continue
            seen.add(lines[number])
            measured = record.measurement
            place = (record.op, record.point, measured.cache, measured.ok)
            counts[place] += 1
            if counts[place] > NEWEST and measured.status != "wrong_result":
                reasons[number] = "superseded by newer ones"
        return reasons

    def _reason(self, record: Record) -> str:
        if record.target != self.key:
            return "of another target"
        if self.holds is not None and not self.holds(record):
            return "of a template or config that is no longer offered"
        return "failed" if self.failed and not record.measurement.ok else ""


def _newer(line: str) -> bool:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return False
    schema = data.get("schema") if isinstance(data, dict) else None
    return isinstance(schema, int) and schema > SCHEMA


def holds_now(key: str) -> Holds | None:
    """Whether records of the target `key` still hold; None if no installed kind of target is of that name.

    Configs are compared with what templates offer where `key` is this machine's; elsewhere versions alone are.
    """
    try:
        target = find_target(key.partition("-")[0])
    except TargetError:
        return None
    if target.spec.key == key:
        return Offered(target)
    versions = {template.name: template.version for template in target.templates}
    return lambda record: versions.get(record.point.template) == record.point.version
