"""What a bundle holds of one candidate: files named by their content, and a JSON value that names them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...launches import DeviceProgram, Launch
from ...schedule.op_spec import OpSpec
from ..measure.operands import random_operands
from ..numbers import carrier
from .gather import Gather, gather_of

# Reads a file of the bundle by its name.
Read = Callable[[str], bytes]


def write_parts(op: OpSpec, kernel: Any, folder: Path) -> dict[str, Any]:
    """Write the files of a DeviceKernel for `op`; returns the value that `read_program` and `pack` take."""
    program = kernel.program
    packed = {}
    for k, packer in kernel.packers.items():
        operand = op.inputs[k]
        gather = gather_of(packer, tuple(int(d) for d in operand.shape), carrier(operand.dtype).name)
        packed[str(k)] = _store(folder, gather.to_bytes(), "gather") if gather else _stored_array(op, k, packer, folder)
    return {
        "format": program.format,
        "arch": program.arch,
        "code": _store(folder, program.code, program.format),
        "launches": [launch.to_json() for launch in program.launches],
        "scratch": list(program.scratch),
        "packed": packed,
        "usage": None if kernel.usage is None else asdict(kernel.usage),
    }


def read_program(parts: dict[str, Any], read: Read) -> DeviceProgram:
    """The device program of `parts`."""
    launches = tuple(Launch.from_json(launch) for launch in parts["launches"])
    return DeviceProgram(parts["format"], parts["arch"], read(parts["code"]), launches, tuple(parts["scratch"]))


def pack(parts: dict[str, Any], operand: int, array: np.ndarray, read: Read) -> np.ndarray:
    """Operand number `operand` as the candidate takes it."""
    name = parts["packed"].get(str(operand))
    if name is None:
        return array
    if name.endswith(".gather"):
        return Gather.from_bytes(read(name)).apply(array)
    shape, dtype, body = read(name).split(b"\n", 2)
    values = np.frombuffer(zlib.decompress(body), dtype.decode())
    return values.reshape([int(d) for d in shape.split()])


def _stored_array(op: OpSpec, operand: int, packer: Callable[[np.ndarray], np.ndarray], folder: Path) -> str:
    """The packed operand itself, for packers that compute."""
    array = np.ascontiguousarray(packer(random_operands(op, 0)[operand]))
    head = " ".join(map(str, array.shape)).encode() + b"\n" + array.dtype.str.encode() + b"\n"
    return _store(folder, head + zlib.compress(array.tobytes(), 6), "array")


def _store(folder: Path, data: bytes, suffix: str) -> str:
    name = f"{hashlib.sha256(data).hexdigest()[:20]}.{suffix}"
    if not (folder / name).exists():
        (folder / name).write_bytes(data)
    return name
