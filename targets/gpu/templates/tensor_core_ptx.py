"""NVIDIA's instructions for matrices and asynchronous copies as TIR calls: each is a small CUDA function around PTX.

Names, shapes and fragment layouts are those of the PTX ISA 9.0, "Warp Level Matrix Multiply-Accumulate Instructions",
"Data Movement and Conversion Instructions: Asynchronous copy". All multiplications here take 16 rows of 32 bytes of A
and 8 columns of 32 bytes of B, so that one `ldmatrix` brings the fragments of every type alike: k is 16 for types of
two bytes, 32 for one, 8 for four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tvm import tirx
from tvm.tirx import Stmt

from ..spec import GpuSpec

# Rows of A, columns of B, and bytes of k of one multiplication; registers of a lane for each operand and the result.
ROWS, COLUMNS, DEPTH_BYTES = 16, 8, 32
A_REGISTERS, B_REGISTERS, RESULTS = 4, 2, 4

_INLINE = "__forceinline__ __device__"


@dataclass(frozen=True)
class Multiply:
    """How a unit multiplies operands of some type.

    Attributes:
        size: bytes of an operand's element.
        accumulator: type of sums.
        steps: PTX instructions, each with the numbers of the lane's registers of the result, of A and of B.
        warps: warps that multiply together; each has 16 rows of A.
        rounding: instruction that rounds a register of A or B to what the unit multiplies; it would cut off the rest.
    """

    size: int
    accumulator: str
    steps: tuple[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...]
    rounding: str = ""
    warps: int = 1

    @property
    def depth(self) -> int:
        """k of one multiplication."""
        return DEPTH_BYTES // self.size


_ALL = ((0, 1, 2, 3), (0, 1, 2, 3), (0, 1))


def _whole(size: int, accumulator: str, shape: str, types: str, rounding: str = "") -> Multiply:
    return Multiply(size, accumulator, ((f"{shape}.row.col.{types}", *_ALL),), rounding)


def _int8(a: str, b: str) -> Multiply:
    return _whole(1, "int32", "m16n8k32", f"s32.{a}.{b}.s32")


def _int8_of_turing(a: str, b: str) -> Multiply:
    name = f"m8n8k16.row.col.s32.{a}.{b}.s32"
    # Rows 0 to 7 and 8 to 15 apart, each with both halves of k.
    parts = (((0, 1), (0,), (0,)), ((0, 1), (2,), (1,)), ((2, 3), (1,), (0,)), ((2, 3), (3,), (1,)))
    return Multiply(1, "int32", tuple((name, *part) for part in parts))


_F16_OF_TURING = "m16n8k8.row.col.f32.f16.f16.f32"
_TURING = {
    ("float16", "float16"): Multiply(
        2,
        "float32",
        ((_F16_OF_TURING, (0, 1, 2, 3), (0, 1), (0,)), (_F16_OF_TURING, (0, 1, 2, 3), (2, 3), (1,))),
    ),
    ("int8", "int8"): _int8_of_turing("s8", "s8"),
    ("uint8", "int8"): _int8_of_turing("u8", "s8"),
}
_AMPERE = {
    ("float16", "float16"): _whole(2, "float32", "m16n8k16", "f32.f16.f16.f32"),
    ("bfloat16", "bfloat16"): _whole(2, "float32", "m16n8k16", "f32.bf16.bf16.f32"),
    ("tfloat32", "tfloat32"): _whole(4, "float32", "m16n8k8", "f32.tf32.tf32.f32", "cvt.rna.tf32.f32"),
    ("int8", "int8"): _int8("s8", "s8"),
    ("uint8", "int8"): _int8("u8", "s8"),
}
# Kind of matrix unit (GpuSpec.matrix) -> types of A and B -> how it multiplies them. Hopper knows Ampere's.
UNITS: Mapping[str, Mapping[tuple[str, str], Multiply]] = MappingProxyType(
    {"wmma": _TURING, "mma": _AMPERE, "wgmma": _AMPERE}
)


def multiply_of(spec: GpuSpec, a: str, b: str) -> Multiply | None:
    """How `spec`'s matrix units multiply A of type `a` and B of type `b`; None where they do not."""
    offered = "int8" if a == "uint8" else a
    if offered not in spec.matrix_dtypes:
        return None
    return UNITS.get(spec.matrix, {}).get((a, b))


