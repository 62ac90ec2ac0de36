"""Facts of a GPU as a frozen, self-checking record. Templates read these and never a target's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...compiler.errors import TargetError
from ...compiler.schedule.target_spec import TargetSpec

# Kinds of matrix units, by the instructions that drive them.
MATRIX_UNITS = ("none", "wmma", "mma", "wgmma", "mfma", "mfma_cdna3", "rdna_wmma")


@dataclass(frozen=True)
class GpuSpec(TargetSpec):
    """A GPU: `cores` are its streaming multiprocessors (NVIDIA) or compute units (AMD), called SMs below.

    Attributes:
        arch: the maker's name of the instruction set ("sm_80", "gfx942").
        warp: threads that execute together (NVIDIA's warp, AMD's wavefront).
        registers: 32-bit registers of one SM, over all threads.
        registers_per_thread: most that one thread may have.
        register_unit: registers are allotted to a warp in multiples of this many per thread.
        shared_bytes: most shared memory of one block, with opt-in where the maker asks for that.
        shared_bytes_per_sm: shared memory of one SM.
        threads_per_block: most threads of one block.
        threads_per_sm: most threads resident on one SM.
        blocks_per_sm: most blocks resident on one SM.
        clock_hz: boost clock.
        bandwidth: of device memory, bytes/s.
        memory_bytes: of device memory.
        l2_bytes: last-level cache on the chip that all SMs share.
        peak: (dtype, FLOP/s) pairs; multiply-adds of vector units ("float32"), and of matrix units for the dtypes in
            `matrix_dtypes` (accumulating in float32, or int32 for int8).
        matrix: kind of matrix unit, one of MATRIX_UNITS: NVIDIA's "wmma" (Turing's shapes of mma.sync), "mma" (those of
            Ampere) and "wgmma" (Hopper's warpgroups, and Ampere's besides), AMD's "mfma" (CDNA2), "mfma_cdna3" and
            "rdna_wmma" (RDNA3).
        matrix_dtypes: operand types of the matrix unit; "tfloat32" is float32 rounded to ten bits.
        async_copy: copies from global to shared memory that pass no register (cp.async).
        tma: copies of whole tiles by descriptor.
        writes_out_loops: whether the compiler for it writes out short loops whole, into more registers than there are:
            kernels then hide how short theirs are.
    """

    arch: str
    warp: int
    registers: int
    registers_per_thread: int
    register_unit: int
    shared_bytes: int
    shared_bytes_per_sm: int
    threads_per_block: int
    threads_per_sm: int
    blocks_per_sm: int
    clock_hz: float
    bandwidth: float
    memory_bytes: int
    l2_bytes: int
    peak: tuple[tuple[str, float], ...]
    matrix: str = "none"
    matrix_dtypes: tuple[str, ...] = ()
    async_copy: bool = False
    tma: bool = False
    writes_out_loops: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warp not in (1, 32, 64):
            raise TargetError(f"target {self.key}: expected warps of 32 or 64 threads, found {self.warp}.")
        if self.matrix not in MATRIX_UNITS:
            raise TargetError(
                f"target {self.key}: expected a matrix unit of {', '.join(MATRIX_UNITS)}, found {self.matrix!r}."
            )
        if not self.shared_bytes <= self.shared_bytes_per_sm:
            found = f"{self.shared_bytes} > {self.shared_bytes_per_sm} bytes"
            raise TargetError(f"target {self.key}: expected a block's shared memory within its SM's, found {found}.")
        if self.threads_per_block > self.threads_per_sm or self.threads_per_block % self.warp:
            found = f"{self.threads_per_block} of {self.threads_per_sm}"
            raise TargetError(f"target {self.key}: expected blocks of whole warps that fit an SM, found {found}.")
        if "float32" not in dict(self.peak):
            raise TargetError(f"target {self.key}: expected a peak rate for float32, found {dict(self.peak)}.")

    @property
    def sms(self) -> int:
        """Streaming multiprocessors, or compute units."""
        return self.cores

    @property
    def code_arch(self) -> str:
        """The architecture that code is compiled for: wgmma exists only in code for one generation ("sm_90a")."""
        return f"{self.arch}a" if self.matrix == "wgmma" else self.arch

    @property
    def precisions(self) -> tuple[str, ...]:
        """What float32 models may be computed in: what the matrix units multiply, as far as templates round to it."""
        rounds = self.matrix in ("mma", "wgmma") and "tfloat32" in self.matrix_dtypes
        halves = self.matrix != "none" and "float16" in self.matrix_dtypes
        return ("fp32", *(("tf32",) if rounds else ()), *(("fp16",) if halves else ()))

    def peak_flops(self, dtype: str) -> float:
        """Peak FLOP/s for operands of `dtype`; that of float32 where nothing else is known."""
        rates = dict(self.peak)
        return rates.get(dtype, rates["float32"])


def named_spec(kind: str, preset: str, gpus: Mapping[str, GpuSpec], stands_for: Mapping[str, str]) -> GpuSpec:
    """The facts of the GPU called `preset` among `gpus`, or of the one that stands for an architecture of that name.

    `kind` is the target's name for messages. Raises TargetError where the name is unknown.
    """
    name = preset.lower()
    known = (*stands_for, *gpus)
    if name not in known:
        raise TargetError(f"unknown target '{kind}:{preset}': expected one of {', '.join(known)}.")
    return gpus[stands_for.get(name, name)]
