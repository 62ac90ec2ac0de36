"""Attention as kernels read it: sizes, and where queries, keys, values, masks and results of each batch lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from tvm import tirx
from tvm.tirx import Stmt

from ....compiler.schedule.masks import ADDED, KEEPS
from ....compiler.schedule.op_spec import OpSpec
from ...shared.matmul_problem import Dim, MatmulProblem
from ...shared.tir_loops import Index, i64
from ..estimates import estimated
from .gemm_index import Held
from .gemm_matmul import MatmulMemory, Matrix

Write = Callable[[Index, Sequence[Index], Sequence[tirx.Expr]], Stmt]


@dataclass(frozen=True)
class AttentionProblem:
    """Sizes of attention: `batch` products of (rows, depth) by (keys, depth), then by (keys, columns).

    `shared[0][i]` neighbours along batch axis i have keys in common, `shared[1][i]` values; 0 where all have.
    """

    op: OpSpec
    batch: tuple[Dim, ...]
    shared: tuple[tuple[int, ...], tuple[int, ...]]
    rows: Dim
    keys: Dim
    depth: int
    columns: int

    @property
    def scale(self) -> float:
        """Of the products of queries and keys."""
        return float(str(self.op.attr("scale")))

    @property
    def fill(self) -> float:
        """What a score becomes where a mask drops it."""
        return float(str(self.op.attr("fill")))

    @property
    def masks(self) -> tuple[int, ...]:
        """What each mask does."""
        return self.op.ints("masks")

    @property
    def causal(self) -> bool:
        """Whether row i sees keys up to i + `offset` only."""
        return bool(self.op.attr("causal"))

    @property
    def offset(self) -> int:
        """See `causal`."""
        return self.op.ints("offset")[0]

    @property
    def zero_rows(self) -> bool:
        """Whether the results of rows that see no key are zero."""
        return bool(self.op.attr("zero_rows"))

    @property
    def dtype(self) -> str:
        """Of queries, keys and values."""
        return self.op.inputs[0].dtype

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Batches, rows and keys, unknown ones guessed."""
        rows, keys = (estimated(d) for d in (self.rows, self.keys))
        return prod(d if isinstance(d, int) else 1 for d in self.batch), rows, keys


def read_attention(op: OpSpec) -> AttentionProblem | None:
    """What `op` asks for; None if it is no attention, or one of unknown depth, or nothing is to be computed."""
    if op.kind != "attention" or len({t.dtype for t in op.inputs[:3]}) != 1:
        return None
    query, key, value = (
        tuple(op.inputs[k].shape[a] for a in op.ints(name)) for k, name in enumerate(("q_perm", "k_perm", "v_perm"))
    )
    depth, columns = query[-1], value[-1]
    if not (isinstance(depth, int) and isinstance(columns, int)) or key[-2:] != (value[-2], depth):
        return None
    keys, values = (_neighbours(query[:-2], own[:-2]) for own in (key, value))
    if keys is None or values is None or 0 in (*query, *key, *value):
        return None
    return AttentionProblem(op, query[:-2], (keys, values), query[-2], key[-2], depth, columns)


def _neighbours(whole: Sequence[Dim], own: Sequence[Dim]) -> tuple[int, ...] | None:
    """How many of `whole` batches have one of `own` in common, along each axis; None where that does not come out."""
    found = [_neighbours_along(w, o) for w, o in zip(whole, own, strict=True)]
    known = tuple(f for f in found if f is not None)
    return known if len(known) == len(found) else None


def _neighbours_along(whole: Dim, own: Dim) -> int | None:
    """The same for one axis; 0 for all of them."""
    if whole == own:
        return 1
    if own == 1:
        return 0
    return whole // own if isinstance(whole, int) and isinstance(own, int) and whole % own == 0 else None


@dataclass(frozen=True)
class Mask:
    """A mask of one batch: `origin` + row * `row_stride` + key * `key_stride` in `buffer`; strides may be 0."""

    buffer: tirx.Buffer
    meaning: int
    origin: Index
    row_stride: Index
    key_stride: Index

    @property
    def for_all_rows(self) -> bool:
        """Whether it is the same for all rows."""
        return isinstance(self.row_stride, int) and self.row_stride == 0

    def read(self, row: Index, key: Index) -> tirx.Expr:
        """What the mask holds for a score: a number in float32, or a bool."""
        value = tirx.BufferLoad(self.buffer, [i64(self.origin + row * self.row_stride + key * self.key_stride)])
        return value.astype("float32" if self.meaning == ADDED else "bool")

    def applied(self, score: tirx.Expr, held: tirx.Expr, fill: float) -> tirx.Expr:
        """A score in float32 after this mask, which holds `held` for it."""
        if self.meaning == ADDED:
            return score + held
        return tirx.Select(held if self.meaning == KEEPS else tirx.Not(held), score, tirx.const(fill, "float32"))


