"""The zip around an artifact: stored members, each starting at a multiple of 64 bytes, read through a memory map."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any

from ..errors import ArtifactError
from .schema import ALIGNMENT

Buffer = Any  # an mmap: random access by slice, and the file methods that zipfile needs

_LOCAL = struct.Struct("<4s5H3I2H")
_PADDING_ID = 0xD935  # the registered id of an alignment extra field: two bytes of alignment, then zeros
_ZIP64_ID = 0x0001
_ZIP64_RECORD = 20  # bytes that zipfile adds to a local header when it is told the member is large
_LARGE = 2**31 - 2**20  # from here on zipfile is told so
_UTF8_FLAG = 0x800
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed date: equal artifacts are equal files


@dataclass(frozen=True)
class Extent:
    """Where the data of a member lies in the file, in bytes, and its CRC-32 of the zip directory."""

    offset: int
    size: int
    crc32: int


def write_members(file: IO[bytes], members: Iterable[tuple[str, int, Iterable[Any]]]) -> None:
    """Writes `members`, each a name, its size in bytes and the chunks of its data, into the empty `file`."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, size, chunks in members:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.file_size = size
            large = size > _LARGE
            header = file.tell() + _LOCAL.size + len(name.encode()) + (_ZIP64_RECORD if large else 0)
            info.extra = _padding(header)
            with archive.open(info, "w", force_zip64=large) as member:
                for chunk in chunks:
                    member.write(chunk)


def _padding(header_end: int) -> bytes:
    """An extra field of at least 6 bytes after which the data starts aligned."""
    payload = -(header_end + 6) % ALIGNMENT
    return struct.pack("<3H", _PADDING_ID, payload + 2, ALIGNMENT) + bytes(payload)


def read_members(buffer: Buffer, size: int) -> dict[str, Extent]:
    """The members of the zip in `buffer` of `size` bytes: its directory, checked against every local header.

    Raises:
        ArtifactError: not a zip, a repeated, compressed, encrypted, misaligned or overlapping member, or a header that
            contradicts the directory.
    """
    try:
        with zipfile.ZipFile(buffer) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except Exception as error:  # zipfile raises half a dozen types on damaged directories
        raise ArtifactError(f"it is not a zip file, or was cut short ({error}).") from None
    members: dict[str, Extent] = {}
    for info in infos:
        if info.orig_filename in members:
            raise ArtifactError(f"the member {info.orig_filename!r} is there twice.")
        members[info.orig_filename] = _extent(buffer, info, min(end, size))
    _refuse_overlaps(members)
    return members


def _extent(buffer: Buffer, info: zipfile.ZipInfo, end: int) -> Extent:
    name, start = info.orig_filename, info.header_offset
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ~_UTF8_FLAG or info.file_size != info.compress_size:
        raise ArtifactError(f"the member {name!r} is compressed or encrypted; members must be stored.")
    if start < 0 or start + _LOCAL.size > end:
        raise ArtifactError(f"the header of the member {name!r} lies outside the file.")
    fields = _LOCAL.unpack(buffer[start : start + _LOCAL.size])
    signature, _, flags, method, _, _, crc, packed, plain, name_bytes, extra_bytes = fields
    names_end = start + _LOCAL.size + name_bytes
    offset = names_end + extra_bytes
    if offset + info.file_size > end:
        raise ArtifactError(f"the member {name!r} reaches beyond the end of the file.")
    if 0xFFFFFFFF in (packed, plain):
        plain, packed = _zip64_sizes(buffer[names_end:offset])
    header = (signature, flags, method, crc, packed, plain, buffer[start + _LOCAL.size : names_end])
    wanted = (b"PK\x03\x04", info.flag_bits, 0, info.CRC, info.file_size, info.file_size, _encoded(info))
    if header != wanted:
        raise ArtifactError(f"the header of the member {name!r} contradicts the directory of the file.")
    if offset % ALIGNMENT:
        raise ArtifactError(f"the member {name!r} does not start at a multiple of {ALIGNMENT} bytes.")
    return Extent(offset, info.file_size, info.CRC)


def _encoded(info: zipfile.ZipInfo) -> bytes:
    return info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_FLAG else "cp437")


def _zip64_sizes(extra: bytes) -> tuple[int, int]:
    """Size and stored size from the zip64 record among the extra fields; (-1, -1) if there is none."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == _ZIP64_ID and length >= 16 and len(extra) >= 20:
            sizes: tuple[int, int] = struct.unpack_from("<2Q", extra, 4)
            return sizes
        extra = extra[4 + length :]
    return -1, -1


def _refuse_overlaps(members: dict[str, Extent]) -> None:
    end = 0
    for name, extent in sorted(members.items(), key=lambda item: item[1].offset):
        if extent.offset < end:
            raise ArtifactError(f"the member {name!r} overlaps another one.")
        end = extent.offset + extent.size
