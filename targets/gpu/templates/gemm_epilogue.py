"""The epilogue of a tile's results that lie side by side, with its operands read as vectors where they do too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx import Stmt

from ....compiler.schedule.epilogue import apply_epilogue, broadcast_indices
from ....compiler.schedule.op_spec import OpSpec
from ...shared.tir_loops import Index, i64
from ..launch import registers
from .vectors import VECTOR_BYTES, dtype_bytes, load_vector

Offset = Callable[[int, Sequence[Index]], Index]


def epilogue(
    op: OpSpec,
    values: Sequence[tirx.Expr],
    lead: Sequence[Index],
    columns: Sequence[Index],
    flat: Callable[[int], tirx.Buffer],
    offset: Offset,
) -> tuple[list[Stmt], list[tirx.Expr]]:
    """Statements to come first, and the results of the anchor's `values` at `lead` and each of `columns`.

    Columns follow each other from a multiple of their number on, which the last axis is a multiple of too. `flat(k)` is
    operand k as one array, `offset(k, indices)` the place in it, for indices that fit its shape.
    """
    statements: list[Stmt] = []
    held: dict[int, tirx.Buffer] = {}
    for k in _operands(op) if len(values) > 1 else ():
        operand = op.inputs[k]
        if operand.shape and operand.shape[-1] == op.anchor_type.shape[-1] != 1:
            buffer = registers(len(values), operand.dtype, f"i{k}")
            start = offset(k, broadcast_indices(operand, [i64(i) for i in (*lead, columns[0])]))
            lanes = min(len(values), VECTOR_BYTES // dtype_bytes(operand.dtype))
            statements.append(tirx.AllocBuffer(buffer))
            for at in range(0, len(values), lanes):
                statements.append(load_vector(buffer, at, flat(k), start + at, lanes))
            held[k] = buffer

    def result(number: int) -> tirx.Expr:
        def read(k: int, indices: list[tirx.Expr]) -> tirx.Expr:
            if k in held:
                return tirx.BufferLoad(held[k], [i64(number)])
            return tirx.BufferLoad(flat(k), [i64(offset(k, indices))])

        return apply_epilogue(op, values[number], [i64(i) for i in (*lead, columns[number])], read)

    return statements, [result(number) for number in range(len(values))]


def _operands(op: OpSpec) -> list[int]:
    """Numbers of the operands that the epilogue reads."""
    names = {a for step in op.epilogue for a in step.args if isinstance(a, str) and a[0] == "i"}
    return sorted(int(name[1:]) for name in names)
