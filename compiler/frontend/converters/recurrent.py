"""RNN, GRU and LSTM: the input is projected for all steps by one matmul, then one kernel walks over time.

At each step the kernel multiplies the states of all sequences by the recurrent weights of all gates, then computes what
the gates say, unit by unit (`recurrent_cells.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from tvm import ir, relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ..node import Node
from ..symbols import as_expr
from ..values import Dim, constant, static_dim
from .recurrent_cells import ACTIVATIONS, Function, Step, gru, lstm, rnn
from .registry import converter
from .runtime_checks import with_sizes

op = relax.op


@dataclass(frozen=True)
class _Kind:
    """A family: its cell, number of gates, default activations, and whether it has a cell state."""

    cell: Callable[[Step], None]
    gates: int
    activations: tuple[str, ...]
    cell_state: bool = False


_KINDS = {
    "RNN": _Kind(rnn, 1, ("tanh",)),
    "GRU": _Kind(gru, 3, ("sigmoid", "tanh")),
    "LSTM": _Kind(lstm, 4, ("sigmoid", "tanh", "tanh"), cell_state=True),
}
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@converter("RNN", since=7)
@converter("GRU", since=7)
@converter("LSTM", since=7)
def recurrent(node: Node) -> tuple[relax.Expr | None, ...]:
    """(Y, Y_h) and, for LSTM, Y_c, in the node's layout."""
    kind = _KINDS[node.op_type]
    directions = _directions(node)
    batchwise = bool(node.attr("layout", 0))
    hidden = _hidden_size(node, kind, len(directions))
    steps = _Inputs(node, kind, hidden, len(directions), batchwise)
    functions = _functions(node, kind, len(directions))
    results = [_direction(steps, d, reverse, functions[d]) for d, reverse in enumerate(directions)]
    y, h, c = (_joined(node, [r[i] for r in results], axis, batchwise) for i, axis in enumerate((1, 0, 0)))
    outputs = (y, h, c) if kind.cell_state else (y, h)
    return tuple(e if str(e.ty.dtype) == node.dtype(0) else node.emit(op.astype(e, node.dtype(0))) for e in outputs)


def _directions(node: Node) -> tuple[bool, ...]:
    direction = node.attr("direction", "forward")
    if direction not in _DIRECTIONS:
        raise node.error(f"direction must be one of {', '.join(_DIRECTIONS)}, found {direction!r}")
    return _DIRECTIONS[direction]


def _hidden_size(node: Node, kind: _Kind, directions: int) -> int:
    """H, which must be fixed; the weights are checked against it."""
    recurrent = node.shape(2)
    hidden = node.attr("hidden_size", recurrent[-1] if recurrent else None)
    rows = kind.gates * hidden if isinstance(hidden, int) else None
    if (
        not isinstance(hidden, int)
        or recurrent != [directions, rows, hidden]
        or len(node.shape(1)) != 3
        or node.shape(1)[:2] != [directions, rows]
    ):
        raise node.error(
            f"weights of {directions} directions, {kind.gates} gates and a fixed number of hidden units are needed, "
            f"found shapes {node.shape(1)} and {recurrent}"
        )
    return hidden


def _functions(node: Node, kind: _Kind, directions: int) -> list[list[Function]]:
    """The activations of each direction; alphas and betas are given in order to those that take them."""
    names = [n.lower() for n in node.attr("activations", list(kind.activations) * directions)]
    unknown = next((n for n in names if n not in ACTIVATIONS), None)
    if unknown is not None or len(names) != len(kind.activations) * directions:
        raise node.error(f"expected {len(kind.activations) * directions} known activations, found {names}")
    given = {"alpha": list(node.attr("activation_alpha", [])), "beta": list(node.attr("activation_beta", []))}
    clip, count = node.attr("clip", 0.0), len(kind.activations)
    made: list[Function] = []
    for position, name in enumerate(names):
        function, alpha, beta = ACTIVATIONS[name]
        if name in _WITH_ALPHA and given["alpha"]:
            alpha = given["alpha"].pop(0)
        if name in _WITH_BETA and given["beta"]:
            beta = given["beta"].pop(0)
        # What LSTM shows of its cell state is not clipped by ONNX Runtime; ONNX's words leave that open.
        of_state = kind.cell_state and position % count == count - 1
        made.append(partial(_activate, function, alpha, beta, 0.0 if of_state else clip))
    return [made[d * count : (d + 1) * count] for d in range(directions)]


