"""The manifest of a .kpo file: one typed schema for writing and for reading.

Reading trusts nothing: every number is checked against what the file really holds before anything uses it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from math import prod
from typing import Any

from ..device_code import Kernel
from ..element_types import CARRIED
from ..errors import ArtifactError
from ..tensor_spec import TensorSpec
from .codec import decode, encode, parse
from .records import MemoryPlan, Operator
from .segments import SegmentEntry, check_segments, check_type

FORMAT = "kompilo"
# Files of a model that is compiled as a whole have version 1; segments came with version 2, `If` and `Loop` that decide
# between them with version 3.
FORMAT_VERSION = 3
SEGMENTS_VERSION = 2
WHOLE_VERSION = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.bin"
ALIGNMENT = 64  # bytes; the widest vector load of a kernel, and a cache line

# A design is a model in hardware; see compiler/schedule/whole_design.py.
DEVICE_FORMATS = ("cubin", "hsaco", "design")

ITEM_BYTES = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "bfloat16": 2,
    **dict.fromkeys(CARRIED, 1),
}

_MAX_RANK = 32  # of numpy before version 2
_MAX_DIM = 2**62
_TARGET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+,=-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Member:
    """A member of the zip besides the manifest: its size in bytes and its two checksums."""

    size: int
    sha256: str
    crc32: int


@dataclass(frozen=True)
class Weight:
    """A weight in weights.bin; `offset` in bytes, a multiple of 64."""

    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def nbytes(self) -> int:
        """Size of the data, bytes, without padding."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class DeviceEntry:
    """A DeviceCode without its bytes: `member` holds them."""

    member: str
    format: str
    arch: str
    kernels: tuple[Kernel, ...]


