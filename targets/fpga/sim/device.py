"""Running a design on the device fpga:sim: its C++, compiled here once and kept, called like a function.

The loader finds this module by the entry points `kompilo.simulators`; it needs g++, numpy and the open ap_* headers, no
TVM.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ....compiler.errors import TargetError
from ....compiler.knobs import Knobs
from ..design.pack import PackedDesign
from .case import tool
from .headers import header_folder

_SECONDS = 600
# As csim.py compiles kernels: sums and products are not contracted, which hardware does not do either.
_FLAGS = ("-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off", "-fwrapv")


class Simulator:
    """A design that runs; one call at a time, which a lock sees to.

    Attributes:
        design: its facts.
        seconds: predicted time of a run on the part, data being on the chip.
    """

    def __init__(self, code: bytes, weights: Sequence[np.ndarray]):
        self.design = PackedDesign.from_json(code)
        self.seconds = self.design.seconds
        self._library = _own_copy(compiled(self.design.source))
        for name, count in (("kp_set", 2), ("kp_get", 2)):
            getattr(self._library, name).argtypes = [ctypes.c_int, ctypes.c_void_p][:count]
        self._lock = threading.Lock()
        self._set(len(self.design.inputs), weights)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, flat, for the inputs in the model's order; all of the design's dtypes."""
        with self._lock:
            self._set(0, inputs)
            self._library.kp_run()
            results = [np.empty(port.size, port.dtype) for port in self.design.outputs]
            for k, result in enumerate(results):
                self._library.kp_get(k, result.ctypes.data)
        return results

    def _set(self, first: int, arrays: Sequence[np.ndarray]) -> None:
        for k, given in enumerate(arrays):
            data = np.ascontiguousarray(given)
            self._library.kp_set(first + k, data.ctypes.data)


def open_design(code: bytes, weights: Sequence[np.ndarray]) -> Simulator:
    """The simulator of a design; TargetError if g++ or the headers are missing or refuse the code."""
    return Simulator(code, weights)


def problem() -> str | None:
    """Why this machine cannot simulate, as a sentence; None if it can, as far as is known without trying."""
    return None if shutil.which("g++") else "fpga:sim: g++ is not installed."


def _own_copy(library: Path) -> ctypes.CDLL:
    """`library`, loaded apart from all other times that it is: its arrays are global, and hold one design's weights."""
    with tempfile.NamedTemporaryFile(dir=library.parent, suffix=".so") as copy:
        copy.write(library.read_bytes())
        copy.flush()
        return ctypes.CDLL(copy.name)


def compiled(source: str) -> Path:
    """The library made from `source`, in the cache; made anew unless it is whole, as the file beside it tells."""
    key = hashlib.sha256(" ".join((*_FLAGS, source)).encode()).hexdigest()[:24]
    folder = Knobs.from_environment().cache / "fpga-sim"
    path = folder / f"{key}.so"
    if _is_whole(path):
        return path
    compiler, headers = tool("g++", "g++"), header_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            text, made = Path(work) / "design.cpp", Path(work) / "design.so"
            text.write_text(source)
            command = [compiler, *_FLAGS, "-I", str(headers), str(text), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["no reason given"]
                raise TargetError(
                    f"fpga:sim: g++ refused the design: {next((x for x in lines if 'error' in x), lines[0])}"
                )
            seal = Path(work) / "design.sum"
            seal.write_bytes(_seal(made))
            os.replace(made, path)
            os.replace(seal, path.with_suffix(".sum"))
    except OSError as error:
        raise TargetError(f"fpga:sim: the cache {folder} cannot be written ({error.strerror}).") from error
    return path


def _seal(library: Path) -> bytes:
    """Size and SHA-256 of a file."""
    data = library.read_bytes()
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}\n".encode()


def _is_whole(library: Path) -> bool:
    """Whether `library` is what was once put there: a damaged one would end the process."""
    try:
        return library.with_suffix(".sum").read_bytes() == _seal(library)
    except OSError:
        return False
