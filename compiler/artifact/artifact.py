"""A compiled model in memory, and its .kpo file."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..device_code import DeviceCode
from ..element_types import array_dtype
from ..errors import ArtifactError
from ..segments import Segment
from ..tensor_spec import TensorSpec
from .atomic import replace_file
from .container import Extent, read_members, write_members
from .records import MemoryPlan, Operator, TargetCode
from .schema import (
    ALIGNMENT,
    FORMAT,
    FORMAT_VERSION,
    ITEM_BYTES,
    MANIFEST,
    SEGMENTS_VERSION,
    WEIGHTS,
    WHOLE_VERSION,
    DeviceEntry,
    Manifest,
    Member,
    TargetEntry,
    Weight,
    device_member,
    library_member,
)
from .segments import SegmentEntry, host_models, segment_entries

__all__ = ["Artifact", "MemoryPlan", "Operator", "TargetCode", "read_artifact"]

_MAX_MANIFEST = 64 * 2**20  # bytes; ResNet-50's is about 50 kB


@dataclass(frozen=True)
class _Source:
    """The file that an artifact was opened from: its name, its memory map and what was found in it."""

    name: str
    mapping: mmap.mmap
    manifest: Manifest
    extents: dict[str, Extent]


@dataclass(eq=False)
class Artifact:
    """A compiled model: signature, code for each target, and weights.

    `weights` are C-contiguous arrays that all targets share; those of an opened file are views of its memory map, must
    not be written to, and cost no memory until they are read. `provenance` holds JSON values: the model's name, SHA-256
    and opset, versions, time and options. `segments` are the parts of a model that is not compiled as a whole, for
    operators that stay on the host or branches and loops that the loader decides; none for others.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    targets: tuple[TargetCode, ...]
    weights: list[np.ndarray] = field(repr=False)
    provenance: dict[str, Any]
    segments: tuple[Segment, ...] = ()
    _source: _Source | None = field(default=None, repr=False)

    @property
    def is_mapped(self) -> bool:
        """Whether the weights lie in one memory map, 64-byte aligned, rather than in arrays of their own."""
        return self._source is not None

    @property
    def format_version(self) -> int:
        """Version of the file format that the artifact was read from, or that `save` writes."""
        return self._source.manifest.version if self._source else self._version

    @property
    def _version(self) -> int:
        if any(segment.control for segment in self.segments):
            return FORMAT_VERSION
        return SEGMENTS_VERSION if self.segments else WHOLE_VERSION

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the artifact to `path`; a failure of any kind leaves an existing file as it was.

        Raises:
            ArtifactError: the file cannot be written, or a part of the artifact has no place in the format.
        """
        weights = [_stored(index, array) for index, array in enumerate(self.weights)]
        manifest = self._manifest(weights)
        manifest.validate()
        text = manifest.to_json()
        members: list[tuple[str, int, Any]] = [(MANIFEST, len(text), [text])]
        members += [(name, len(code), [code]) for name, code in self._code_members()]
        members += [(WEIGHTS, manifest.members[WEIGHTS].size, _weight_chunks(weights))]
        with replace_file(path) as file:
            write_members(file, members)

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Artifact:
        """The artifact in the file `path`, with its structure, its code (SHA-256) and its weights (CRC-32) checked.

        Raises:
            ArtifactError: missing, unreadable, truncated, damaged, or of a newer format; one sentence.
        """
        artifact, check_weights = read_artifact(path)
        check_weights()
        return artifact

    def check(self) -> None:
        """Compares every member of the opened file with its SHA-256 (0.3 to 0.5 s for 100 MB).

        Raises:
            ArtifactError: a member differs.
        """
        if self._source is None:
            return
        source = self._source
        for name, member in source.manifest.members.items():
            extent = source.extents[name]
            with memoryview(source.mapping) as view, view[extent.offset : extent.offset + extent.size] as data:
                digest = hashlib.sha256(data).hexdigest()
            if digest != member.sha256:
                raise ArtifactError(f"{source.name}: the member {name!r} is damaged (its SHA-256 differs).")

    def _code_members(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of the members that hold code, and of the models of segments on the host."""
        yield from host_models(self.segments)
        for target in self.targets:
            yield library_member(target.key, target.segment), target.library
            for number, device in enumerate(target.device):
                yield device_member(target.key, number, device.format, target.segment), device.code

    def _manifest(self, weights: list[np.ndarray]) -> Manifest:
        members = {name: _member([code]) for name, code in self._code_members()}
        members[WEIGHTS] = _member(_weight_chunks(weights))
        entries, offset = [], 0
        for array in weights:
            entries.append(Weight(array.shape, array.dtype.name, offset))
            offset += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        targets = tuple(
            TargetEntry(
                name=t.name,
                key=t.key,
                triple=t.triple,
                library=library_member(t.key, t.segment),
                entry=t.entry,
                cpu_features=tuple(t.cpu_features),
                operators=tuple(t.operators),
                memory=t.memory,
                weights=t.weights,
                device=tuple(
                    DeviceEntry(device_member(t.key, k, d.format, t.segment), d.format, d.arch, d.kernels)
                    for k, d in enumerate(t.device)
                ),
                segment=t.segment,
            )
            for t in self.targets
        )
        return Manifest(
            format=FORMAT,
            version=self._version,
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            targets=targets,
            weights=tuple(entries),
            members=members,
            provenance=self.provenance,
            segments=segment_entries(self.segments),
        )


