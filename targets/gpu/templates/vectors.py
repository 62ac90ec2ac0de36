"""Vectors in device memory, as TIR statements."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tvm
from tvm import tirx
from tvm.tirx import For, ForKind, Stmt

from ...shared.tir_loops import Index, i64
from ..launch import allocated, registers

# Bytes that a thread reads or writes at once, at most.
VECTOR_BYTES = 16


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element."""
    return -(-tvm.DataType(dtype).bits // 8)


def vector(lanes: int, body: Callable[[Index], Stmt]) -> Stmt:
    """`body` for `lanes` neighbours at once."""
    if lanes == 1:
        return body(i64(0))
    var = tirx.Var("lane", "int64")
    return For(var, i64(0), i64(lanes), ForKind.VECTORIZED, body(var))


def load_vector(into: tirx.Buffer, at: int, source: tirx.Buffer, start: Index, lanes: int) -> Stmt:
    """into[at : at + lanes] = source[start : start + lanes]; both starts are multiples of `lanes`."""
    return vector(lanes, lambda k: tirx.BufferStore(into, tirx.BufferLoad(source, [i64(start) + k]), [i64(at) + k]))


def store_vector(buffer: tirx.Buffer, start: Index, values: Sequence[tirx.Expr]) -> Stmt:
    """`values` side by side from `start` on, which must be a multiple of their number."""
    lanes = len(values)
    result = registers(lanes, str(buffer.dtype), "result")
    keep = [tirx.BufferStore(result, value, [i64(k)]) for k, value in enumerate(values)]
    copy = vector(lanes, lambda k: tirx.BufferStore(buffer, tirx.BufferLoad(result, [k]), [i64(start) + k]))
    return allocated([result], *keep, copy)
