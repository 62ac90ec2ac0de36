"""AMD's matrix instructions carried out lane by lane, so that kernels made of them run on the CPU.

Nothing here executes CDNA or RDNA3: each call of an intrinsic is replaced by what AMD documents of it, in the same TIR,
which then runs as CUDA C++ by the shim of tests/gpu. The lanes of a wave lay down their operands, wait for each other
(by a barrier of their own, so that one that the kernel lacks is still missed), and each sums up its results. The tables
are written down from AMD's documents again, apart from those of the templates: CDNA3 ISA guide, "Matrix Arithmetic
Instructions"; RDNA3 ISA guide, "Wave Matrix Multiply Accumulate"; the AMD matrix instruction calculator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx
from tvm.target import codegen

_BARRIER = """
static __device__ __forceinline__ void kompilo_wave_barrier(int wave, int lanes) {
  asm volatile("bar.sync %0, %1;" :: "r"(wave + 1), "r"(lanes) : "memory");
}
"""


@dataclass(frozen=True)
class Documented:
    """What AMD's documents say of an instruction D = A B + C, with A side x depth and B depth x side.

    Attributes:
        lanes: of a wave.
        side, depth: sizes.
        held: elements of A in a lane, and of B: A[i, k] is element k % held of lane i + side * (k // held), B[k, j] of
            lane j + side * (k // held).
        row: of sum v in a lane; its column is lane % side.
        twice: lanes 16 to 31 must hold the same operands as lanes 0 to 15.
        sums: type of C and D; operands of int32 sums are signed bytes.
        signs: whether each operand comes behind a flag for signed numbers, and C before one for saturation.
    """

    lanes: int
    side: int
    depth: int
    held: int
    row: Callable[[Any, Any], Any]
    twice: bool = False
    sums: str = "float32"
    signs: bool = False


def _div(value: Any, by: int) -> Any:
    return tirx.truncdiv(value, _i32(by))


def _mod(value: Any, by: int) -> Any:
    return tirx.truncmod(value, _i32(by))


def _i32(value: int) -> tirx.Expr:
    return tirx.const(value, "int32")


def _row_of_32(lane: Any, v: Any) -> Any:
    return 8 * _div(v, 4) + 4 * _div(lane, 32) + _mod(v, 4)


def _row_of_16(lane: Any, v: Any) -> Any:
    return 4 * _div(lane, 16) + v


_MFMA_32X32X2 = Documented(64, 32, 2, 1, _row_of_32)
_MFMA_16X16X4 = Documented(64, 16, 4, 1, _row_of_16)
_MFMA_32X32X8 = Documented(64, 32, 8, 4, _row_of_32)
_MFMA_16X16X16 = Documented(64, 16, 16, 4, _row_of_16)
_WMMA = Documented(32, 16, 16, 16, lambda lane, v: 2 * v + _div(lane, 16), twice=True)
# V_MFMA_I32_32X32X8I8, 16X16X16I8 (CDNA2), 32X32X16_I8, 16X16X32_I8 (CDNA3), V_WMMA_I32_16X16X16_IU8 (RDNA3).
_MFMA_32X32X8_INT8 = replace(_MFMA_32X32X8, sums="int32")
_MFMA_16X16X16_INT8 = replace(_MFMA_16X16X16, sums="int32")
_MFMA_32X32X16_INT8 = Documented(64, 32, 16, 8, _row_of_32, sums="int32")
_MFMA_16X16X32_INT8 = Documented(64, 16, 32, 8, _row_of_16, sums="int32")
_WMMA_INT8 = replace(_WMMA, sums="int32", signs=True)

INSTRUCTIONS = {
    "llvm.amdgcn.mfma.f32.32x32x2f32": _MFMA_32X32X2,
    "llvm.amdgcn.mfma.f32.16x16x4f32": _MFMA_16X16X4,
    "llvm.amdgcn.mfma.f32.32x32x8f16": _MFMA_32X32X8,
    "llvm.amdgcn.mfma.f32.16x16x16f16": _MFMA_16X16X16,
    "llvm.amdgcn.mfma.f32.32x32x8bf16.1k": _MFMA_32X32X8,
    "llvm.amdgcn.mfma.f32.16x16x16bf16.1k": _MFMA_16X16X16,
    "llvm.amdgcn.wmma.f32.16x16x16.f16": _WMMA,
    "llvm.amdgcn.wmma.f32.16x16x16.bf16": _WMMA,
    "llvm.amdgcn.mfma.i32.32x32x8i8": _MFMA_32X32X8_INT8,
    "llvm.amdgcn.mfma.i32.16x16x16i8": _MFMA_16X16X16_INT8,
    "llvm.amdgcn.mfma.i32.32x32x16.i8": _MFMA_32X32X16_INT8,
    "llvm.amdgcn.mfma.i32.16x16x32.i8": _MFMA_16X16X32_INT8,
    "llvm.amdgcn.wmma.i32.16x16x16.iu8": _WMMA_INT8,
}


def emulated(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` with each matrix instruction replaced by what it does."""

    def kernel(node: tirx.AttrStmt) -> tirx.AttrStmt:
        if node.attr_key != "thread_extent" or node.node.thread_tag != "threadIdx.x":
            return node
        waves = _Waves(node.node.var, int(node.value))
        rules = [
            (tirx.BufferStore, waves.carried_out),
            (tvm.ir.Call, _power),
            (tirx.Evaluate, _without_order),
        ]
        body = tvm_ffi.structural_map(node.body, rules, order="post")
        if not waves.replaced:
            return node
        buffers = [tirx.AllocBuffer(b) for b in waves.shared.values()]
        return tirx.AttrStmt(node.node, node.attr_key, node.value, tirx.SeqStmt([*buffers, body]))

    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.AttrStmt, kernel), order="post"))