_WITH_ALPHA = frozenset(["affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"])
_WITH_BETA = frozenset(["affine", "scaledtanh", "hardsigmoid"])


def _activate(function: Callable[..., ir.Expr], alpha: float, beta: float, clip: float, x: ir.Expr) -> ir.Expr:
    dtype = str(x.ty.dtype)
    if clip:
        x = tirx.max(tirx.min(x, tirx.const(clip, dtype)), tirx.const(-clip, dtype))
    return function(x, tirx.const(alpha, dtype), tirx.const(beta, dtype))


class _Inputs:
    """The inputs of a node by direction, in the order of time and in the type that sums are made in."""

    def __init__(self, node: Node, kind: _Kind, hidden: int, directions: int, batchwise: bool):
        self.node, self.kind, self.hidden, self.directions = node, kind, hidden, directions
        self.batchwise = batchwise
        given = node.dtype(0)
        self.dtype = "float32" if given in ("float16", "bfloat16") else given
        if node.rank(0) != 3:
            raise node.error(f"the input needs 3 dimensions, found {node.rank(0)}")
        columns = node.shape(1)[2] if isinstance(node.shape(1)[2], int) else node.shape(0)[2]
        x = with_sizes(node, 0, {2: columns})
        self.x = node.emit(op.permute_dims(x, [1, 0, 2])) if batchwise else x
        self.time, self.batch = (node.shape(0)[i] for i in ((1, 0) if batchwise else (0, 1)))
        self.shapes = self._shapes(columns)
        self.given = {index: self._sized(index) for index in self.shapes if node.has(index)}
        self.options = frozenset(n for n in ("input_forget", "linear_before_reset") if node.attr(n, 0))

    def _shapes(self, columns: Dim) -> dict[int, list[Dim]]:
        """What W, R, B, sequence_lens, the initial states and, for LSTM, P have to be."""
        directions, rows = self.directions, self.kind.gates * self.hidden
        state = [self.batch, directions, self.hidden] if self.batchwise else [directions, self.batch, self.hidden]
        found = {1: [directions, rows, columns], 2: [directions, rows, self.hidden], 3: [directions, 2 * rows]}
        found |= {4: [self.batch], 5: state}
        return found | ({6: state, 7: [directions, 3 * self.hidden]} if self.kind.cell_state else {})

    def _sized(self, index: int) -> relax.Expr:
        """Input `index` of the sizes it has to have, for the kernel reads all of them."""
        shape = self.shapes[index]
        if self.node.rank(index) != len(shape):
            raise self.node.error(f"input {index} needs {len(shape)} dimensions, found {self.node.rank(index)}")
        return with_sizes(self.node, index, dict(enumerate(shape)))

    def wide(self, x: relax.Expr) -> relax.Expr:
        return x if str(x.ty.dtype) == self.dtype else self.node.emit(op.astype(x, self.dtype))

    def of(self, index: int, direction: int) -> relax.Expr:
        """Input `index`, whose first axis counts directions, for one of them."""
        known = self.node.const(index)
        if known is not None:
            return constant(np.ascontiguousarray(known[direction]))
        part = op.strided_slice(self.given[index], [0], [direction], [direction + 1])
        rest = relax.ShapeExpr([as_expr(d) for d in self.shapes[index][1:]])
        return self.node.emit(op.reshape(self.node.emit(part), rest))

    def transposed(self, index: int, direction: int) -> relax.Expr:
        known = self.node.const(index)
        if known is not None:
            return constant(np.ascontiguousarray(known[direction].T))
        return self.node.emit(op.permute_dims(self.of(index, direction)))

    def projected(self, direction: int) -> relax.Expr:
        """x W and all biases that are added before anything is multiplied: (time, batch, gates * hidden)."""
        node = self.node
        product = node.emit(op.matmul(self.wide(self.x), self.wide(self.transposed(1, direction))))
        if not node.has(3):
            return product
        rows = self.kind.gates * self.hidden
        both = self.of(3, direction)
        first = node.emit(op.strided_slice(both, [0], [0], [rows]))
        second = node.emit(op.strided_slice(both, [0], [rows], [2 * rows]))
        if "linear_before_reset" in self.options:
            second = node.emit(op.multiply(second, constant(self._without_hidden_gate(str(second.ty.dtype)))))
        bias = node.emit(op.add(self.wide(first), self.wide(second)))
        return node.emit(op.add(product, bias))

    def _without_hidden_gate(self, dtype: str) -> np.ndarray:
        mask = np.ones(self.kind.gates * self.hidden, dtype)
        mask[2 * self.hidden :] = 0
        return mask

    def hidden_bias(self, direction: int) -> relax.Expr:
        """The recurrent bias of GRU's hidden gate."""
        rows = self.kind.gates * self.hidden
        if not self.node.has(3):
            return constant(np.zeros(self.hidden, self.dtype))
        part = op.strided_slice(self.of(3, direction), [0], [rows + 2 * self.hidden], [2 * rows])
        return self.wide(self.node.emit(part))

    def initial(self, index: int, direction: int) -> relax.Expr:
        """The state before the first step: (batch, hidden), zeros where it is not given."""
        node, shape = self.node, [self.batch, self.hidden]
        if not node.has(index):
            return node.emit(op.zeros(relax.ShapeExpr([as_expr(d) for d in shape]), self.dtype))
        axis = 1 if self.batchwise else 0
        part = node.emit(op.strided_slice(self.given[index], [axis], [direction], [direction + 1]))
        return self.wide(node.emit(op.reshape(part, relax.ShapeExpr([as_expr(d) for d in shape]))))


