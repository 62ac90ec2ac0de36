"""How many blocks of a kernel a GPU holds at once, by the makers' published rules of allocation.

NVIDIA: `cuda_occupancy.h` of the CUDA toolkit, which the tests compare to, and the table "Technical Specifications per
Compute Capability" of the CUDA C++ Programming Guide. AMD: `AMDGPUBaseInfo.cpp` of LLVM (IsaInfo), which follows the
ISA guides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...compiler.errors import TargetError
from .resources import Resources
from .spec import GpuSpec


@dataclass(frozen=True)
class AllocationRules:
    """What a family of GPUs does beyond the sizes in its GpuSpec.

    Attributes:
        partitions: parts of an SM with registers of their own; a warp has its registers in one of them.
        shared_unit: shared memory is allotted in multiples of this many bytes.
        shared_reserved: bytes that the driver takes of each block's share besides.
        sms: SMs that share a block's resources; 2 where two compute units work as one (AMD's WGP mode).
        barriers: most blocks of more than one warp on those SMs; 0 where only GpuSpec.blocks_per_sm limits.
        whole_partitions: a block must fit with its warps counted in multiples of `partitions`.
        scalar_registers: (most scalar registers per warp, warps per partition) where more lower the number of warps.
    """

    partitions: int
    shared_unit: int
    shared_reserved: int = 0
    sms: int = 1
    barriers: int = 0
    whole_partitions: bool = False
    scalar_registers: tuple[int, int] | None = None


# By the start of the architecture's name; the longest that fits counts.
_RULES = {
    "sm_7": AllocationRules(partitions=4, shared_unit=256, whole_partitions=True),
    "sm_": AllocationRules(partitions=4, shared_unit=128, shared_reserved=1024, whole_partitions=True),
    "gfx9": AllocationRules(partitions=4, shared_unit=512, barriers=16, scalar_registers=(100, 7)),
    "gfx1": AllocationRules(partitions=4, shared_unit=512, sms=2, barriers=32),
}


@dataclass(frozen=True)
class Occupancy:
    """What is resident at once on one SM; on two compute units together where they work as one (RDNA).

    `limit` names what allows no more: "registers", "shared memory", "threads" or "blocks".
    """

    blocks: int
    warps: int
    most_warps: int
    limit: str

    @property
    def fraction(self) -> float:
        """Share of the places for warps that are taken, 0 to 1."""
        return self.warps / self.most_warps


def allocation_rules(arch: str) -> AllocationRules:
    """The rules of an architecture ("sm_80"). Raises TargetError where none are known."""
    for length in range(len(arch), 0, -1):
        if arch[:length] in _RULES:
            return _RULES[arch[:length]]
    raise TargetError(f"no rules of occupancy are known for {arch!r}: expected one of {', '.join(_RULES)}.")


def occupancy(used: Resources, spec: GpuSpec, threads: int, dynamic_shared_bytes: int = 0) -> Occupancy:
    """How much of an SM blocks of this kernel fill.

    Args:
        used: of the kernel's machine code.
        spec: of the GPU.
        threads: of one block.
        dynamic_shared_bytes: shared memory that the launch adds to what the code declares.

    0 blocks where one does not fit. Raises TargetError for an architecture without known rules.
    """
    rules = allocation_rules(spec.arch)
    warps = -(-threads // spec.warp)
    most_warps = spec.threads_per_sm // spec.warp * rules.sms
    limits = {
        "blocks": spec.blocks_per_sm * rules.sms,
        "threads": most_warps // warps if threads <= spec.threads_per_block else 0,
        "registers": _by_registers(used, spec, rules, warps),
        "shared memory": _by_shared_memory(used.shared_bytes + dynamic_shared_bytes, spec, rules),
    }
    if rules.barriers and warps > 1:
        limits["blocks"] = min(limits["blocks"], rules.barriers)
    limit = min(limits, key=lambda name: limits[name])
    return Occupancy(limits[limit], limits[limit] * warps, most_warps, limit)


def resident_blocks(spec: GpuSpec, threads: int, registers: int, shared_bytes: int) -> int:
    """Blocks of `threads` threads, each with `registers`, and of `shared_bytes` that an SM holds at once.

    For code that is not compiled yet; where two compute units work as one (RDNA), the share of one, at least 1 where a
    block fits at all.
    """
    blocks = occupancy(Resources("", registers, 0, shared_bytes, 0), spec, threads).blocks
    return -(-blocks // allocation_rules(spec.arch).sms)


def thread_traits(spec: GpuSpec, kernels: Sequence[tuple[int, int, int]]) -> dict[str, np.ndarray]:
    """Traits of kernels by their threads, registers of a thread and shared bytes of a block, as they are estimated."""
    resident = [resident_blocks(spec, *kernel) * kernel[0] / spec.threads_per_sm for kernel in kernels]
    columns = {"registers": [k[1] for k in kernels], "block_bytes": [k[2] for k in kernels], "occupancy": resident}
    return {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}


def _by_registers(used: Resources, spec: GpuSpec, rules: AllocationRules, warps: int) -> int:
    if used.registers > spec.registers_per_thread:
        return 0
    per_warp = _round_up(max(used.registers, 1), spec.register_unit) * spec.warp
    registers = spec.registers * rules.sms
    if rules.whole_partitions and per_warp * _round_up(warps, rules.partitions) > registers:
        return 0
    per_partition = registers // rules.partitions // per_warp
    if rules.scalar_registers and used.scalar_registers > rules.scalar_registers[0]:
        per_partition = min(per_partition, rules.scalar_registers[1])
    return per_partition * rules.partitions // warps


def _by_shared_memory(size: int, spec: GpuSpec, rules: AllocationRules) -> int:
    if size > spec.shared_bytes:
        return 0
    taken = _round_up(size + rules.shared_reserved, rules.shared_unit)
    return spec.shared_bytes_per_sm * rules.sms // taken if taken else spec.blocks_per_sm * rules.sms


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
