"""Reads an ONNX model from a path, bytes or a ModelProto, and rejects what is not one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import AttributeProto

from ..errors import ModelError, UsageError
from .classical import without_maps_and_labels
from .converters.registry import canonical_domain

# The first IR version with opset imports, and the newest that the `onnx` package we test against writes.
OLDEST_IR, NEWEST_IR = 3, 14

ModelLike = str | os.PathLike | bytes | onnx.ModelProto


@dataclass(frozen=True)
class ModelSource:
    """A model as read.

    Attributes:
        proto: the model, but for what `classical` puts in the place of some nodes.
        folder: where its external data lies; None for a model that did not come from a file.
        opsets: domain ("" is the standard one) -> version.
        provenance: what an artifact records of its origin: file, sha256, producer, ir_version, opsets.
    """

    proto: onnx.ModelProto
    folder: Path | None
    opsets: dict[str, int]
    provenance: dict[str, Any]


def read_model(model: ModelLike) -> ModelSource:
    """Read and check `model`; ModelError when it cannot be read or is not an ONNX model with a graph."""
    file, folder = None, None
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        content, file, folder = _read_file(path), path.name, path.parent
    elif isinstance(model, (bytes, bytearray, memoryview)):
        content = bytes(model)
    elif isinstance(model, onnx.ModelProto):
        content = _serialized(model)
    else:
        raise UsageError(f"The model must be a path, bytes or an onnx.ModelProto, found {type(model).__name__}.")
    name = f"Model file {file!r}" if file else "The model"
    proto = model if isinstance(model, onnx.ModelProto) else _parse(content, name)
    opsets = _check_header(proto, name)
    producer = f"{proto.producer_name} {proto.producer_version}".strip()
    provenance = {
        "file": file,
        "sha256": hashlib.sha256(content).hexdigest() if content is not None else None,
        "producer": producer or None,
        "ir_version": proto.ir_version,
        "opsets": {domain or "ai.onnx": version for domain, version in opsets.items()},
    }
    return ModelSource(without_maps_and_labels(proto), folder, opsets, provenance)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"Model file {str(path)!r} does not exist.") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ModelError(f"Model file {str(path)!r} cannot be read: {reason}.") from error


def _serialized(model: onnx.ModelProto) -> bytes | None:
    """The bytes of a model that was given as an object; None above the 2 GB that protobuf can write."""
    try:
        return model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError, MemoryError):
        return None


def _parse(content: bytes, name: str) -> onnx.ModelProto:
    if not content:
        raise ModelError(f"{name} is empty, expected an ONNX model.")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{name} is not an ONNX model, or it is truncated or damaged.") from error
    return proto


def _check_header(proto: onnx.ModelProto, name: str) -> dict[str, int]:
    """Protobuf accepts many byte strings that are no model at all: ask for what every model has. Returns the opsets."""
    if not proto.ir_version or not proto.HasField("graph"):
        raise ModelError(f"{name} is not an ONNX model: it has no IR version or no graph.")
    if not OLDEST_IR <= proto.ir_version <= NEWEST_IR:
        raise ModelError(f"{name} has ONNX IR version {proto.ir_version}, expected {OLDEST_IR} to {NEWEST_IR}.")
    broken = next((text for text in _texts(proto.graph) if isinstance(text, bytes)), None)
    if broken is not None:
        raise ModelError(f"{name} is damaged: the name {broken!r} in it is not UTF-8 text.")
    if not proto.graph.output:
        raise ModelError(f"{name} has a graph without outputs, so there is nothing to compute.")
    opsets: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = canonical_domain(entry.domain)
        if entry.version < 1:
            raise ModelError(
                f"{name} asks for opset {entry.version} of domain {domain or 'ai.onnx'!r}, expected 1 or more."
            )
        if opsets.setdefault(domain, entry.version) != entry.version:
            raise ModelError(f"{name} imports two opsets of domain {domain or 'ai.onnx'!r}.")
    if not opsets and proto.graph.node:
        raise ModelError(f"{name} does not say which operator set it uses (opset_import is empty).")
    newest = onnx.defs.onnx_opset_version()
    if opsets.get("", 1) > newest:
        raise ModelError(
            f"{name} uses opset {opsets['']}, expected at most {newest}.",
            "a newer onnx package may know this opset",
        )
    return opsets


def _texts(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    """The names in a graph and its subgraphs; protobuf gives those that are not UTF-8 as bytes."""
    for info in (*graph.input, *graph.output):
        yield info.name
        yield from (dim.dim_param for dim in info.type.tensor_type.shape.dim)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            if attribute.type == AttributeProto.GRAPH:
                yield from _texts(attribute.g)