def read_artifact(source: str | os.PathLike[str] | bytes) -> tuple[Artifact, Callable[[], None]]:
    """The artifact in a file or in the bytes of one, and a function that checks its weights' CRC-32.

    Nothing may use the weights before that function has returned; it may run in another thread meanwhile.

    Raises:
        ArtifactError: missing, unreadable, truncated, damaged, or of a newer format (the function: damaged).
    """
    if isinstance(source, bytes | bytearray | memoryview):
        name, mapping = "the artifact", _map_bytes(bytes(source))
    else:
        try:
            name = os.fsdecode(source)
        except TypeError as error:
            raise ArtifactError(f"cannot open {source!r}: {error}.") from None
        mapping = _map_file(name)
    try:
        return _read(name, mapping)
    except ArtifactError as error:
        raise ArtifactError(f"{name} is not a usable .kpo file: {error.message}", error.hint) from None


def _read(name: str, mapping: mmap.mmap) -> tuple[Artifact, Callable[[], None]]:
    extents = read_members(mapping, len(mapping))
    if MANIFEST not in extents:
        raise ArtifactError(f"it is a zip file without {MANIFEST}.")
    extent = extents[MANIFEST]
    if extent.size > _MAX_MANIFEST:
        raise ArtifactError(f"its {MANIFEST} has {extent.size} bytes, expected at most {_MAX_MANIFEST}.")
    text = mapping[extent.offset : extent.offset + extent.size]
    if zlib.crc32(text) != extent.crc32:
        raise ArtifactError(f"the member {MANIFEST!r} is damaged (its CRC-32 differs).")
    manifest = Manifest.from_json(text)
    _check_members(manifest, extents)
    targets = tuple(_target(entry, manifest, extents, mapping) for entry in manifest.targets)
    start = extents[WEIGHTS].offset
    artifact = Artifact(
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        targets=targets,
        weights=[_view(mapping, start, weight) for weight in manifest.weights],
        provenance=manifest.provenance,
        segments=tuple(_segment(entry, manifest, extents, mapping) for entry in manifest.segments),
        _source=_Source(name, mapping, manifest, extents),
    )

    def check_weights() -> None:
        weights = extents[WEIGHTS]
        with memoryview(mapping) as view, view[weights.offset : weights.offset + weights.size] as data:
            found = zlib.crc32(data)
        if found != weights.crc32:
            raise ArtifactError(
                f"{name} is not a usable .kpo file: the member {WEIGHTS!r} is damaged (its CRC-32 differs)."
            )

    return artifact, check_weights