def _direction(inputs: _Inputs, direction: int, reverse: bool, functions: Sequence[Function]) -> list[relax.Expr]:
    """[y of each step (time, batch, hidden), the last h, the last c], both (batch, hidden)."""
    node, options = inputs.node, inputs.options
    operands = {
        "projected": inputs.projected(direction),
        "recurrent": inputs.wide(inputs.transposed(2, direction)),
        "h": inputs.initial(5, direction),
        "c": inputs.initial(6, direction) if inputs.kind.cell_state else None,
        "lengths": inputs.given.get(4),
        "peephole": inputs.wide(inputs.of(7, direction)) if inputs.kind.cell_state and node.has(7) else None,
        "hidden_bias": inputs.hidden_bias(direction) if "linear_before_reset" in options else None,
    }
    given = {name: e for name, e in operands.items() if e is not None}

    def compute(*tensors: te.Tensor) -> list[te.Tensor]:
        x = tensors[0]
        steps, batch, columns = (static_dim(d) for d in x.shape)
        shapes = [[steps, batch, inputs.hidden], *[[batch, inputs.hidden]] * 2, [batch, columns]]
        names = ("y", "last_h", "last_c", "gates")
        outs = [tirx.decl_buffer(s, x.dtype, n, layout=None) for s, n in zip(shapes, names, strict=True)]

        def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
            named = {n: T.buffer_proxy(b) for n, b in zip((*given, *names), (*ins, *outs), strict=True)}
            return _walk(inputs, named, steps, batch, reverse, functions)

        return te.extern(shapes, list(tensors), body, dtype=[x.dtype] * 4, out_buffers=outs, name="recurrent")

    found = node.te(compute, *given.values(), name=node.op_type.lower())
    return [node.emit(relax.TupleGetItem(found, i)) for i in range(3)]


def _walk(
    inputs: _Inputs, buffers: dict[str, Any], steps: Dim, batch: Dim, reverse: bool, functions: Sequence[Function]
) -> tirx.Stmt:
    """All sequences together from their first step to their last, or the other way; zeros where one has ended."""
    step = _Step(inputs, buffers, steps, batch, reverse, tirx.const(0, "int64"))
    with IRBuilder() as before, T.serial(0, batch) as b:
        step.start(b)
    with IRBuilder() as walk, T.serial(0, steps) as number:
        step = replace(step, number=number)
        step.clear_ended()
        step.each(step.begin)
        inputs.kind.cell(step.for_cell(functions))
        step.each(step.finish)
    return tirx.SeqStmt([before.get(), walk.get()])


