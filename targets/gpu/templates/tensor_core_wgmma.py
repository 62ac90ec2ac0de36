"""Hopper's multiplications by warpgroups: four warps multiply 64 rows of A by up to 256 columns of B in shared memory.

Names, descriptors and layouts are those of the PTX ISA 9.0, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate
Instructions". Operands lie in rows of 128 bytes whose chunks of 16 bytes are exchanged as the swizzle of 128 bytes has
it: along k, or, for elements of two bytes, along the rows of A (columns of B).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tvm.tirx import Stmt

from ..spec import GpuSpec
from .tensor_core_ptx import Multiply, call

# Warps that multiply together, their rows of A, and bytes of a row in shared memory.
WARPS, ROWS, ROW_BYTES = 4, 64, 128
# Eight rows are the unit that the swizzle repeats by.
_EIGHT_ROWS = 8 * ROW_BYTES
_SWIZZLE_128 = 1 << 62

_INLINE = "__forceinline__ __device__"


def _of(size: int, accumulator: str, types: str) -> Multiply:
    return Multiply(size, accumulator, ((types, (), (), ()),), warps=WARPS)


_MULTIPLIES: Mapping[tuple[str, str], Multiply] = MappingProxyType(
    {
        ("float16", "float16"): _of(2, "float32", "f32.f16.f16"),
        ("bfloat16", "bfloat16"): _of(2, "float32", "f32.bf16.bf16"),
        ("int8", "int8"): _of(1, "int32", "s32.s8.s8"),
        ("uint8", "int8"): _of(1, "int32", "s32.u8.s8"),
    }
)


def warpgroup_multiply_of(spec: GpuSpec, a: str, b: str) -> Multiply | None:
    """How warpgroups multiply A of type `a` and B of type `b`; None where `spec`'s do not."""
    return _MULTIPLIES.get((a, b)) if spec.matrix == "wgmma" else None


@dataclass(frozen=True)
class SharedOperand:
    """Where the hardware finds an operand: `along_k`, or in segments of 64 rows of A (columns of B), each of bk k."""

    along_k: bool
    bk: int
    size: int

    @property
    def leading(self) -> int:
        """Bytes from a segment to the next; not used along k."""
        return 16 if self.along_k else self.bk * ROW_BYTES

    @property
    def deeper(self) -> int:
        """Bytes to the k of the next multiplication."""
        return 32 if self.along_k else 32 // self.size * ROW_BYTES

    @property
    def below(self) -> int:
        """Bytes to the next 64 rows of A."""
        return ROWS * ROW_BYTES if self.along_k else self.bk * ROW_BYTES

    @property
    def descriptor(self) -> int:
        """The descriptor but for the address."""
        return _SWIZZLE_128 | (_EIGHT_ROWS >> 4) << 32 | (self.leading >> 4) << 16


def multiply_step(
    how: Multiply, rows: int, columns: int, a: SharedOperand, b: SharedOperand, sums: Any, left: Any, right: Any
) -> Stmt:
    """Begins sums[i] += A[i] B over one step of K, as one group: `rows` times 64 rows, `columns` times eight columns.

    `left` and `right` are where the warpgroup's A and B begin. The sums must not be touched before `wait_multiplies`.
    """
    types = how.steps[0][0]
    count = columns * 4
    kind, letter = {"float32": ("float", "f"), "int32": ("int", "r")}[how.accumulator]
    name = f"kompilo_wgmma_{types.replace('.', '_')}_{rows}x{columns}_{int(a.along_k)}{int(b.along_k)}_{a.bk}"
    results = ", ".join(f"%{k}" for k in range(count))
    outputs = ", ".join(f'"+{letter}"(d[{k}])' for k in range(count))
    modes = f", 1, 1, {int(not a.along_k)}, {int(not b.along_k)}" if how.size == 2 else ""
    places = f"{{{results}}}, %{count}, %{count + 1}, p{modes}"
    instruction = f"wgmma.mma_async.sync.aligned.m{ROWS}n{columns * 8}k{how.depth}.{types} {places};"
    body = f"""
{_INLINE} void {name}({kind}* sums, const void* a, const void* b) {{
  unsigned long long left = {a.descriptor}ULL | (__cvta_generic_to_shared(a) & 0x3ffff) >> 4;
  unsigned long long right = {b.descriptor}ULL | (__cvta_generic_to_shared(b) & 0x3ffff) >> 4;
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int k = 0; k < {a.bk // how.depth}; ++k) {{
#pragma unroll
    for (int i = 0; i < {rows}; ++i) {{
      {kind}* d = sums + i * {count};
      asm volatile("{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{count + 2}, 0;\\n{instruction}\\n}}\\n" : {outputs}
                   : "l"(left + ((k * {a.deeper} + i * {a.below}) >> 4)), "l"(right + ((k * {b.deeper}) >> 4)), "n"(1));
    }}
  }}
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}}
"""
    return call(name, body, sums, left, right)


def wait_multiplies(how: Multiply, pending: int, sums: Any, count: int) -> Stmt:
    """Waits until all but the latest `pending` steps are done; where none is pending, `count` sums are there."""
    letter, kind = {"float32": ("f", "float"), "int32": ("r", "int")}[how.accumulator]
    name = f"kompilo_wait_multiplies_{pending}_{kind}_{count}"
    # The compiler must not read the sums before: so they pass through an empty instruction.
    each = "" if pending else f'for (int i = 0; i < {count}; ++i) asm volatile("" : "+{letter}"(sums[i]) :: "memory");'
    body = f"""
{_INLINE} void {name}({kind}* sums) {{
  asm volatile("wgmma.wait_group.sync.aligned {pending};" ::: "memory");
#pragma unroll
  {each or ";"}
}}
"""
    return call(name, body if each else body.replace("#pragma unroll\n  ;\n", ""), sums)


def fence_copies() -> Stmt:
    """What this thread wrote to shared memory, also by asynchronous copies that have arrived, is seen by multiplies."""
    name = "kompilo_fence_copies"
    text = 'asm volatile("fence.proxy.async.shared::cta;" ::: "memory");'
    return call(name, f"\n{_INLINE} void {name}() {{ {text} }}\n")
