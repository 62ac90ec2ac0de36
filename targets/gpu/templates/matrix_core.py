"""The matrix instructions of AMD's GPUs: LLVM's names for them, and which lane holds what.

All lanes of a wave multiply together: C (side x side) += A (side x depth) B (depth x side), with sums in float32, of
int8 in int32. Which elements a lane holds is told by AMD's ISA guides of CDNA2, CDNA3 ("Matrix Arithmetic
Instructions") and RDNA3 ("Wave Matrix Multiply Accumulate"), and by their matrix instruction calculator:
- lane l has row l % side of A, and column l % side of B: `run` neighbours along k, those of (l // side) * run on. On
  RDNA3 a lane has all of k, so that lanes 16 to 31 hold what lanes 0 to 15 do;
- its sum number v belongs to column l % side and row v // rows * (rows * wave / side) + l // side * rows + v % rows.
Four neighbours of int8 lie in each 32-bit register, the first in its lowest byte. CDNA3 multiplies twice as many along
k as CDNA2 (V_MFMA_I32_32X32X16_I8 and 16X16X32_I8), whose 32X32X8I8 and 16X16X16I8 it has no longer. RDNA3's
V_WMMA_I32_16X16X16_IU8 is told whether A and B are signed by bits of NEG, and by CLAMP whether sums saturate: not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tvm import tirx

from ....compiler.schedule.template import Config
from ..spec import GpuSpec
from .vectors import dtype_bytes

# Bytes of a row that a lane reads from shared memory at once.
READ_BYTES = 16


@dataclass(frozen=True)
class MatrixInstruction:
    """One instruction.

    Attributes:
        name: LLVM's intrinsic.
        dtype: of A's and B's elements.
        wave: lanes.
        side, depth: sizes of the product.
        run: neighbours along k that a lane has of A, and of B.
        rows: neighbouring rows of sums in a lane.
        carrier: what kernels keep elements as: LLVM takes bfloat16 as int16.
        flags: zeros behind the operands: how lanes are exchanged.
        accumulator: of sums.
        passed: what LLVM takes a lane's elements of A as, and of B, if not as a vector of them: bits of integers.
        signs: whether each operand comes behind a flag for signed numbers, and sums before one for saturation.
    """

    name: str
    dtype: str
    wave: int
    side: int
    depth: int
    run: int
    rows: int
    carrier: str
    flags: int
    accumulator: str = "float32"
    passed: str | None = None
    signs: bool = False

    @property
    def sums(self) -> int:
        """Sums in a lane."""
        return self.side * self.side // self.wave

    @property
    def groups(self) -> int:
        """Parts of k that the lanes of one row hold."""
        return self.depth // self.run

    @property
    def parts(self) -> int:
        """Lanes that have one column's sums between them."""
        return self.wave // self.side

    @property
    def twice(self) -> bool:
        """Whether lanes hold the same elements of A and B as those of another part."""
        return self.groups < self.parts

    @property
    def pack(self) -> int:
        """Neighbours along k that a lane reads together: as many as make up a whole read, for several instructions."""
        return max(self.run, READ_BYTES // dtype_bytes(self.dtype))

    @property
    def chunk(self) -> int:
        """k of the instructions that one pack of each lane serves.

        Lanes of a row hold packs side by side. The instructions take each pack's runs in turn: the order in which they
        go through k is another one than memory's, but the same for A and B.
        """
        return self.pack * self.groups

    def row(self, lane: Any, number: int) -> Any:
        """The row of a lane's sum `number` (the column where the operands are exchanged)."""
        return tirx.truncdiv(lane, tirx.const(self.side, "int32")) * self.rows + self.below(number)

    def below(self, number: Any) -> Any:
        """How far the row of sum `number` is below that of the first."""
        if isinstance(number, int):
            return number // self.rows * (self.rows * self.parts) + number % self.rows
        rows = tirx.const(self.rows, "int32")
        return tirx.truncdiv(number, rows) * (self.rows * self.parts) + tirx.truncmod(number, rows)

    def multiply(self, a: tuple[tirx.Buffer, int], b: tuple[tirx.Buffer, int], c: tuple[tirx.Buffer, int]) -> tirx.Stmt:
        """c += a b, each a buffer of a thread's registers with the place of its first element."""
        left, right, sums = self._passed(*a), self._passed(*b), _lanes(*c, self.sums)
        if self.signs:
            yes, no = tirx.const(1, "bool"), tirx.const(0, "bool")
            operands = [yes, left, yes, right, sums, no]
        else:
            operands = [left, right, sums, *[tirx.const(0, "int32")] * self.flags]
        total = tirx.call_llvm_pure_intrin(f"{self.accumulator}x{self.sums}", self.name, *operands)
        return tirx.BufferStore(c[0], total, [_ramp(c[1], self.sums)])

    def _passed(self, buffer: tirx.Buffer, first: int) -> tirx.Expr:
        elements = _lanes(buffer, first, self.run)
        return elements if self.passed is None else tirx.reinterpret(self.passed, elements)


def _ramp(first: int, lanes: int) -> tirx.Expr:
    start = tirx.const(first, "int32")
    return tirx.Ramp(start, tirx.const(1, "int32"), lanes) if lanes > 1 else start


def _lanes(buffer: tirx.Buffer, first: int, lanes: int) -> tirx.Expr:
    return tirx.BufferLoad(buffer, [_ramp(first, lanes)])


def _cdna(name: str, dtype: str, side: int, depth: int, carrier: str | None = None) -> MatrixInstruction:
    name = f"llvm.amdgcn.mfma.f32.{side}x{side}x{depth}{name}"
    return MatrixInstruction(name, dtype, 64, side, depth, depth * side // 64, 4, carrier or dtype, flags=3)


def _rdna(name: str, dtype: str, carrier: str | None = None) -> MatrixInstruction:
    return MatrixInstruction(
        f"llvm.amdgcn.wmma.f32.16x16x16.{name}", dtype, 32, 16, 16, 16, 1, carrier or dtype, flags=0
    )


def _cdna_int8(side: int, depth: int, passed: str, suffix: str) -> MatrixInstruction:
    name, run = f"llvm.amdgcn.mfma.i32.{side}x{side}x{depth}{suffix}", depth * side // 64
    return MatrixInstruction(name, "int8", 64, side, depth, run, 4, "int8", 3, "int32", passed)


_RDNA_INT8 = MatrixInstruction(
    "llvm.amdgcn.wmma.i32.16x16x16.iu8", "int8", 32, 16, 16, 16, 1, "int8", 0, "int32", "int32x4", signs=True
)

# CDNA2 and later.
_CDNA = (
    _cdna("f32", "float32", 32, 2),
    _cdna("f32", "float32", 16, 4),
    _cdna("f16", "float16", 32, 8),
    _cdna("f16", "float16", 16, 16),
    _cdna("bf16.1k", "bfloat16", 32, 8, carrier="int16"),
    _cdna("bf16.1k", "bfloat16", 16, 16, carrier="int16"),
)

# Kind of matrix unit (GpuSpec.matrix) -> its instructions.
INSTRUCTIONS: Mapping[str, tuple[MatrixInstruction, ...]] = MappingProxyType(
    {
        "mfma": (*_CDNA, _cdna_int8(32, 8, "int32", "i8"), _cdna_int8(16, 16, "int32", "i8")),
        "mfma_cdna3": (*_CDNA, _cdna_int8(32, 16, "int64", ".i8"), _cdna_int8(16, 32, "int64", ".i8")),
        "rdna_wmma": (_rdna("f16", "float16"), _rdna("bf16", "bfloat16", carrier="int16"), _RDNA_INT8),
    }
)


# LLVM's scheduler moves nothing across it.
IN_ORDER = "llvm.amdgcn.sched.barrier"
# 2 to the power of a float32, subnormal numbers being zero (V_EXP_F32).
EXP2 = "llvm.amdgcn.exp2"
# A 32-bit number of the lane whose number times four is told (DS_BPERMUTE_B32), and of the lane 16 further or before
# (V_PERMLANEX16_B32, with selectors that leave the order within 16 lanes).
OF_LANE, OF_OTHER_HALF = "llvm.amdgcn.ds.bpermute", "llvm.amdgcn.permlanex16"
_EVERYWHERE = (IN_ORDER, EXP2)
# Kind of matrix unit -> what else kernels around it ask LLVM for, by the names that LLVM gives back.
BESIDES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mfma": (*_EVERYWHERE, OF_LANE),
        "mfma_cdna3": (*_EVERYWHERE, OF_LANE),
        "rdna_wmma": (*_EVERYWHERE, OF_OTHER_HALF),
    }
)
_SAME_ORDER = (0x76543210, 0xFEDCBA98 - (1 << 32))


