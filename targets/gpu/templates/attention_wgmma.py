"""Attention by Hopper's wgmma: products of queries and keys, then of weights in registers and values.

See tensor_core_wgmma for descriptors and layouts. All rows in shared memory are segments of 128 bytes, swizzled; a
tensor deeper than that has several such tiles one after the other.
"""

from __future__ import annotations

from typing import Any

from tvm.tirx import Stmt

from .attention_tile import SEGMENT
from .tensor_core_ptx import A_REGISTERS, Multiply, call
from .tensor_core_wgmma import ROW_BYTES, ROWS, SharedOperand

_INLINE = "__forceinline__ __device__"
# k of a multiplication, and how many of them a segment of 128 bytes has.
_DEPTH = 16
_PER_SEGMENT = SEGMENT // _DEPTH


def begin_scores(how: Multiply, rows: int, keys: int, depth: int, scores: Any, queries: Any, key: Any) -> Stmt:
    """Begins scores = queries keys^T, as one group: 64 rows of the warpgroup's queries by `keys` keys.

    `queries` is where the warpgroup's begin, in tiles of `rows` rows; `key` where the step's keys do.
    """
    name = f"kompilo_scores_{_plain(how)}_{rows}x{keys}x{depth}"
    count, operand = keys // 2, SharedOperand(True, SEGMENT, 2).descriptor
    places = f"{{{_numbers(count)}}}, %{count}, %{count + 1}, p, 1, 1, 0, 0"
    instruction = f"wgmma.mma_async.sync.aligned.m{ROWS}n{keys}k{_DEPTH}.{how.steps[0][0]} {places};"
    at = f"(k / {_PER_SEGMENT} * {{rows}} * {ROW_BYTES} + k % {_PER_SEGMENT} * 32) >> 4"
    body = f"""
{_INLINE} void {name}(float* d, const void* a, const void* b) {{
  unsigned long long left = {operand}ULL | (__cvta_generic_to_shared(a) & 0x3ffff) >> 4;
  unsigned long long right = {operand}ULL | (__cvta_generic_to_shared(b) & 0x3ffff) >> 4;
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int k = 0; k < {depth // _DEPTH}; ++k)
    asm volatile("{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{count + 2}, 0;\\n{instruction}\\n}}\\n" : {_outputs(count)}
                 : "l"(left + ({at.format(rows=rows)})), "l"(right + ({at.format(rows=keys)})), "r"(k));
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}}
"""
    return call(name, body, scores, queries, key)


def begin_gather(how: Multiply, keys: int, columns: int, sums: Any, weights: Any, values: Any) -> Stmt:
    """Begins sums += weights values, as one group: 64 rows by `columns`; weights are fragments of A in registers."""
    name = f"kompilo_gather_{_plain(how)}_{keys}x{columns}"
    count, operand = columns // 2, SharedOperand(False, keys, 2)
    left = ", ".join(f"%{count + k}" for k in range(A_REGISTERS))
    places = f"{{{_numbers(count)}}}, {{{left}}}, %{count + A_REGISTERS}, 1, 1, 1, 1"
    instruction = f"wgmma.mma_async.sync.aligned.m{ROWS}n{columns}k{_DEPTH}.{how.steps[0][0]} {places};"
    inputs = ", ".join(f'"r"(p[{A_REGISTERS} * k + {i}])' for i in range(A_REGISTERS))
    body = f"""
{_INLINE} void {name}(float* d, const unsigned* p, const void* b) {{
  unsigned long long right = {operand.descriptor}ULL | (__cvta_generic_to_shared(b) & 0x3ffff) >> 4;
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int k = 0; k < {keys // _DEPTH}; ++k)
    asm volatile("{instruction}" : {_outputs(count)} : {inputs}, "l"(right + ((k * {operand.deeper}) >> 4)));
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}}
"""
    return call(name, body, sums, weights, values)


def settle(pending: int, registers: Any, count: int) -> Stmt:
    """Waits until all but the latest `pending` groups are done, after which `count` numbers may be touched."""
    name = f"kompilo_settle_{pending}_{count}"
    body = f"""
{_INLINE} void {name}(float* r) {{
  asm volatile("wgmma.wait_group.sync.aligned {pending};" ::: "memory");
#pragma unroll
  for (int i = 0; i < {count}; ++i) asm volatile("" : "+f"(r[i]) :: "memory");
}}
"""
    return call(name, body, registers)


def _plain(how: Multiply) -> str:
    return how.steps[0][0].replace(".", "_")


def _numbers(count: int) -> str:
    return ", ".join(f"%{k}" for k in range(count))


def _outputs(count: int) -> str:
    return ", ".join(f'"+f"(d[{k}])' for k in range(count))
