"""Grids, blocks, barriers and memories of a kernel, as TIR statements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import ir, tirx
from tvm.tirx import Stmt

from ..shared.loops import Index, as_int, i64, seq, static, when

Body = Callable[[Index], Stmt]


def bound_to(tag: str, extent: Index, body: Body) -> Stmt:
    """`body(v)` run by `extent` blocks or threads along `tag` ("blockIdx.x", "threadIdx.y", ...); v is their number.

    Of no blocks nothing is launched.
    """
    if tag.startswith("block"):
        return if_any(extent, lambda: _bound_to(tag, "int64", extent, body))
    return _bound_to(tag, "int32", extent, body)


def if_any(blocks: Index, launches: Callable[[], Stmt]) -> Stmt:
    """`launches()`, which the host does only where there are `blocks` to launch.

    TVM's runtime launches one block where asked for none, and that would compute an element of an empty tensor.
    """
    blocks = as_int(blocks)
    if static(blocks):
        return launches() if blocks > 0 else tirx.Evaluate(tirx.const(0, "int32"))
    return when(blocks > 0, launches())


def _bound_to(tag: str, dtype: str, extent: Index, body: Body) -> Stmt:
    # Blocks may be counted by symbolic sizes, which are int64; code generators want threads to be int32.
    var = tirx.Var(tag.replace(".", "_"), dtype)
    count = i64(extent) if dtype == "int64" else tirx.const(extent, dtype)
    thread = tirx.IterVar(ir.Range.from_min_extent(tirx.const(0, dtype), count), var, tirx.IterVar.ThreadIndex, tag)
    return tirx.AttrStmt(thread, "thread_extent", count, body(var.astype("int64")))


def launch(blocks: Index, threads: int, body: Callable[[Index, Index], Stmt]) -> Stmt:
    """A kernel of one-dimensional blocks: `body(block, thread)`."""
    return bound_to("blockIdx.x", blocks, lambda b: bound_to("threadIdx.x", threads, lambda t: body(b, t)))


def launch_rows(blocks: Index, columns: int, rows: int, body: Callable[[Index, Index, Index], Stmt]) -> Stmt:
    """A kernel of blocks of rows x columns threads: `body(block, column, row)`; neighbours in a row are in one warp."""
    return bound_to(
        "blockIdx.x",
        blocks,
        lambda b: bound_to("threadIdx.y", rows, lambda y: bound_to("threadIdx.x", columns, lambda x: body(b, x, y))),
    )


def narrow(thread: Index) -> Any:
    """The int32 variable of a thread that `bound_to` gives as int64; places in shared memory need no more."""
    return thread.value if isinstance(thread, tirx.Cast) else thread


def barrier() -> Stmt:
    """All threads of a block wait for each other; what they wrote to shared memory is then seen by all."""
    return tirx.Evaluate(tirx.call_intrin("int32", "tirx.tvm_storage_sync", "shared"))


def registers(size: int, dtype: str, name: str) -> tirx.Buffer:
    """An array of one thread; it lives in registers if every index into it is a constant after unrolling."""
    return tirx.decl_buffer((size,), dtype, name, scope="local")


def shared(size: int, dtype: str, name: str) -> tirx.Buffer:
    """An array that the threads of a block share."""
    return tirx.decl_buffer((size,), dtype, name, scope="shared")


def allocated(buffers: Sequence[tirx.Buffer], *statements: Stmt | None) -> Stmt:
    """`statements` with `buffers` to work in."""
    return seq([*(tirx.AllocBuffer(b) for b in buffers), *statements])


def allreduce(
    combine: Callable[[Any, Any], Any],
    neutral: tirx.Expr,
    value: tirx.Expr,
    result: tirx.Buffer,
    threads: Sequence[Index],
) -> Stmt:
    """`result[0]` = `value` of all threads along `threads` (variables of `bound_to`) combined, known to each of them.

    Code generation turns it into warp shuffles, or into a tree in shared memory. Every thread of the block must come
    by. `combine` must be associative and commutative, with `neutral` as its neutral element.
    """
    dtype = str(result.dtype)
    a, b = tirx.Var("a", dtype), tirx.Var("b", dtype)
    reducer = tirx.CommReducer([a], [b], [combine(a, b)], [neutral])
    reduced = tirx.call_intrin(
        "void",
        "tirx.tvm_thread_allreduce",
        tirx.const(1, "uint32"),
        value,
        tirx.const(True, "bool"),
        tirx.BufferLoad(result, [i64(0)]),
        *(narrow(t) for t in threads),
    )
    return tirx.AttrStmt(reducer, "reduce_scope", tirx.const(0, "int32"), tirx.Evaluate(reduced))
