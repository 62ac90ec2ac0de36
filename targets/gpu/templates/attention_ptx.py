"""Online softmax between two products of tensor cores, as small CUDA functions that TIR calls.

Scores and results lie in registers as `mma.sync` leaves them (PTX ISA 9.0, "Matrix Fragments for mma.m16n8k16"): lane t
holds columns 2 (t % 4) and the next of rows t / 4 and t / 4 + 8 of each fragment of 16 x 8. `Fragments` says in which
order fragments follow each other. Two fragments of scores side by side, rounded to 16 bits, are one fragment of A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.tirx import Stmt

from .tensor_core_ptx import A_REGISTERS, RESULTS, call

_INLINE = "__forceinline__ __device__"
_NONE = "__int_as_float(0xff800000)"  # -infinity
# Types whose pairs a register holds -> the instruction that rounds two numbers of float32 to them.
ROUNDING = {"float16": "cvt.rn.f16x2.f32", "bfloat16": "cvt.rn.bf16x2.f32"}


@dataclass(frozen=True)
class Fragments:
    """rows x columns fragments: `wide` neighbours of each row of fragments follow each other, then come other rows."""

    rows: int
    columns: int
    wide: int

    @property
    def registers(self) -> int:
        """Numbers that a lane holds."""
        return self.rows * self.columns * RESULTS

    def at(self, row: int, column: int) -> int:
        """The first number of a fragment."""
        chunk, within = divmod(column, self.wide)
        return ((chunk * self.rows + row) * self.wide + within) * RESULTS

    @property
    def text(self) -> str:
        """The same in C++, of the fragment (i, j)."""
        return f"((j / {self.wide} * {self.rows} + i) * {self.wide} + j % {self.wide}) * {RESULTS}"

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}by{self.wide}"


def fill(registers: Any, count: int, lowest: bool = False) -> Stmt:
    """`count` numbers of float32 become zero, or -infinity."""
    value, name = (_NONE, "lowest") if lowest else ("0.0f", "zero")
    name = f"kompilo_{name}_{count}"
    body = f"""
{_INLINE} void {name}(float* r) {{
#pragma unroll
  for (int i = 0; i < {count}; ++i) r[i] = {value};
}}
"""
    return call(name, body, registers)


def hide(scores: Any, shape: Fragments, column: Any, end: Any, seen: Any, step: int) -> Stmt:
    """Scores of keys from `end` on become -infinity, and in the row `step` * r below a lane's first from `seen` + that.

    `column` is the key of a lane's first score. With `step` 0 all rows see the same.
    """
    name = f"kompilo_hide_{shape}_{step}"
    limit = f"min(end, seen + {step} * (16 * i + 8 * h))" if step else "end"
    body = f"""
{_INLINE} void {name}(float* s, int column, int end, int seen) {{
#pragma unroll
  for (int i = 0; i < {shape.rows}; ++i) {{
#pragma unroll
    for (int h = 0; h < 2; ++h) {{
      int limit = {limit} - column;
#pragma unroll
      for (int j = 0; j < {shape.columns}; ++j) {{
        float* x = s + {shape.text} + 2 * h;
        if (8 * j >= limit) x[0] = {_NONE};
        if (8 * j + 1 >= limit) x[1] = {_NONE};
      }}
    }}
  }}
}}
"""
    return call(name, body, scores, column, end, seen)


def weigh(shape: Fragments, natural: bool, scores: Any, state: Any, scale: Any) -> Stmt:
    """Scores of one step become exp(score - largest so far), in place.

    `state` are pointers to the largest scores so far, to the sums of the lane's weights, and to what the results so far
    are still worth: two numbers for each row of fragments. `scale` is that of scores in units of log2; `natural` scores
    are in those of log instead, and may be as large as float32 allows.
    """
    name = f"kompilo_weigh_{shape}_{'natural' if natural else 'scaled'}"
    if natural:
        base, power = "high", "(x - base) * scale"
    else:
        base, power = "high * scale", "fmaf(x, scale, -base)"
    helper = f"kompilo_power_{'natural' if natural else 'scaled'}"
    body = f"""
