"""What a runtime must offer to be measured and verified against, and the table of those there are."""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import UsageError

Runner = Callable[[], object]


class Peer(ABC):
    """A runtime that loads one model and runs it; lives in a process of its own when it is measured."""

    name: str
    distribution: str

    @property
    def runs_on(self) -> str:
        """What the loaded model runs on, in the runtime's own words."""
        return "cpu"

    @abstractmethod
    def load(self, path: Path, threads: int) -> None:
        """Load the model at `path` to run on `threads` threads; ModelError if the runtime cannot."""

    @abstractmethod
    def prepare(self, inputs: Mapping[str, np.ndarray]) -> Runner:
        """A function that runs the model once on `inputs`, with the least overhead the runtime's Python API allows."""

    @abstractmethod
    def outputs(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model once; its outputs by name, in the model's order."""

    @classmethod
    def version(cls) -> str:
        """The installed version of the runtime."""
        return metadata.version(cls.distribution)


OURS = "kompilo"

# name -> (module, class, package to import, pip extra that brings it)
PEERS = {
    OURS: ("kompilo_peer", "KompiloPeer", "numpy", None),
    "onnxruntime": ("onnxruntime_peer", "OnnxRuntimePeer", "onnxruntime", "ort"),
    "openvino": ("openvino_peer", "OpenVinoPeer", "openvino", "peers"),
    "reference": ("reference_peer", "ReferencePeer", "onnx", None),
}


def save_arrays(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` as an .npz into the open `file`; numpy's own function cannot store an array called "file"."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def is_installed(name: str) -> bool:
    """Whether the runtime called `name` can be imported here."""
    return name in PEERS and find_spec(PEERS[name][2]) is not None


def check_installed(name: str) -> None:
    """UsageError if the runtime called `name` is unknown or not installed; imports nothing."""
    if name not in PEERS:
        raise UsageError(f"unknown runtime {name!r}: expected one of {', '.join(n for n in PEERS if n != OURS)}.")
    if not is_installed(name):
        _, _, package, extra = PEERS[name]
        raise UsageError(f"the runtime {package} is not installed.", f"pip install 'kompilo[{extra}]' brings it.")


def find_peer(name: str, **options: str) -> Peer:
    """A new, empty instance of the runtime called `name`; UsageError if it is unknown or not installed.

    `options` are those of its class: of Kompilo's own, `device`.
    """
    check_installed(name)
    module, cls, _, _ = PEERS[name]
    return getattr(import_module(f".{module}", __package__), cls)(**options)
