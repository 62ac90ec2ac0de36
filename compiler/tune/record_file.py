"""One file of records, indexed by operator so that a compilation parses only the lines that it asks for.

`Record.to_line` writes the schema, the target and the operator first, always in the same way: for such lines the index
compares bytes. A line in any other form is parsed when the file is read, and so found as well.
"""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from ..schedule.op_spec import OpSpec
from .op_json import op_from_json, op_to_json
from .record import NEWEST, SCHEMA, Point, Record

PATTERNS = ("*.jsonl", "*.jsonl.gz")
# What separates operator, point and measurement in a line that `Record.to_line` made.
_AFTER_OP = ',"template":'
_AFTER_POINT = '},"status":'
_CREATED = ',"created":"'
_parse_object = json.JSONDecoder().raw_decode
_CACHED_FILES = 1024


# Line number, line, and where the operator ends in it.
_Line = tuple[int, str, int]


@dataclass(frozen=True)
class Problem:
    """A line, or a whole file (`line` 0), that holds no usable record, and why."""

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}" if self.line else f"{self.path}: {self.reason}"


@dataclass
class RecordFile:
    """The records of `path`, which lies in the folder of the target `key`; `problems` grows as lines are parsed.

    `lines` holds those in canonical form by the JSON text of their operator: (line number, line, where the operator
    ends). `parsed` holds the records of all other lines in the same way: (line number, record).
    """

    path: Path
    key: str
    lines: dict[str, list[_Line]] = field(default_factory=dict)
    parsed: dict[str, list[tuple[int, Record]]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _points: dict[str, Point] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def of(self, op: OpSpec) -> list[Record]:
        """The records of `op` that a choice can rest on (see `evidence`), in the order of their lines."""
        text = op_text(op)
        with self._lock:
            return [record for _, record in self._numbered(text, op, _decisive(self.lines.get(text, [])))]

    def all(self) -> list[Record]:
        """Every record, in the order of the lines."""
        with self._lock:
            found = [r for text in list(self.lines) for r in self._numbered(text, self._op(text), self.lines[text])]
            found += [r for text in self.parsed if text not in self.lines for r in self.parsed[text]]
        return [record for _, record in sorted(found, key=lambda numbered: numbered[0])]

    def _numbered(self, text: str, op: OpSpec | None, lines: Sequence[_Line]) -> list[tuple[int, Record]]:
        """The records of the operator with the JSON `text`; those of `lines` that cannot be read become problems."""
        found: list[tuple[int, Record]] = []
        for number, line, end in lines:
            try:
                found.append((number, self._parse(line, end, op)))
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                self._problem(number, str(error))
                self.lines[text] = [item for item in self.lines[text] if item[0] != number]
        found += self.parsed.get(text, ())
        return sorted(found, key=lambda numbered: numbered[0])

    def _parse(self, line: str, end: int, op: OpSpec | None) -> Record:
        """The record of a canonical line. Its point is looked up by its text: most points stand in many lines."""
        if op is None:
            raise ValueError("incomplete operator")
        cut = line.find(_AFTER_POINT, end) + 1
        if cut == 0:
            raise ValueError("not JSON: cut short")
        text = line[end + 1 : cut]
        point = self._points.get(text)
        if point is None:
            point = Point.from_json(json.loads("{" + text + "}"))
            self._points[text] = point
        measured = "{" + line[cut + 1 :]
        data, stop = _parse_object(measured)
        if stop != len(measured):
            raise ValueError("not JSON: extra data after the record")
        data["target"] = self.key
        return Record.from_json(data, op, point)

    @staticmethod
    def _op(text: str) -> OpSpec | None:
        try:
            return op_from_json(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None

    def _add_line(self, number: int, line: str, prefix: str) -> None:
        if line.startswith(prefix):
            end = line.find(_AFTER_OP, len(prefix))
            if end > 0:
                self.lines.setdefault(line[len(prefix) : end], []).append((number, line, end))
                return
        try:
            record = Record.from_line(line)
        except ValueError as error:
            self._problem(number, str(error))
            return
        if record.target != self.key:
            self._problem(number, f"a record of target {record.target!r} in the folder of {self.key!r}")
            return
        self.parsed.setdefault(op_text(record.op), []).append((number, record))

    def _problem(self, number: int, reason: str) -> None:
        self.problems.append(Problem(self.path, number, reason))


def _decisive(lines: Sequence[_Line]) -> list[_Line]:
    """Without those that newer ones of the same point outdate, as far as a glance can tell.

    Parsing takes ten times as long: what was measured over and over, a benchmark's operators say, would be felt.
    """
    lines = sorted({line: (number, line, end) for number, line, end in lines}.values())  # the last of equal ones
    decisive: list[_Line] = []
    groups: dict[tuple[str, bool, bool], list[tuple[str, _Line]]] = {}
    for item in lines:
        _, line, end = item
        cut = line.find(_AFTER_POINT, end)
        status, created = cut + len(_AFTER_POINT), line.rfind(_CREATED) + len(_CREATED)
        if cut < 0 or created < status or line.startswith('"wrong_result"', status):
            decisive.append(item)
            continue
        group = (line[end:cut], line.startswith('"ok"', status), '"cache":"cold"' in line)
        groups.setdefault(group, []).append((line[created : line.find('"', created)], item))
    for dated in groups.values():
        if len(dated) > NEWEST:
            dated.sort(key=lambda pair: pair[0])  # stable: of equal dates the later line is the newer
        decisive += (item for _, item in dated[-NEWEST:])
    return sorted(decisive, key=lambda item: item[0])


def op_text(op: OpSpec) -> str:
    """The operator as it stands in a line."""
    return json.dumps(op_to_json(op), separators=(",", ":"))


def record_file(path: Path, key: str) -> RecordFile:
    """The index of `path`, read anew only when the file changed. A file that cannot be read has one problem."""
    try:
        stat = path.stat()
    except OSError as error:
        return RecordFile(path, key, problems=[Problem(path, 0, _reason(error))])
    if not S_ISREG(stat.st_mode):  # a device may never end
        return RecordFile(path, key, problems=[Problem(path, 0, "cannot be read: not a regular file")])
    stamp = stat.st_mtime_ns, stat.st_size, stat.st_ino
    with _cache_lock:
        known = _cache.pop((path, key), None)
        if known is None or known[0] != stamp:
            known = stamp, _indexed(path, key)
        _cache[path, key] = known  # the last one used
        if len(_cache) > _CACHED_FILES:
            del _cache[next(iter(_cache))]
    return known[1]


_Stamp = tuple[int, int, int]
_cache: dict[tuple[Path, str], tuple[_Stamp, RecordFile]] = {}
_cache_lock = threading.Lock()


def _indexed(path: Path, key: str) -> RecordFile:
    file = RecordFile(path, key)
    prefix = f'{{"schema":{SCHEMA},"target":"{key}","op":'
    try:
        content, damage = read_bytes(path)
    except OSError as error:
        content, damage = b"", _reason(error)
    for number, line in numbered_lines(content):
        file._add_line(number, line, prefix)
    if damage:
        file.problems.append(Problem(path, 0, damage))
    return file


def numbered_lines(content: bytes) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, counted from 1."""
    for number, line in enumerate(content.decode(errors="replace").split("\n"), 1):
        stripped = line.strip()
        if stripped:
            yield number, stripped


def read_bytes(path: Path) -> tuple[bytes, str]:
    """The content, unpacked if gzipped: as much as can be, and what is wrong with the rest ("" if nothing)."""
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content, ""
    try:
        return gzip.decompress(content), ""
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return _salvage(content), f"damaged: {str(error)[:100]}"


def _salvage(content: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    unpacked = []
    for start in range(0, len(content), 4096):
        try:
            unpacked.append(unpacker.decompress(content[start : start + 4096]))
        except zlib.error:
            break
    whole, _, _ = b"".join(unpacked).rpartition(b"\n")
    return whole


def _reason(error: OSError) -> str:
    return f"cannot be read: {(error.strerror or str(error)).lower()}"
