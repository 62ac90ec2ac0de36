"""The part of the ELF format that device code needs: sections, symbols and notes of 64-bit little-endian files.

Cubins and AMD code objects are both ELF64 LSB. The layouts of structures are those of the System V ABI, chapters 4
and 5 (gabi). Every offset and size is checked against the file, so that a damaged file is a KompiloError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ...compiler.errors import KompiloError

MACHINE_CUDA = 190
MACHINE_AMDGPU = 224

SECTION_SYMBOLS = 2
SECTION_NOTE = 7
SECTION_NOBITS = 8  # takes memory at run time and no bytes of the file
SECTION_DYNAMIC_SYMBOLS = 11

SYMBOL_FUNCTION = 2

_HEADER = struct.Struct("<4sBBBBB7xHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_NOTE = struct.Struct("<III")


@dataclass(frozen=True)
class Section:
    """A section header; `size` counts bytes in memory, `info` and `link` mean what the section's type says."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    index: int


@dataclass(frozen=True)
class Symbol:
    """A symbol: `value` is its address or offset, `size` its bytes, `section` the index of the section it is in."""

    name: str
    type: int
    binding: int
    section: int
    value: int
    size: int


@dataclass(frozen=True)
class Note:
    """A note of a tool: `name` says whose ("AMDGPU"), `type` what kind, `content` the bytes."""

    name: str
    type: int
    content: bytes


class ElfFile:
    """A parsed ELF file.

    Args:
        data: the bytes of the file.
        what: what to call it in messages ("cubin").

    Raises KompiloError, here and in all methods, where the bytes are not such a file or refer beyond its end.
    """

    def __init__(self, data: bytes, what: str = "device code"):
        self.what = what
        self.data = bytes(data)
        if len(self.data) < _HEADER.size or self.data[:4] != b"\x7fELF":
            raise KompiloError(f"{what}: expected an ELF file, found {len(self.data)} bytes of something else.")
        header = _HEADER.unpack_from(self.data)
        if header[1:3] != (2, 1):
            raise KompiloError(f"{what}: expected a 64-bit little-endian ELF file, found another kind.")
        self.abi, self.abi_version = header[4], header[5]
        self.machine = header[7]
        self.flags: int = header[12]
        self._slice(header[10], header[14] * header[15])  # program headers, of which nothing is needed
        self.sections = self._read_sections(offset=header[11], entry=header[16], count=header[17], names=header[18])
        for section in self.sections:
            self.content(section)
        self._by_name = {section.name: section for section in reversed(self.sections)}

    def section(self, name: str) -> Section | None:
        """The first section called `name`, or None."""
        return self._by_name.get(name)

    def content(self, section: Section) -> bytes:
        """The bytes of a section; none for one that takes memory only."""
        return b"" if section.type == SECTION_NOBITS else self._slice(section.offset, section.size)

    def symbols(self) -> list[Symbol]:
        """The symbols of `.symtab`, in the order of their indices; of `.dynsym` where the file is stripped."""
        for kind in (SECTION_SYMBOLS, SECTION_DYNAMIC_SYMBOLS):
            for section in self.sections:
                if section.type == kind:
                    return list(self._symbols_of(section))
        return []

    def notes(self) -> list[Note]:
        """All notes, in the order of the file."""
        return [note for section in self.sections if section.type == SECTION_NOTE for note in self._notes_of(section)]

    def _slice(self, offset: int, size: int) -> bytes:
        if offset + size > len(self.data):
            raise KompiloError(
                f"{self.what}: expected at least {offset + size} bytes, found {len(self.data)}: the file is truncated."
            )
        return self.data[offset : offset + size]

    def _read_sections(self, offset: int, entry: int, count: int, names: int) -> list[Section]:
        if count == 0:
            return []
        if entry != _SECTION.size or names >= count:
            raise KompiloError(f"{self.what}: the table of sections is damaged.")
        rows = list(_SECTION.iter_unpack(self._slice(offset, count * entry)))
        table = self._slice(rows[names][4], rows[names][5])
        return [
            Section(self._string(table, row[0]), row[1], row[2], row[3], row[4], row[5], row[6], row[7], index)
            for index, row in enumerate(rows)
        ]

    def _symbols_of(self, section: Section) -> Iterator[Symbol]:
        if section.link >= len(self.sections) or section.size % _SYMBOL.size:
            raise KompiloError(f"{self.what}: the symbol table {section.name!r} is damaged.")
        names = self.content(self.sections[section.link])
        for name, info, _, index, value, size in _SYMBOL.iter_unpack(self.content(section)):
            yield Symbol(self._string(names, name), info & 15, info >> 4, index, value, size)

    def _notes_of(self, section: Section) -> Iterator[Note]:
        content, position = self.content(section), 0
        while position + _NOTE.size <= len(content):
            name_size, size, kind = _NOTE.unpack_from(content, position)
            start = position + _NOTE.size
            body = start + _aligned(name_size)
            if body + size > len(content):
                raise KompiloError(f"{self.what}: a note in {section.name!r} is longer than its section.")
            name = content[start : start + name_size].rstrip(b"\0").decode("utf-8", "replace")
            yield Note(name, kind, content[body : body + size])
            position = body + _aligned(size)

    def _string(self, table: bytes, offset: int) -> str:
        end = table.find(b"\0", offset)
        if end < 0:
            raise KompiloError(f"{self.what}: a name lies outside of its table of names.")
        return table[offset:end].decode("utf-8", "replace")


def _aligned(size: int) -> int:
    """Names and contents of notes are padded to 4 bytes."""
    return (size + 3) & ~3