def in_order() -> tirx.Stmt:
    """What follows is not mixed with what came before, as LLVM does where registers seem to be left."""
    return tirx.Evaluate(tirx.call_llvm_intrin("void", IN_ORDER, tirx.const(0, "int32")))


def exp2(value: tirx.Expr) -> tirx.Expr:
    """2 to the power of a float32."""
    return tirx.call_llvm_pure_intrin("float32", EXP2, value)


def other_lanes(bits: tirx.Expr, lane: tirx.Expr, distance: int, wave: int) -> tirx.Expr:
    """The int32 `bits` as they are in the lane whose number differs by the bit `distance`.

    All lanes of the wave must come by. Where waves have 32 lanes `distance` is 16.
    """
    if wave == 32:
        assert distance == wave // 2
        low, high = (tirx.const(number, "int32") for number in _SAME_ORDER)
        no = tirx.const(0, "bool")
        return tirx.call_llvm_pure_intrin("int32", OF_OTHER_HALF, bits, bits, low, high, no, no)
    place = tirx.bitwise_xor(lane, tirx.const(distance, "int32")) * 4
    return tirx.call_llvm_pure_intrin("int32", OF_LANE, place, bits)


def with_side(config: Config, instructions: tuple[MatrixInstruction, ...]) -> MatrixInstruction:
    """That of `instructions` which has the side that a config tells."""
    return next(i for i in instructions if i.side == config.int("side"))


def instructions_for(spec: GpuSpec, a: str, b: str) -> tuple[MatrixInstruction, ...]:
    """What `spec`'s matrix units have for A of type `a` and B of type `b`, perhaps nothing."""
    if a != b or a not in spec.matrix_dtypes:
        return ()
    return tuple(i for i in INSTRUCTIONS.get(spec.matrix, ()) if i.dtype == a)
