"""Runs OpenCL jobs for opencl.py in a process of its own: a kernel that crashes ends this process only.

Reads pickled jobs from the standard input, writes pickled answers to the descriptor that the first argument names. The
second argument is a part of the platform's name. Imports neither tvm nor Kompilo.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any

import numpy as np
import pyopencl as cl


def find_device(platform_name: str) -> cl.Device:
    """The first device of the platform; LookupError where there is no such platform."""
    platforms = cl.get_platforms()
    for platform in platforms:
        if platform_name in platform.name:
            return platform.get_devices()[0]
    raise LookupError(f"no OpenCL platform '{platform_name}' among {[p.name for p in platforms]}")


class Session:
    """A context and a queue that all jobs of the process use."""

    def __init__(self, device: cl.Device) -> None:
        self.device = device
        self.context = cl.Context([device])
        self.queue = cl.CommandQueue(self.context)

    def run(self, job: dict[str, Any]) -> list[np.ndarray]:
        """All launches of a job; returns its arrays as they are then."""
        missing = [e for e in ("cl_khr_fp16", "cl_khr_fp64") if e in job["source"] and e not in self.device.extensions]
        if missing:
            raise LookupError(f"{self.device.platform.name} has no {missing[0]}")
        program = cl.Program(self.context, job["source"]).build()
        flags = cl.mem_flags.READ_WRITE
        buffers = [cl.Buffer(self.context, flags | cl.mem_flags.COPY_HOST_PTR, hostbuf=a) for a in job["arrays"]]
        for size in job["scratch"]:
            nan = np.full(size, 0xFF, np.uint8)
            buffers.append(cl.Buffer(self.context, flags | cl.mem_flags.COPY_HOST_PTR, hostbuf=nan))
        for launch in job["launches"]:
            self._launch(program, launch, buffers)
        self.queue.finish()
        results = [np.empty_like(a) for a in job["arrays"]]
        for result, buffer in zip(results, buffers, strict=False):
            cl.enqueue_copy(self.queue, result, buffer).wait()
        return results

    def _launch(self, program: cl.Program, launch: dict[str, Any], buffers: list[cl.Buffer]) -> None:
        kernel = cl.Kernel(program, launch["kernel"])
        for position, (kind, value) in enumerate(launch["arguments"]):
            kernel.set_arg(position, buffers[value] if kind == "array" else np.dtype(kind).type(value))
        block = launch["block"]
        total = tuple(g * b for g, b in zip(launch["grid"], block, strict=True))
        cl.enqueue_nd_range_kernel(self.queue, kernel, total, block)


def main() -> None:
    """Answers (True, arrays) or (False, kind of the exception, its text), job by job."""
    out = os.fdopen(int(sys.argv[1]), "wb")
    session: Session | None = None
    while True:
        try:
            job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            session = session or Session(find_device(sys.argv[2]))
            answer: tuple[Any, ...] = (True, session.run(job))
        except Exception as error:  # whatever it is, the other process reports it
            answer = (False, type(error).__name__, str(error))
        pickle.dump(answer, out)
        out.flush()


if __name__ == "__main__":
    main()