@dataclass(frozen=True)
class _Step:
    """Step `number` of `steps`, of all sequences, between what all steps have and what a cell works on."""

    inputs: _Inputs
    buffers: dict[str, Any]
    steps: Dim
    batch: Dim
    reverse: bool
    number: ir.Expr

    @property
    def columns(self) -> int:
        return self.inputs.hidden * self.inputs.kind.gates

    def length(self, sequence: ir.Expr) -> Dim:
        """The steps of a sequence, at most those that there are."""
        if "lengths" not in self.buffers:
            return self.steps
        own = self.buffers["lengths"][sequence].astype("int64")
        return tirx.max(tirx.min(own, self.steps), tirx.const(0, "int64"))

    def each(self, body: Callable[[ir.Expr], None]) -> None:
        """`body` for the sequences that have not ended."""
        with T.serial(0, self.batch) as b:
            if "lengths" not in self.buffers:
                body(b)
                return
            with T.If(self.number < self.length(b)), T.Then():
                body(b)

    def start(self, sequence: ir.Expr) -> None:
        """The initial states; of a sequence without steps zeros, which ONNX Runtime gives as its last ones."""
        zero, hidden = tirx.const(0, self.inputs.dtype), self.inputs.hidden
        with T.serial(0, hidden) as j:
            at = sequence * hidden + j
            for name in ("h", "c"):
                state = self.buffers[name][at] if name in self.buffers else zero
                if "lengths" in self.buffers:
                    state = tirx.Select(self.length(sequence) > 0, state, zero)
                self.buffers[f"last_{name}"][at] = state

    def clear_ended(self) -> None:
        """Zeros for the others: as results, and as numbers that are multiplied in vain."""
        if "lengths" not in self.buffers:
            return
        zero, hidden = tirx.const(0, self.inputs.dtype), self.inputs.hidden
        with T.serial(0, self.batch) as b, T.If(self.number >= self.length(b)), T.Then():
            with T.serial(0, self.columns) as j:
                self.buffers["gates"][b * self.columns + j] = zero
            with T.serial(0, hidden) as j:
                self.buffers["y"][(self.number * self.batch + b) * hidden + j] = zero

    def row(self, sequence: ir.Expr) -> ir.Expr:
        """The step that a sequence is at, as a row of what has a row for each step of each sequence."""
        step = self.length(sequence) - 1 - self.number if self.reverse else self.number
        return step * self.batch + sequence

    def begin(self, sequence: ir.Expr) -> None:
        """The projected input into the gates."""
        with T.serial(0, self.columns) as j:
            value = self.buffers["projected"][self.row(sequence) * self.columns + j]
            self.buffers["gates"][sequence * self.columns + j] = value

    def finish(self, sequence: ir.Expr) -> None:
        """The state into the results."""
        hidden = self.inputs.hidden
        with T.serial(0, hidden) as j:
            self.buffers["y"][self.row(sequence) * hidden + j] = self.buffers["last_h"][sequence * hidden + j]

    def for_cell(self, functions: Sequence[Function]) -> Step:
        """This step as a cell sees it."""
        buffers = self.buffers
        return Step(
            hidden=self.inputs.hidden,
            columns=self.columns,
            batch=self.batch,
            each=self.each,
            functions=functions,
            gates=buffers["gates"],
            recurrent=buffers["recurrent"],
            h=buffers["last_h"],
            c=buffers["last_c"],
            peephole=buffers.get("peephole"),
            hidden_bias=buffers.get("hidden_bias"),
            options=self.inputs.options,
        )


def _joined(node: Node, parts: list[relax.Expr], axis: int, batchwise: bool) -> relax.Expr:
    """The directions side by side on a new `axis`; with layout 1 the batch comes first."""
    whole = node.emit(op.concat([node.emit(op.expand_dims(p, axis)) for p in parts], axis))
    if not batchwise:
        return whole
    return node.emit(op.permute_dims(whole, [2, 0, 1, 3] if axis == 1 else [1, 0, 2]))
