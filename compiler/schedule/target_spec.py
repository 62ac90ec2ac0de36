"""Hardware facts as frozen, self-checking records. Templates read these and never a target's name."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import TargetError


@dataclass(frozen=True)
class TargetSpec:
    """Facts common to every kind of target.

    `key` names the hardware in tuning records ("cpu-cascadelake-avx512-2c"); `kind` is the entry-point name of the
    target ("cpu", "cuda", ...).
    """

    kind: str
    key: str
    cores: int

    def __post_init__(self) -> None:
        if self.cores < 1:
            raise TargetError(f"target {self.key}: expected at least 1 core, found {self.cores}.")


@dataclass(frozen=True)
class CpuSpec(TargetSpec):
    """A CPU: vector unit, caches (bytes), clock-independent throughput, and how LLVM names it.

    `vector_bytes` is the widest profitable SIMD register (64 for AVX-512, 32 for AVX2, 16 for NEON/SSE);
    `vector_registers` how many the register file has; `fma_ports` how many FMAs of that width start per cycle.
    `features` are the CPU flags (Linux /proc/cpuinfo spelling) that generated code relies on.
    """

    triple: str
    mcpu: str
    mattr: tuple[str, ...]
    vector_bytes: int
    vector_registers: int
    fma_ports: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    features: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vector_bytes not in (16, 32, 64):
            raise TargetError(f"target {self.key}: expected vectors of 16, 32 or 64 bytes, found {self.vector_bytes}.")
        if not self.l1_bytes <= self.l2_bytes:
            raise TargetError(f"target {self.key}: expected L1 <= L2, found {self.l1_bytes} > {self.l2_bytes} bytes.")

    def lanes(self, dtype: str) -> int:
        """Elements of `dtype` in one vector register."""
        bits = int("".join(c for c in dtype if c.isdigit()) or "8")
        return max(1, self.vector_bytes * 8 // bits)
