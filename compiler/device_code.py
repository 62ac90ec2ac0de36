"""Machine code of an accelerator, beside the host's library that launches it. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass

_CUDA_ARCH = re.compile(r"sm_(\d+)(\d)([af]?)")


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


def runs_on(arch: str, version: str) -> bool:
    """Whether code for `arch` ("sm_80") runs on a GPU of the compute capability `version` ("8.6").

    Code runs on the same major version and the same or a later minor one; "sm_90a" on exactly 9.0. Other makers' names
    must agree.
    """
    found = _CUDA_ARCH.fullmatch(arch)
    if found is None:
        return arch.partition(":")[0] == version.partition(":")[0]
    major, minor = (int(part) for part in [*version.split("."), "0"][:2])
    wanted = int(found[1]), int(found[2])
    if found[3] == "a":
        return (major, minor) == wanted
    return major == wanted[0] and minor >= wanted[1]


def arch_order(arch: str) -> tuple[int, int, str]:
    """What architectures of CUDA are ordered by, "sm_90" before "sm_90a"; equal for all others."""
    found = _CUDA_ARCH.fullmatch(arch)
    return (int(found[1]), int(found[2]), found[3]) if found else (0, 0, "")


def gpu_words(name: str) -> list[str]:
    """Of "NVIDIA A100-SXM4-80GB": a100, sxm4, 80gb; a model and its number are one word, as in presets' names."""
    short = re.sub(r"\b(nvidia|geforce|tesla)\b", "", name.lower())
    return re.findall(r"[a-z0-9]+", re.sub(r"\b(rtx) (\d+)", r"\1\2", short))