def _without_order(statement: tirx.Evaluate) -> tirx.Stmt:
    """What LLVM's scheduler is told means nothing to others."""
    call = statement.value
    if not isinstance(call, tvm.ir.Call) or getattr(call.op, "name", "") != "tirx.call_llvm_intrin":
        return statement
    assert codegen.llvm_get_intrinsic_name(int(call.args[0])) == "llvm.amdgcn.sched.barrier"
    return tirx.Evaluate(_i32(0))


def _power(call: tvm.ir.Call) -> Any:
    """V_EXP_F32: 2 to the power of a float32."""
    return tirx.exp2(call.args[1]) if _intrinsic(call) == "llvm.amdgcn.exp2" else call


def _intrinsic(value: Any) -> str:
    """LLVM's name of the intrinsic that a call is of; nothing where it is none of a value."""
    if not isinstance(value, tvm.ir.Call) or getattr(value.op, "name", "") != "tirx.call_llvm_pure_intrin":
        return ""
    return str(codegen.llvm_get_intrinsic_name(int(value.args[0])))


def _lane_64(args: Any) -> tuple[tirx.Expr, tirx.Expr, int]:
    """DS_BPERMUTE_B32: the value of the lane whose number is a fourth of the first operand, in waves of 64."""
    return args[1], _mod(_div(args[0], 4), 64), 64


def _other_half(args: Any) -> tuple[tirx.Expr, tirx.Expr | None, int]:
    """V_PERMLANEX16_B32: lane selectors of four bits, for the other 16 lanes; those of a test leave the order."""
    assert [int(a) & 0xFFFFFFFF for a in args[2:4]] == [0x76543210, 0xFEDCBA98]
    assert not any(int(a) for a in args[4:])
    return args[1], None, 32


# Intrinsic -> what is told, the lane that tells it (None: the one 16 further or before), and lanes of a wave.
OTHER_LANES: dict[str, Callable[[Any], tuple[tirx.Expr, tirx.Expr | None, int]]] = {
    "llvm.amdgcn.ds.bpermute": _lane_64,
    "llvm.amdgcn.permlanex16": _other_half,
}