def masked_scores(
    problem: AttentionProblem,
    batch: Batch,
    key: Index,
    rows: Sequence[Index],
    scores: Sequence[tirx.Expr],
    keep: Callable[[int, tirx.Expr], Stmt],
) -> list[Stmt]:
    """Scores of several rows and one key, scaled and masked; `keep(i, score)` takes each.

    Rows and keys beyond the last read what masks hold for the last. What is the same for all rows is read once.
    """
    statements: list[Stmt] = []
    key = tirx.min(key, batch.key.limit - 1)
    for_all: dict[int, tirx.Expr] = {}
    for number, mask in enumerate(batch.masks):
        if mask.for_all_rows:
            value = mask.read(0, key)
            for_all[number] = tirx.Var("held", str(value.ty.dtype))
            statements.append(tirx.Bind(for_all[number], value))
    for i, (row, score) in enumerate(zip(rows, scores, strict=True)):
        masked = score * tirx.const(problem.scale, "float32")
        for number, mask in enumerate(batch.masks):
            held = for_all.get(number)
            if held is None:
                held = mask.read(tirx.min(row, batch.query.limit - 1), key)
            masked = mask.applied(masked, held, problem.fill)
        statements.append(keep(i, masked))
    return statements


@dataclass(frozen=True)
class Batch:
    """Operands of one batch, and what writes its results."""

    query: Matrix
    key: Matrix
    value: Matrix
    masks: tuple[Mask, ...]
    write: Write


class AttentionMemory(MatmulMemory):
    """The parameters of an attention kernel, and what belongs to each batch in them."""

    def __init__(self, problem: AttentionProblem, indices: Held) -> None:
        sizes = MatmulProblem(problem.op, problem.batch, problem.rows, problem.columns, problem.depth, False)
        super().__init__(problem.op, sizes, None, indices)
        self.attention = problem
        axis = problem.op.ints("k_perm")[-2]
        self.rows: Index = self.buffers.m
        self.keys: Index = problem.keys if isinstance(problem.keys, int) else self.buffers.params[1].shape[axis]

    def batch(self, number: Index) -> Batch:
        """What belongs to batch `number`."""
        found, op = self.attention, self.attention.op
        at = self.indices.split(number, list(self.buffers.batch)) if self.buffers.batch else []
        assert isinstance(self.indices, Held)
        quotient = self.indices.quotient
        keys, values = (
            [0 if s == 0 else quotient(a, s) for a, s in zip(at, shared, strict=True)] for shared in found.shared
        )

        def matrix(index: int, perm: str, place: list[Index], limit: Index, width: int) -> Matrix:
            strides = self.buffers.strides(index, op.ints(perm))
            return Matrix(self.buffers.flat(index), _total(place, strides), strides[-2], strides[-1], limit, width)

        return Batch(
            matrix(0, "q_perm", at, self.rows, found.depth),
            matrix(1, "k_perm", keys, self.keys, found.depth),
            matrix(2, "v_perm", values, self.keys, found.columns),
            tuple(self._mask(k, meaning, at) for k, meaning in enumerate(found.masks)),
            lambda row, columns, values: self._write(at, row, columns, values),
        )

    def _mask(self, number: int, meaning: int, at: list[Index]) -> Mask:
        """Mask `number`, whose axes are the last of (batch..., rows, keys)."""
        index = number + 3
        shape = self.attention.op.inputs[index].shape
        strides = self.buffers.strides(index, range(len(shape)))
        steps: list[Index] = [0 if d == 1 else s for d, s in zip(shape, strides, strict=True)]
        steps = [0] * (len(at) + 2 - len(steps)) + steps
        return Mask(self.buffers.flat(index), meaning, _total(at, steps), steps[-2], steps[-1])


def _total(place: Sequence[Index], strides: Sequence[Index]) -> Index:
    origin: Index = 0
    for position, step in zip(place, strides, strict=False):
        if not (isinstance(step, int) and step == 0):
            origin = origin + position * step
    return origin
