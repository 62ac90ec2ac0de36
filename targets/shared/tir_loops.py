"""Small builders for loop nests in TIR: templates write the loops they want instead of transforming loops they have."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx import AllocBuffer, BufferStore, DeclBuffer, For, ForKind, SeqStmt

Index = Any  # int or an int64 tirx expression

_KINDS = {
    "serial": ForKind.SERIAL,
    "parallel": ForKind.PARALLEL,
    "vectorized": ForKind.VECTORIZED,
    "unrolled": ForKind.UNROLLED,
}


def i64(value: Index) -> tirx.Expr:
    """`value` as an int64 expression."""
    return tirx.const(value, "int64") if isinstance(value, int) else value


def size_variable(dim: str) -> tirx.Var:
    """A variable for a symbolic dimension, named as every language allows: `dim` may be the text of a formula."""
    plain = re.sub(r"T\.int64\((\w+)\)", r"\1", dim)
    return tirx.Var(re.sub(r"\W+", "_", plain).strip("_") or "size", "int64")


def loop(name: str, extent: Index, body: Callable[[tirx.Var], tirx.Stmt], kind: str = "serial") -> tirx.Stmt:
    """`for name in range(extent): body(name)`. A loop of constant extent 1 becomes its body."""
    if isinstance(extent, int) and extent == 1 and kind != "parallel":
        return body(i64(0))
    var = tirx.Var(name, "int64")
    return For(var, i64(0), i64(extent), _KINDS[kind], body(var))


def seq(*statements: tirx.Stmt | None) -> tirx.Stmt:
    """The statements one after the other; None is left out."""
    kept = [s for s in statements if s is not None]
    return kept[0] if len(kept) == 1 else SeqStmt(kept)


def store(buffer: tirx.Buffer, indices: Sequence[Index], value: tirx.Expr) -> tirx.Stmt:
    """`buffer[indices] = value`."""
    return BufferStore(buffer, value, [i64(i) for i in indices])


def local(size: int, dtype: str, name: str) -> tirx.Buffer:
    """A buffer that LLVM keeps in registers when every index into it is a constant after unrolling."""
    return tirx.decl_buffer((size,), dtype, name, scope="local")


def allocate(buffer: tirx.Buffer, body: tirx.Stmt) -> tirx.Stmt:
    """`buffer` allocated for the statements of `body`."""
    return SeqStmt([AllocBuffer(buffer), body])


def view(buffer: tirx.Buffer, shape: Sequence[Index], name: str) -> tuple[tirx.Buffer, tirx.Stmt]:
    """`buffer` (contiguous) seen with another shape, and the statement that declares the view."""
    alias = tirx.decl_buffer([i64(d) for d in shape], buffer.dtype, name, data=buffer.data)
    return alias, DeclBuffer(alias, data=buffer.data)
