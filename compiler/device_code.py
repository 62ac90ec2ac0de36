"""Machine code of an accelerator, beside the host's library that launches it. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

TENSOR_MAP = "tensormap"
_CUDA_ARCH = re.compile(r"sm_(\d+)(\d)([af]?)")


@dataclass(frozen=True)
class Kernel:
    """One entry point of a code object.

    `arguments` are the dtypes of its parameters in order ("handle" for a pointer, TENSOR_MAP for a descriptor of
    tiles); `launch` the names of the values that the host passes behind them ("blockIdx.x", "threadIdx.x", ...,
    "tirx.use_dyn_shared_memory").
    """

    name: str
    arguments: tuple[str, ...]
    launch: tuple[str, ...]


@dataclass(frozen=True)
class DeviceCode:
    """A code object: `format` is "cubin" or "hsaco", `arch` the instruction set it is for ("sm_80", "gfx942");
    or "design", hardware of a whole model for the FPGA `arch` ("u280")."""

    format: str
    arch: str
    code: bytes
    kernels: tuple[Kernel, ...]

    def __repr__(self) -> str:
        return f"DeviceCode({self.format} for {self.arch}, {len(self.code)} bytes, {len(self.kernels)} kernels)"


@dataclass(frozen=True)
class Usage:
    """What an operator's kernels take of a GPU, read from their machine code; of several kernels the most.

    Attributes:
        registers: of a thread.
        spill_bytes: memory of a thread for registers that did not fit, and for arrays indexed at run time.
        shared_bytes: shared memory of a block, the launch's share included.
        occupancy: share of an SM's places for warps that are taken at once, the least of the kernels; 0 where a block
            does not fit at all.
        limit: what allows no more of them: "registers", "shared memory", "threads" or "blocks".
    """

    registers: int
    spill_bytes: int
    shared_bytes: int
    occupancy: float
    limit: str

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Usage:
        """Of `dataclasses.asdict`; KeyError, TypeError, ValueError and the like if there is none."""
        registers, spills, shared = (int(data[name]) for name in ("registers", "spill_bytes", "shared_bytes"))
        return cls(registers, spills, shared, float(data["occupancy"]), str(data["limit"]))


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