def _check_members(manifest: Manifest, extents: dict[str, Extent]) -> None:
    for name, member in manifest.members.items():
        if name not in extents:
            raise ArtifactError(f"the member {name!r} is missing.")
        extent = extents[name]
        if (extent.size, extent.crc32) != (member.size, member.crc32):
            raise ArtifactError(f"the member {name!r} is not the one that {MANIFEST} describes.")


def _checked(member: str, manifest: Manifest, extents: dict[str, Extent], mapping: mmap.mmap) -> bytes:
    """The content of a member; ArtifactError unless it has its SHA-256."""
    extent = extents[member]
    code = mapping[extent.offset : extent.offset + extent.size]
    if hashlib.sha256(code).hexdigest() != manifest.members[member].sha256:
        raise ArtifactError(f"the member {member!r} is damaged (its SHA-256 differs).")
    return code


def _segment(entry: SegmentEntry, manifest: Manifest, extents: dict[str, Extent], mapping: mmap.mmap) -> Segment:
    model = None if entry.model is None else _checked(entry.model, manifest, extents, mapping)
    return Segment(entry.inputs, entry.outputs, model, entry.operators, entry.control)


def _target(entry: TargetEntry, manifest: Manifest, extents: dict[str, Extent], mapping: mmap.mmap) -> TargetCode:
    def checked(member: str) -> bytes:
        return _checked(member, manifest, extents, mapping)

    return TargetCode(
        name=entry.name,
        key=entry.key,
        triple=entry.triple,
        library=checked(entry.library),
        cpu_features=entry.cpu_features,
        operators=entry.operators,
        memory=entry.memory,
        entry=entry.entry,
        weights=entry.weights,
        device=tuple(DeviceCode(d.format, d.arch, checked(d.member), d.kernels) for d in entry.device),
        segment=entry.segment,
    )


def _view(mapping: mmap.mmap, start: int, weight: Weight) -> np.ndarray:
    if weight.nbytes == 0:
        return np.empty(weight.shape, array_dtype(weight.dtype))
    count = weight.nbytes // ITEM_BYTES[weight.dtype]
    return np.frombuffer(mapping, array_dtype(weight.dtype), count, start + weight.offset).reshape(weight.shape)


def _map_file(name: str) -> mmap.mmap:
    """The file mapped copy-on-write: DLPack consumers want writable memory, and nobody shall write to the file."""
    try:
        # Without O_NONBLOCK a named pipe would block for ever.
        descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, "it is a directory")
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            if status.st_size == 0:
                raise OSError(errno.EINVAL, "it is empty")
            return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(f"cannot open {name!r}: {reason[0].lower()}{reason[1:]}.") from None


def _map_bytes(data: bytes) -> mmap.mmap:
    """A copy of `data` in memory that starts at a page, so that weights are as aligned as in a mapped file."""
    if not data:
        raise ArtifactError("the artifact is not a usable .kpo file: it is empty.")
    mapping = mmap.mmap(-1, len(data))
    mapping[:] = data
    return mapping


def _stored(index: int, array: np.ndarray) -> np.ndarray:
    """`array` as it lies in the file: C-contiguous and little-endian."""
    if array.dtype.name not in ITEM_BYTES:
        raise ArtifactError(f"weight {index}: expected one of {', '.join(ITEM_BYTES)}, found {array.dtype}.")
    return np.require(array, array.dtype.newbyteorder("<"), "C")


def _weight_chunks(weights: list[np.ndarray]) -> Iterator[Any]:
    for array in weights:
        data = array.reshape(-1).view(np.uint8)
        yield data
        yield bytes(-data.nbytes % ALIGNMENT)


def _member(chunks: Any) -> Member:
    size, crc, sha = 0, 0, hashlib.sha256()
    for chunk in chunks:
        sha.update(chunk)
        crc = zlib.crc32(chunk, crc)
        size += len(chunk)
    return Member(size, sha.hexdigest(), crc)
