"""Machine code of an accelerator, beside the host's library that launches it. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """One entry point of a code object.

    `arguments` are the dtypes of its parameters in order ("handle" for a pointer); `launch` the names of the values
    that the host passes behind them ("blockIdx.x", "threadIdx.x", ..., "tirx.use_dyn_shared_memory").
    """

    name: str
    arguments: tuple[str, ...]
    launch: tuple[str, ...]


@dataclass(frozen=True)
class DeviceCode:
    """A code object: `format` is "cubin" or "hsaco", `arch` the instruction set it is for ("sm_80", "gfx942")."""

    format: str
    arch: str
    code: bytes
    kernels: tuple[Kernel, ...]

    def __repr__(self) -> str:
        return f"DeviceCode({self.format} for {self.arch}, {len(self.code)} bytes, {len(self.kernels)} kernels)"
