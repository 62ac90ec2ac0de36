"""Det: the determinant of each square matrix, by elimination with row pivoting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ...loop_marks import INDEPENDENT
from ..node import Node
from .registry import converter
from .scatter import size_of

op = relax.op


@converter("Det", since=11)
def det(node: Node) -> relax.Expr:
    shape, dtype = node.shape(0), node.dtype(0)
    if len(shape) < 2:
        raise node.error(f"the input needs at least 2 dimensions, found {len(shape)}")
    node.require_equal(shape[-1], shape[-2], "the matrices' last dimension")
    wide = "float64" if dtype == "float64" else "float32"
    x = node.inputs[0] if dtype == wide else node.emit(op.astype(node.inputs[0], wide))
    found = node.emit(relax.TupleGetItem(node.te(_determinants, x, name="det"), 0))
    return found if dtype == wide else op.astype(found, dtype)


def _determinants(x: te.Tensor) -> list[te.Tensor]:
    """The determinants; then room for the matrices as they are eliminated, each one's pivot row and an element."""
    outer = list(x.shape[:-2])
    shapes = [outer, list(x.shape), [*outer, 1], [*outer, 1]]
    dtypes, names = [x.dtype, x.dtype, "int64", x.dtype], ("determinants", "work", "pivot", "spare")
    outs = [tirx.decl_buffer(s, d, n, layout=None) for s, d, n in zip(shapes, dtypes, names, strict=True)]
    return te.extern(
        shapes, [x], lambda i, o: _eliminate(i, o, outer, x.shape[-1]), dtype=dtypes, out_buffers=outs, name="det"
    )


def _eliminate(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer], outer: list[Any], n: Any) -> tirx.Stmt:
    data, found, work, pivot, spare = (T.buffer_proxy(b) for b in (*ins, *outs))
    with IRBuilder() as builder:
        with T.serial(0, size_of(outer), annotations=INDEPENDENT) as m:
            begin = m * n * n

            def at(row: Any, column: Any) -> Any:
                return begin + row * n + column

            with T.serial(0, n * n) as i:
                work[begin + i] = data[begin + i]
            found[m] = tirx.const(1, outs[0].dtype)
            with T.serial(0, n) as k:
                pivot[m] = k
                with T.serial(1, n - k) as r:
                    larger = tirx.abs(work[at(k + r, k)]) > tirx.abs(work[at(pivot[m], k)])
                    with T.If(larger), T.Then():
                        pivot[m] = k + r
                with T.If(pivot[m] > k), T.Then():
                    found[m] = -found[m]
                    with T.serial(0, n - k) as c:
                        spare[m] = work[at(k, k + c)]
                        work[at(k, k + c)] = work[at(pivot[m], k + c)]
                        work[at(pivot[m], k + c)] = spare[m]
                found[m] = found[m] * work[at(k, k)]
                regular = tirx.NE(work[at(k, k)], tirx.const(0, outs[0].dtype))
                with T.If(regular), T.Then(), T.serial(0, n - k - 1) as r, T.serial(0, n - k - 1) as c:
                    row, column = k + 1 + r, k + 1 + c
                    factor = work[at(row, k)] / work[at(k, k)]
                    work[at(row, column)] = work[at(row, column)] - factor * work[at(k, column)]
        return builder.get()