def multiply_tile(how: Multiply, rows: int, columns: int, sums: Any, a: Any, b: Any) -> Stmt:
    """sums[i, j] += a[i] * b[j] for rows x columns fragments; all are pointers to a lane's registers.

    `sums` holds four numbers of (i, j), row-major; `a` four registers of each i, `b` two of each j.
    """
    letter = {"float32": "f", "int32": "r"}[how.accumulator]
    kind = {"float32": "float", "int32": "int"}[how.accumulator]
    lines = [_instruction(letter, *step) for step in how.steps]
    text = " ".join(f"m_{name.replace('.', '_')}" for name in dict.fromkeys(step[0] for step in how.steps))
    name = f"kompilo_{text}_{rows}x{columns}"
    body = f"""
{_INLINE} void {name}({kind}* sums, const unsigned* a, const unsigned* b) {{
#pragma unroll
  for (int i = 0; i < {rows}; ++i) {{
#pragma unroll
    for (int j = 0; j < {columns}; ++j) {{
      {kind}* d = sums + (i * {columns} + j) * {RESULTS};
      {(chr(10) + "      ").join(lines)}
    }}
  }}
}}
"""
    return call(name, body, sums, a, b)


def round_registers(how: Multiply, registers: Any, count: int) -> Stmt | None:
    """Rounds `count` registers of A or B in place; None where nothing is to be done."""
    if not how.rounding:
        return None
    name = f"kompilo_round_{how.rounding.replace('.', '_')}_{count}"
    body = f"""
{_INLINE} void {name}(unsigned* r) {{
#pragma unroll
  for (int i = 0; i < {count}; ++i) asm("{how.rounding} %0, %1;" : "=r"(r[i]) : "r"(r[i]));
}}
"""
    return call(name, body, registers)


def _instruction(letter: str, name: str, d: Sequence[int], a: Sequence[int], b: Sequence[int]) -> str:
    numbers = iter(range(len(d) + len(a) + len(b)))
    results, left, right = ("{" + ", ".join(f"%{next(numbers)}" for _ in part) + "}" for part in (d, a, b))
    outputs = ", ".join(f'"+{letter}"(d[{k}])' for k in d)
    inputs = [f'"r"(a[i * {A_REGISTERS} + {k}])' for k in a] + [f'"r"(b[j * {B_REGISTERS} + {k}])' for k in b]
    return f'asm("mma.sync.aligned.{name} {results}, {left}, {right}, {results};" : {outputs} : {", ".join(inputs)});'


def load_fragments(
    into: Any, row: Any, chunk: Any, mask: Any, count: int, row_bytes: int, chunk_step: int, transposed: bool
) -> Stmt:
    """`count` times four 8x8 matrices of 16-bit numbers into four registers each, from shared memory.

    A lane reads the chunk of 16 bytes number `chunk` ^ `mask` of the row at `row`. Each time it goes `row_bytes` and
    `chunk_step` chunks on.
    """
    suffix = ".trans" if transposed else ""
    name = f"kompilo_load_{count}_{row_bytes}_{chunk_step}{suffix.replace('.', '_')}"
    outputs = ", ".join(f'"=r"(r[4 * i + {k}])' for k in range(4))
    body = f"""
{_INLINE} void {name}(unsigned* r, const void* row, int chunk, int mask) {{
  unsigned start = static_cast<unsigned>(__cvta_generic_to_shared(row));
#pragma unroll
  for (int i = 0; i < {count}; ++i) {{
    unsigned at = start + i * {row_bytes} + ((chunk + i * {chunk_step}) ^ mask) * 16;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4{suffix}.shared.b16 {{%0, %1, %2, %3}}, [%4];"
                 : {outputs} : "r"(at) : "memory");
  }}
}}
"""
    return call(name, body, into, row, chunk, mask)