class _Waves:
    """Replaces the instructions of one kernel of `threads` threads."""

    def __init__(self, thread: tirx.Var, threads: int) -> None:
        self.thread, self.threads = thread, threads
        self.shared: dict[str, tirx.Buffer] = {}
        self.replaced = 0

    def carried_out(self, statement: tirx.BufferStore) -> tirx.Stmt:
        """`statement`, or what its instruction does."""
        name = _intrinsic(statement.value)
        if name not in INSTRUCTIONS and name not in OTHER_LANES:
            return statement
        self.replaced += 1
        carry_out = self._product if name in INSTRUCTIONS else self._of_other_lanes
        return carry_out(statement, name)

    def _product(self, statement: tirx.BufferStore, name: str) -> tirx.Stmt:
        call, how = statement.value, INSTRUCTIONS[name]
        a, b, c = _operands(call.args[1:], how)
        assert c.source.same_as(statement.buffer)
        lay_down = [self._lay_down(self._place(which, how), value, how) for which, value in (("a", a), ("b", b))]
        first = _first(statement.indices[0])
        return tirx.SeqStmt(
            [*lay_down, self._barrier(how.lanes), self._sums(statement.buffer, first, how), self._barrier(how.lanes)]
        )

    def _of_other_lanes(self, statement: tirx.BufferStore, name: str) -> tirx.Stmt:
        """A number out of another lane: all lay theirs down, wait for each other, and read."""
        value, lane, lanes = OTHER_LANES[name](statement.value.args[1:])
        told = self.shared.setdefault("t", tirx.decl_buffer((self.threads,), "int32", "lanes_t", scope="shared"))
        own = _mod(self.thread, lanes)
        from_lane = tirx.bitwise_xor(own, _i32(16)) if lane is None else lane
        read = tirx.BufferLoad(told, [self.thread - own + from_lane])
        return tirx.SeqStmt(
            [
                tirx.BufferStore(told, value, [self.thread]),
                self._barrier(lanes),
                tirx.BufferStore(statement.buffer, read, statement.indices),
                self._barrier(lanes),
            ]
        )

    def _place(self, which: str, how: Documented) -> tirx.Buffer:
        size = self.threads * how.held
        return self.shared.setdefault(which, tirx.decl_buffer((size,), how.sums, f"lanes_{which}", scope="shared"))

    def _lay_down(self, place: tirx.Buffer, value: tirx.Expr, how: Documented) -> tirx.Stmt:
        value = _elements(value, how)
        first = _first(value.indices[0])

        def element(e: Any) -> tirx.Stmt:
            return tirx.BufferStore(
                place, _number(how, tirx.BufferLoad(value.source, [first + e])), [self.thread * how.held + e]
            )

        return _loop(how.held, element)

    def _barrier(self, lanes: int) -> tirx.Stmt:
        wave = _div(self.thread, lanes)
        return tirx.Evaluate(
            tirx.call_intrin("void", "tirx.cuda.func_call", "kompilo_wave_barrier", wave, _i32(lanes), _BARRIER)
        )

    def _sums(self, into: tirx.Buffer, first: int, how: Documented) -> tirx.Stmt:
        lane = _mod(self.thread, how.lanes)
        base = self.thread - lane

        def add(v: Any, k: Any) -> tirx.Stmt:
            a = self._element("a", how, base + how.row(lane, v), k)
            b = self._element("b", how, base + _mod(lane, how.side), k)
            return tirx.BufferStore(into, tirx.BufferLoad(into, [first + v]) + a * b, [first + v])

        return _loop(how.side * how.side // how.lanes, lambda v: _loop(how.depth, lambda k: add(v, k)))

    def _element(self, which: str, how: Documented, lane: tirx.Expr, k: Any) -> tirx.Expr:
        place = self.shared[which]
        lane = lane + how.side * _div(k, how.held)
        value = tirx.BufferLoad(place, [lane * how.held + _mod(k, how.held)])
        if not how.twice:
            return value
        twin = tirx.BufferLoad(place, [(lane + how.side) * how.held + _mod(k, how.held)])
        wrong = float("nan") if how.sums == "float32" else 1 << 20
        return tirx.Select(value == twin, value, tirx.const(wrong, how.sums))


def _operands(args: Any, how: Documented) -> list[Any]:
    """A, B and C of a call, whose flags must say what the tests expect: nothing exchanged, signed, not saturated."""
    flags = [args[0], args[2], args[5]] if how.signs else args[3:]
    assert [int(flag) for flag in flags] == ([1, 1, 0] if how.signs else [0] * len(flags))
    return [args[1], args[3], args[4]] if how.signs else list(args[:3])


def _elements(value: tirx.Expr, how: Documented) -> tirx.BufferLoad:
    """A load of the elements that an operand is made of: bytes pass as the bits of wider integers."""
    if how.sums == "float32":
        return value
    assert value.op.name == "tirx.reinterpret"
    assert str(value.args[0].ty.dtype) == f"int8x{how.held}"
    return value.args[0]


def _number(how: Documented, value: tirx.Expr) -> tirx.Expr:
    """An element as the sums' type; int16 holds the bits of bfloat16."""
    if str(value.ty.dtype) != "int16":
        return value.astype(how.sums)
    return tirx.reinterpret("float32", tirx.shift_left(value.astype("int32"), _i32(16)))


def _loop(extent: int, body: Callable[[Any], tirx.Stmt]) -> tirx.Stmt:
    var = tirx.Var("i", "int32")
    return tirx.For(var, _i32(0), _i32(extent), tirx.ForKind.SERIAL, body(var))


def _first(index: tirx.Expr) -> int:
    return int(index.base) if isinstance(index, tirx.Ramp) else int(index)


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """float32 numbers rounded to bfloat16, as the shim takes them."""
    bits = np.ascontiguousarray(values, "float32").view("uint32")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("uint16")


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The numbers of such an array."""
    return (bits.astype("uint32") << 16).view("float32")