#ifndef KOMPILO_{helper.upper()}
#define KOMPILO_{helper.upper()}
{_INLINE} float {helper}(float x, float scale, float base) {{
  float y;
  x = {power};
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}}
#endif
{_INLINE} void {name}(float* s, float* top, float* sum, float* worth, float scale) {{
#pragma unroll
  for (int i = 0; i < {shape.rows}; ++i) {{
#pragma unroll
    for (int h = 0; h < 2; ++h) {{
      float high = top[2 * i + h];
#pragma unroll
      for (int j = 0; j < {shape.columns}; ++j) {{
        const float* x = s + {shape.text} + 2 * h;
        high = fmaxf(high, fmaxf(x[0], x[1]));
      }}
      high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
      high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
      float base = high == {_NONE} ? 0.0f : {base};
      float fade = {helper}(top[2 * i + h], scale, base), part = 0.0f;
      top[2 * i + h] = high;
      worth[2 * i + h] = fade;
#pragma unroll
      for (int j = 0; j < {shape.columns}; ++j) {{
        float* x = s + {shape.text} + 2 * h;
        x[0] = {helper}(x[0], scale, base);
        x[1] = {helper}(x[1], scale, base);
        part += x[0] + x[1];
      }}
      sum[2 * i + h] = fmaf(sum[2 * i + h], fade, part);
    }}
  }}
}}
"""
    return call(name, body, scores, *state, scale)


def fade(dtype: str, shape: Fragments, results: Fragments, weights: Any, scores: Any, sums: Any, worth: Any) -> Stmt:
    """Results so far become what they are worth; weights, rounded to `dtype`, become fragments of A."""
    name = f"kompilo_fade_{dtype}_{shape}_{results}"
    body = f"""
{_INLINE} void {name}(unsigned* p, const float* s, float* o, const float* worth) {{
#pragma unroll
  for (int i = 0; i < {shape.rows}; ++i) {{
#pragma unroll
    for (int h = 0; h < 2; ++h) {{
#pragma unroll
      for (int j = 0; j < {shape.columns}; ++j) {{
        const float* x = s + {shape.text} + 2 * h;
        unsigned* to = p + (j / 2 * {shape.rows} + i) * {A_REGISTERS} + j % 2 * 2 + h;
        asm("{ROUNDING[dtype]} %0, %1, %2;" : "=r"(*to) : "f"(x[1]), "f"(x[0]));
      }}
#pragma unroll
      for (int j = 0; j < {results.columns}; ++j) {{
        float* y = o + {results.text} + 2 * h;
        y[0] *= worth[2 * i + h];
        y[1] *= worth[2 * i + h];
      }}
    }}
  }}
}}
"""
    return call(name, body, weights, scores, sums, worth)


def finish(results: Fragments, zero_rows: bool, sums: Any, totals: Any) -> Stmt:
    """Results divided by the sums of all weights; rows without any are NaN, or zero."""
    name = f"kompilo_finish_{results}_{int(zero_rows)}"
    inverse = "total == 0.0f ? 0.0f : 1.0f / total" if zero_rows else "1.0f / total"
    body = f"""
{_INLINE} void {name}(float* o, const float* sum) {{
#pragma unroll
  for (int i = 0; i < {results.rows}; ++i) {{
#pragma unroll
    for (int h = 0; h < 2; ++h) {{
      float total = sum[2 * i + h];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      float inverse = {inverse};
#pragma unroll
      for (int j = 0; j < {results.columns}; ++j) {{
        float* y = o + {results.text} + 2 * h;
        y[0] *= inverse;
        y[1] *= inverse;
      }}
    }}
  }}
}}
"""
    return call(name, body, sums, totals)