def keep_results(how: Multiply, slab: Any, sums: Any, columns: int, pitch: int) -> Stmt:
    """A row of `columns` fragments of sums into shared memory at `slab`, whose rows are `pitch` elements apart.

    `slab` is where a lane's first element goes: it holds two neighbours of a row, and two eight rows below.
    """
    kind = {"float32": "float", "int32": "int"}[how.accumulator]
    name = f"kompilo_keep_{kind}_{columns}_{pitch}"
    body = f"""
{_INLINE} void {name}({kind}* slab, const {kind}* sums) {{
#pragma unroll
  for (int j = 0; j < {columns}; ++j) {{
    *reinterpret_cast<{kind}2*>(slab + j * {COLUMNS}) = make_{kind}2(sums[4 * j], sums[4 * j + 1]);
    *reinterpret_cast<{kind}2*>(slab + j * {COLUMNS} + 8 * {pitch}) = make_{kind}2(sums[4 * j + 2], sums[4 * j + 3]);
  }}
}}
"""
    return call(name, body, slab, sums)


def hidden(value: int) -> tirx.Expr:
    """`value`, of which the compiler does not know that it is a constant: so it keeps a loop of that length a loop."""
    name = f"kompilo_hidden_{value}"
    body = f"""
{_INLINE} int {name}() {{
  int value;
  asm("mov.u32 %0, {value};" : "=r"(value));
  return value;
}}
"""
    return tirx.call_intrin("int32", "tirx.cuda.func_call", name, body)


def copy_async(size: int, to: Any, source: Any, exists: Any) -> Stmt:
    """`size` (4, 8, 16) bytes from global memory at `source` to shared memory at `to`; zeros unless `exists`.

    Done by `wait_copies`. `source` has to be an address even where nothing is read.
    """
    name = f"kompilo_copy_async_{size}"
    cache = "cg" if size == 16 else "ca"  # only whole lines may pass by the first cache
    body = f"""
{_INLINE} void {name}(void* to, const void* from, bool exists) {{
  unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  int bytes = exists ? {size} : 0;
  asm volatile("cp.async.{cache}.shared.global [%0], [%1], {size}, %2;" :: "r"(at), "l"(from), "r"(bytes) : "memory");
}}
"""
    return call(name, body, to, source, exists)


def commit_copies() -> Stmt:
    """The copies of this thread since the last commit become a group."""
    name = "kompilo_commit_copies"
    return call(name, f'\n{_INLINE} void {name}() {{ asm volatile("cp.async.commit_group;" ::: "memory"); }}\n')


def wait_copies(pending: int) -> Stmt:
    """Waits until all but the latest `pending` groups of this thread have arrived."""
    name = f"kompilo_wait_copies_{pending}"
    text = f'asm volatile("cp.async.wait_group %0;" :: "n"({pending}) : "memory");'
    return call(name, f"\n{_INLINE} void {name}() {{ {text} }}\n")


def sync_warp() -> Stmt:
    """The lanes of a warp wait for each other and see what they wrote to shared memory."""
    name = "kompilo_sync_warp"
    return call(name, f"\n{_INLINE} void {name}() {{ __syncwarp(); }}\n")


def address(buffer: tirx.Buffer, index: Any) -> tirx.Expr:
    """The address of one element."""
    return tirx.address_of(tirx.BufferLoad(buffer, [index]))


def call(name: str, source: str, *arguments: Any) -> Stmt:
    """A call of the CUDA function `name`, whose text is `source`."""
    return tirx.Evaluate(tirx.call_intrin("void", "tirx.cuda.func_call", name, *arguments, source))