@dataclass(frozen=True)
class TargetEntry:
    """A TargetCode without its bytes: `library` names the member that holds them."""

    name: str
    key: str
    triple: str
    library: str
    entry: str
    cpu_features: tuple[str, ...]
    operators: tuple[Operator, ...]
    memory: MemoryPlan
    weights: tuple[int, ...] | None = None
    device: tuple[DeviceEntry, ...] = ()
    segment: int | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything a .kpo file says about itself; see the classes of the fields."""

    format: str
    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    targets: tuple[TargetEntry, ...]
    weights: tuple[Weight, ...]
    members: dict[str, Member]
    provenance: dict[str, Any]
    segments: tuple[SegmentEntry, ...] = ()

    def to_json(self) -> bytes:
        """UTF-8 text with a trailing newline, readable by people."""
        return (json.dumps(encode(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()

    @staticmethod
    def from_json(text: bytes) -> Manifest:
        """The manifest in `text`, checked in itself but not yet against the file.

        Raises:
            ArtifactError: not a manifest, of a newer format, or inconsistent.
        """
        value = parse(text)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ArtifactError(f"manifest.json: expected the format {FORMAT!r}.")
        version = value.get("version")
        if type(version) is not int or version < 1:
            raise ArtifactError(f"manifest.json: expected a format version of at least 1, found {version!r}.")
        if version > FORMAT_VERSION:
            raise ArtifactError(
                f"its format version {version} is newer than {FORMAT_VERSION}, the newest that this Kompilo reads.",
                "update Kompilo, or compile the model again with this version.",
            )
        manifest: Manifest = decode(Manifest, value, "manifest")
        manifest.validate()
        return manifest

    def validate(self) -> None:
        """Raises ArtifactError if the parts contradict each other or cannot be."""
        for kind, specs in (("input", self.inputs), ("output", self.outputs)):
            _check_specs(kind, specs, bool(self.segments))
        _check_weights(self.weights, self._size_of(WEIGHTS))
        for name, member in self.members.items():
            ok = 0 <= member.size < _MAX_DIM and 0 <= member.crc32 < 2**32 and _SHA256.fullmatch(member.sha256)
            _require(bool(ok), f"member {name!r} has an impossible size or checksum.")
        keys = [(target.key, target.segment or 0) for target in self.targets]
        _require(len(keys) > 0 or bool(self.segments), "expected at least one target, found none.")
        _require(len(set(keys)) == len(keys), f"expected each target once, found {keys}.")
        for target in self.targets:
            _check_target(target, self)
        for number, segment in enumerate(self.segments):
            _check_specs(f"segment {number}: tensor", segment.inputs, not segment.is_compiled)
            _check_specs(f"segment {number}: tensor", segment.outputs, not segment.is_compiled)
            known = segment.model is None or segment.model in self.members
            _require(known, f"segment {number}: the member {segment.model!r} is missing.")
        if self.segments:
            check_segments(self.segments, self.inputs, self.outputs, keys)

    def _size_of(self, member: str) -> int:
        _require(member in self.members, f"the member {member!r} is missing.")
        return self.members[member].size


def library_member(key: str, segment: int | None = None) -> str:
    """The member that holds the code of the target `key`, for one segment where there are several."""
    return f"code/{key}/{_folder(segment)}lib.so"


def device_member(key: str, number: int, suffix: str, segment: int | None = None) -> str:
    """The member that holds the code object `number` of the target `key`, of format `suffix`."""
    return f"code/{key}/{_folder(segment)}device{number}.{suffix}"


def _folder(segment: int | None) -> str:
    return "" if segment is None else f"segment{segment}/"


def _check_specs(kind: str, specs: tuple[TensorSpec, ...], on_host: bool) -> None:
    names = [spec.name for spec in specs]
    _require(len(set(names)) == len(names), f"expected distinct {kind} names, found {names}.")
    for spec in specs:
        _require(spec.name != "", f"an {kind} has no name.")
        check_type(kind, spec, ITEM_BYTES, on_host)
        dims_fine = all(dim != "" if isinstance(dim, str) else 0 <= dim < _MAX_DIM for dim in spec.shape)
        fine = len(spec.shape) <= _MAX_RANK and dims_fine
        _require(fine, f"{kind} {spec.name!r}: the shape {list(spec.shape)} is impossible.")


def _check_weights(weights: tuple[Weight, ...], size: int) -> None:
    end = 0
    for index, weight in enumerate(weights):
        _require(weight.dtype in ITEM_BYTES, f"weight {index}: the dtype {weight.dtype!r} is unknown.")
        fine = len(weight.shape) <= _MAX_RANK and all(0 <= dim < _MAX_DIM for dim in weight.shape)
        _require(fine, f"weight {index}: the shape {list(weight.shape)} is impossible.")
        place = f"weight {index}: bytes {weight.offset} to {weight.offset + weight.nbytes}"
        _require(weight.offset % ALIGNMENT == 0, f"{place} do not start at a multiple of {ALIGNMENT}.")
        _require(weight.offset >= end, f"{place} overlap the weight before.")
        _require(weight.offset + weight.nbytes <= size, f"{place} exceed the {size} bytes of {WEIGHTS}.")
        end = weight.offset + weight.nbytes


def _check_target(target: TargetEntry, manifest: Manifest) -> None:
    where = f"target {target.name!r}"
    for name in (target.name, target.key):
        _require(bool(_TARGET_NAME.fullmatch(name)), f"{where}: the name {name!r} is not allowed.")
    _require(target.library in manifest.members, f"{where}: the member {target.library!r} is missing.")
    for device in target.device:
        _require(device.format in DEVICE_FORMATS, f"{where}: the format {device.format!r} of device code is unknown.")
        _require(device.member in manifest.members, f"{where}: the member {device.member!r} is missing.")
    _require(target.entry != "", f"{where}: the entry function has no name.")
    count = len(manifest.weights)
    fine = target.weights is None or all(0 <= index < count for index in target.weights)
    _require(fine, f"{where}: expected weight numbers below {count}.")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ArtifactError(f"manifest.json: {message}")
