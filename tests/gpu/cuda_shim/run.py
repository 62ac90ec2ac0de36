"""Runs kernels of a CUDA C++ source on the CPU: numpy arrays in, numpy arrays out."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import build
from .tensor_map import TensorMap
from .translate import translate

Extent = int | tuple[int, ...]


class KernelError(RuntimeError):
    """A kernel did what it may not do; the message names kernel, block, thread, line, and what was wrong."""


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    `arguments`: for each parameter the index of an array of the run (an `Array`), a number, or a TensorMap; None takes
    the arrays of the run in order. `cluster` is in blocks, `dynamic_shared` in bytes.
    """

    kernel: str
    grid: Extent
    block: Extent
    arguments: Sequence[Array | TensorMap | int | float] | None = None
    dynamic_shared: int = 0
    cluster: Extent = 1


@dataclass(frozen=True)
class Array:
    """The address of an array of the run, `offset` bytes behind its start."""

    index: int
    offset: int = 0


@dataclass(frozen=True)
class Options:
    """How a run goes where the hardware leaves it open.

    `delivery`: when asynchronous copies arrive and wgmma is carried out: "late" (when it is waited for), "early" (at
    once) or "shuffled". `order`: of threads and blocks, "forward", "backward" or "shuffled" by `seed`. `races`: finds
    unordered accesses and those outside of arrays, several times slower. `shared_limit`: bytes of shared memory that a
    block may have. `timeout`: seconds.
    """

    delivery: str = "late"
    order: str = "forward"
    seed: int = 1
    races: bool = False
    shared_limit: int = 232448
    timeout: float = 120.0


@dataclass
class _Job:
    folder: Path
    lines: list[str] = field(default_factory=list)
    maps: list[TensorMap] = field(default_factory=list)

    def add_array(self, index: int, array: np.ndarray | int, name: str) -> None:
        path = self.folder / f"{index}.bin"
        if isinstance(array, int):
            self.lines.append(f"buffer scratch {array} {path} {name}")
            return
        array.tofile(path)
        self.lines.append(f"buffer inout {array.nbytes} {path} {name}")

    def argument(self, value: Array | TensorMap | int | float) -> str:
        if isinstance(value, Array):
            return f"pointer {value.index} {value.offset}"
        if isinstance(value, TensorMap):
            if value not in self.maps:
                self.maps.append(value)
                self.lines.append(f"map {len(self.maps) - 1} {value.job_text()}")
            return f"map {self.maps.index(value)}"
        if isinstance(value, int | np.integer):
            return f"integer {int(value)}"
        return f"real {float(value)!r}"

    def add_launch(self, launch: Launch, count: int) -> None:
        arguments = [Array(i) for i in range(count)] if launch.arguments is None else launch.arguments
        texts = [self.argument(a) for a in arguments]
        sizes = [*_three(launch.grid), *_three(launch.block), *_three(launch.cluster)]
        numbers = " ".join(map(str, [*sizes, launch.dynamic_shared, len(texts)]))
        self.lines.append(" ".join([f"launch {launch.kernel} {numbers}", *texts]))


def _three(extent: Extent) -> tuple[int, ...]:
    values = (extent,) if isinstance(extent, int) else tuple(extent)
    return (*values, 1, 1)[:3]


_DELIVERIES = {"late": 0, "early": 1, "shuffled": 2}
_ORDERS = {"forward": 0, "backward": 1, "shuffled": 2}


def run_cuda_source(
    source: str,
    launches: Sequence[Launch],
    arrays: Sequence[np.ndarray | int],
    options: Options | None = None,
    names: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Runs `launches` of kernels of `source` (CUDA C++) in turn over `arrays`; returns the arrays as they are then.

    An integer among `arrays` is a scratch buffer of so many bytes, filled with NaN, and not returned. The arrays given
    are not changed. `names` are for messages. Raises KernelError where a kernel misbehaves (deadlock, access outside of
    an array, race, misuse of an instruction), TranslationError and BuildError where the source cannot be run.
    """
    options = options or Options()
    program = build.program(translate(source).source, options.races)
    names = names or [f"array{i}" for i in range(len(arrays))]
    arrays = [a if isinstance(a, int) else np.ascontiguousarray(a) for a in arrays]
    with tempfile.TemporaryDirectory(dir=build.cache_folder()) as folder:
        job = _Job(Path(folder))
        numbers = [
            _DELIVERIES[options.delivery],
            _ORDERS[options.order],
            options.seed,
            int(options.races),
            options.shared_limit,
        ]
        job.lines.append(" ".join(map(str, ["options", *numbers])))
        for i, (array, name) in enumerate(zip(arrays, names, strict=True)):
            job.add_array(i, array, re.sub(r"\W", "_", name))
        for launch in launches:
            job.add_launch(launch, len(arrays))
        path = job.folder / "job"
        path.write_text("\n".join(job.lines) + "\n")
        _execute(program, path, options.timeout)
        return [
            np.fromfile(job.folder / f"{i}.bin", dtype=array.dtype).reshape(array.shape)
            for i, array in enumerate(arrays)
            if not isinstance(array, int)
        ]


def _execute(program: Path, job: Path, timeout: float) -> None:
    try:
        done = subprocess.run([str(program), str(job)], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise KernelError(f"the kernels did not end within {timeout:g} s") from None
    if done.returncode:
        raise KernelError(_with_lines(program, done.stderr.strip()) or f"the run ended with status {done.returncode}")


def _with_lines(program: Path, message: str) -> str:
    """Addresses of code in a message become lines of the source, where addr2line is at hand."""
    tool = shutil.which("addr2line")
    for address in set(re.findall(r"\[pc=(0x[0-9a-f]+)\]", message)) if tool else ():
        command = [str(tool), "-i", "-e", str(program), address]  # with the places it was inlined at
        found = re.search(r"kernel\.cu:(\d+)", subprocess.run(command, capture_output=True, text=True).stdout)
        if found:
            message = message.replace(f"[pc={address}]", f"(line {found[1]})")
    return re.sub(r" ?\[pc=0x?[0-9a-f]*\]", "", message)
