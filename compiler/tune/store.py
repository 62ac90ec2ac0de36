"""Folders of records: `<folder>/<target key>/<name>.jsonl`, one record a line, only ever appended to.

Writers take turns by a lock on the target's folder, held by the operating system: a killed writer frees it. A line is
written whole or taken back; what a writer killed in mid-line left behind is ended first, so that it harms no other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..schedule.op_spec import OpSpec
from .evidence import Found, Known, combine
from .record import Point, Record
from .record_file import PATTERNS, Problem, RecordFile, record_file

# Where a session's measurements go, and those that were measured elsewhere.
TUNED = "tuned"
IMPORTED = "imported"
_TARGET_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,127}")
_LOCK_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class RecordStore:
    """The records below `folder`, which need not exist yet; `label` is what messages and artifacts call it."""

    folder: Path
    label: str = ""

    def append(self, record: Record, name: str = TUNED) -> None:
        """Add `record` to the file `name` of its target; it then outlives the death of this process.

        Raises UsageError if it cannot be written (no permission, full disk); the file is then as it was.
        """
        self.extend([record], name)

    def extend(self, records: Iterable[Record], name: str = TUNED) -> None:
        """Add `records` in one go for each target; errors as for `append`."""
        lines: dict[str, list[str]] = {}
        for record in records:
            lines.setdefault(record.target, []).append(record.to_line() + "\n")
        for key, texts in lines.items():
            with self.locked(key) as folder:
                append_whole(folder / f"{name}.jsonl", "".join(texts).encode())

    def add_missing(self, records: Iterable[Record], name: str) -> int:
        """Add those of `records` to the file `name` of their targets that no file there has; how many they were.

        No other writer comes between looking and adding. Nothing is written, and no lock taken, if nothing is missing.
        Errors as for `append`.
        """
        wanted: dict[str, list[str]] = {}
        for record in records:
            wanted.setdefault(record.target, []).append(record.to_line())
        added = 0
        for key, lines in wanted.items():
            if not self._missing(key, lines):
                continue
            with self.locked(key) as folder:
                missing = self._missing(key, lines)
                if missing:
                    append_whole(folder / f"{name}.jsonl", "".join(line + "\n" for line in missing).encode())
            added += len(missing)
        return added

    def _missing(self, key: str, lines: Iterable[str]) -> list[str]:
        """Those of `lines`, each once, that no file of the target `key` has."""
        present = {record.to_line() for record in self.read(key)[0]}
        return [line for line in dict.fromkeys(lines) if line not in present]

    @contextmanager
    def locked(self, key: str) -> Iterator[Path]:
        """The folder of the target `key`, made if need be, with no other writer in it; UsageError if it cannot be."""
        from filelock import FileLock, Timeout

        folder = self.target_folder(key)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock", timeout=_LOCK_TIMEOUT_S):
                yield folder
        except Timeout:
            raise UsageError(
                f"cannot write records to {str(folder)!r}: another process writes for {_LOCK_TIMEOUT_S:.0f} s already."
            ) from None
        except OSError as error:
            raise UsageError(
                f"cannot write records to {str(folder)!r}: {(error.strerror or str(error)).lower()}.",
                "name another folder with KOMPILO_RECORDS or --records.",
            ) from None

    def target_folder(self, key: str) -> Path:
        """Where records of the target `key` lie; UsageError if that is no name of a target."""
        if not _TARGET_KEY.fullmatch(key):
            raise UsageError(f"expected the key of a target, found {key[:150]!r}.")
        return self.folder / key

    def targets(self) -> list[str]:
        """Keys of the targets that there are records of."""
        try:
            folders = [f.name for f in self.folder.iterdir() if f.is_dir() and _TARGET_KEY.fullmatch(f.name)]
        except OSError:
            return []
        return sorted(key for key in folders if self.files(key))

    def files(self, key: str) -> list[Path]:
        """The files of records of the target `key`, by name."""
        folder = self.target_folder(key)
        with suppress(OSError):
            return sorted(path for pattern in PATTERNS for path in folder.glob(pattern) if not path.is_dir())
        return []

    def places(self, key: str) -> list[list[Path]]:
        """The same files by whose clock their times are of: this machine's, then those that were imported.

        The latter are another place in the sense of `evidence`.
        """
        files = self.files(key)
        imported = [path for path in files if path.name.partition(".")[0] == IMPORTED]
        return [[path for path in files if path not in imported], imported]

    def indexed(self, key: str) -> list[RecordFile]:
        """The files, indexed by operator."""
        return [record_file(path, key) for path in self.files(key)]

    def read(self, key: str) -> tuple[list[Record], list[Problem]]:
        """All records of the target `key` in the order of files and lines, and what could not be read."""
        files = self.indexed(key)
        records = [record for file in files for record in file.all()]
        return records, [problem for file in files for problem in file.problems]

    def find(self, op: OpSpec, key: str) -> list[Found]:
        """What was measured for `op` on the target `key`, in the order of files and lines."""
        return self._found(op, key, self.files(key))

    def known(self, op: OpSpec, key: str) -> list[dict[Point, Known]]:
        """What each of the `places` says of `op`'s points on the target `key`; they are to be joined."""
        return [combine(self._found(op, key, files)) for files in self.places(key)]

    def _found(self, op: OpSpec, key: str, files: Iterable[Path]) -> list[Found]:
        found = []
        for path in files:
            name = f"{self.label or self.folder}:{key}/{path.name}"
            found += [Found(record, name) for record in record_file(path, key).of(op)]
        return found


def append_whole(path: Path, data: bytes) -> None:
    """Append `data` (whole lines) to `path`, all of it or nothing; the caller keeps other writers out."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            data = b"\n" + data
        whole = size + len(data)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except BaseException:
            # An interrupt may come when all is written.
            with suppress(OSError):
                if os.fstat(descriptor).st_size < whole:
                    os.ftruncate(descriptor, size)
                    if size == 0:
                        path.unlink()
            raise
    finally:
        os.close(descriptor)


def given_store(folder: str | os.PathLike[str]) -> RecordStore:
    """The store in a folder that a person names; UsageError unless it is a folder."""
    try:
        path = Path(folder)
        exists = path.is_dir()
    except (TypeError, ValueError) as error:
        raise UsageError(f"records: expected a folder, found {folder!r}: {error}.") from None
    if not exists:
        what = f"{str(path)!r} is not a folder" if path.exists() else f"the folder {str(path)!r} does not exist"
        raise UsageError(f"records: {what}.")
    return RecordStore(path, path.name or str(path))


def installed_store() -> RecordStore | None:
    """The records that come with Kompilo, or None where they are not installed."""
    from importlib.util import find_spec

    spec = find_spec("kompilo.autotune_logs")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return RecordStore(Path(places[0]), "installed") if places else None


def user_store() -> RecordStore:
    """The user's own records."""
    folder = user_folder()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"KOMPILO_RECORDS: expected a folder, found {str(folder)!r}.")
    return RecordStore(folder, "user")


def user_folder() -> Path:
    """Where the user's own records lie: KOMPILO_RECORDS."""
    from ..knobs import Knobs

    return Knobs.from_environment().records
