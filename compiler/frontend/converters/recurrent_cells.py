"""The cells of RNN, GRU and LSTM as loops over sequences and hidden units, for one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from ..values import Dim

Function = Callable[[ir.Expr], ir.Expr]


def _real(value: float, like: ir.Expr) -> ir.Expr:
    return tirx.const(value, str(like.ty.dtype))


def _sigmoid(x: ir.Expr) -> ir.Expr:
    return _real(1, x) / (_real(1, x) + tirx.exp(-x))


def _tanh(x: ir.Expr) -> ir.Expr:
    """TIR's own, which targets know for float32; for other types by the exponential of -2|x|, which does not overflow,
    but near zero, where that cancels."""
    if str(x.ty.dtype) == "float32":
        return tirx.tanh(x)
    e = tirx.exp(_real(-2, x) * tirx.abs(x))
    far = (_real(1, x) - e) / (_real(1, x) + e)
    return tirx.Select(tirx.abs(x) < _real(0.25, x), tirx.tanh(x), tirx.Select(x < _real(0, x), -far, far))


def _hard_sigmoid(x: ir.Expr, a: ir.Expr, b: ir.Expr) -> ir.Expr:
    return tirx.max(_real(0, x), tirx.min(_real(1, x), a * x + b))


def _below(x: ir.Expr, other: ir.Expr) -> ir.Expr:
    return tirx.Select(x >= _real(0, x), x, other)


# name -> the function of x, alpha and beta, and the defaults of these.
ACTIVATIONS: dict[str, tuple[Callable[[ir.Expr, ir.Expr, ir.Expr], ir.Expr], float, float]] = {
    "relu": (lambda x, a, b: tirx.max(x, _real(0, x)), 0.0, 0.0),
    "tanh": (lambda x, a, b: _tanh(x), 0.0, 0.0),
    "sigmoid": (lambda x, a, b: _sigmoid(x), 0.0, 0.0),
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, b: _below(x, a * x), 0.01, 0.0),
    "thresholdedrelu": (lambda x, a, b: tirx.Select(x > a, x, _real(0, x)), 1.0, 0.0),
    "scaledtanh": (lambda x, a, b: a * _tanh(b * x), 1.0, 1.0),
    "hardsigmoid": (_hard_sigmoid, 0.2, 0.5),
    "elu": (lambda x, a, b: _below(x, a * (tirx.exp(x) - _real(1, x))), 1.0, 0.0),
    "softsign": (lambda x, a, b: x / (_real(1, x) + tirx.abs(x)), 0.0, 0.0),
    "softplus": (
        lambda x, a, b: tirx.max(x, _real(0, x)) + tirx.log(_real(1, x) + tirx.exp(-tirx.abs(x))),
        0.0,
        0.0,
    ),
}


# What a pass over the accumulators adds to them: so many products for each of so many sequences, whose factors stay in
# registers. Loading and storing accumulators once for eight products is little; four sequences share what they load of
# the weights, which makes the multiplications the bottleneck (16 for 8 loads and 4 stores of a vector).
_DEPTH, _ROWS, _DEPTH_OF_ROWS = 8, 4, 4


@dataclass(frozen=True)
class Step:
    """What a cell sees of all sequences at one step; all buffers are flat.

    Attributes:
        hidden: number of hidden units H.
        columns: G * H, of G gates.
        batch: number of sequences.
        each: runs a function of a sequence's number for all those that have not ended.
        functions: the activations f, g, h; each clips its argument first where the node asks for that.
        gates: scratch of batch * G * H numbers; holds the projected input at the beginning.
        recurrent: weights (H, G * H).
        h, c: states (batch, H). `c` is scratch where the cell has no such state.
        peephole: 3 * H weights of LSTM's cell state, or None.
        hidden_bias: H biases of the hidden gate, or None (GRU).
        options: of the node: "input_forget", "linear_before_reset".
    """

    hidden: int
    columns: int
    batch: Dim
    each: Callable[[Callable[[ir.Expr], None]], None]
    functions: Sequence[Function]
    gates: Any
    recurrent: Any
    h: Any
    c: Any
    peephole: Any
    hidden_bias: Any
    options: frozenset[str]

    def project(self, first: int, last: int, source: Any, target: Any = None) -> None:
        """Add the product of `source` (batch, H) with the recurrent weights of gates first to last to those gates, or
        to `target` (batch, (last - first) * H)."""
        columns = range(first * self.hidden, last * self.hidden)
        into = (self.gates, self.columns, columns.start) if target is None else (target, len(columns), 0)
        tiles = self.batch // _ROWS
        if not isinstance(tiles, int) or tiles > 0:
            with T.serial(0, tiles) as tile:
                self._accumulate(columns, source, into, tile * _ROWS, _ROWS, _DEPTH_OF_ROWS)
        with T.serial(0, self.batch - tiles * _ROWS) as rest:
            self._accumulate(columns, source, into, tiles * _ROWS + rest, 1, _DEPTH)

    def _accumulate(
        self, columns: range, source: Any, into: tuple[Any, int, int], sequence: ir.Expr, rows: int, depth: int
    ) -> None:
        """`project` for `rows` sequences from `sequence` on, `depth` hidden units at a time."""
        target, stride, start = into
        whole = self.hidden // depth
        for begin, count, blocks in ((0, depth, whole), (whole * depth, self.hidden - whole * depth, 1)):
            if count == 0 or blocks == 0:
                continue
            with T.serial(0, blocks) as block, T.serial(0, len(columns)) as j:
                units = [begin + block * depth + u for u in range(count)]
                for row in range(rows):
                    place = (sequence + row) * stride + start + j
                    total = target[place]
                    for k in units:
                        weight = self.recurrent[k * self.columns + columns.start + j]
                        total = total + source[(sequence + row) * self.hidden + k] * weight
                    target[place] = total


def rnn(s: Step) -> None:
    """h = f(x W + h R + b)."""
    s.project(0, 1, s.h)

    def update(b: ir.Expr) -> None:
        with T.serial(0, s.hidden) as j:
            s.h[b * s.hidden + j] = s.functions[0](s.gates[b * s.columns + j])

    s.each(update)


def gru(s: Step) -> None:
    """h = (1 - z) * g(x W + r * (h R), or (r * h) R) + z * h, the gates z and r by f."""
    z, r, new = 0, s.hidden, 2 * s.hidden
    f, g = s.functions[:2]
    before = "linear_before_reset" in s.options

    def begin(b: ir.Expr) -> None:
        with T.serial(0, s.hidden) as j:
            s.c[b * s.hidden + j] = s.hidden_bias[j]

    def reset(b: ir.Expr) -> None:
        with T.serial(0, s.hidden) as j:
            s.c[b * s.hidden + j] = f(s.gates[b * s.columns + r + j]) * s.h[b * s.hidden + j]

    def update(b: ir.Expr) -> None:
        with T.serial(0, s.hidden) as j:
            at, own = b * s.columns + j, b * s.hidden + j
            candidate = s.gates[at + new] + f(s.gates[at + r]) * s.c[own] if before else s.gates[at + new]
            keep = f(s.gates[at + z])
            s.h[own] = (_real(1, keep) - keep) * g(candidate) + keep * s.h[own]

    s.project(0, 2, s.h)
    if before:
        s.each(begin)
        s.project(2, 3, s.h, target=s.c)
    else:
        s.each(reset)
        s.project(2, 3, s.c)
    s.each(update)


def lstm(s: Step) -> None:
    """c = f * c + i * g(...), h = o * h(c); peepholes show i and f the old c, o the new one."""
    i, o, f, new = (number * s.hidden for number in range(4))
    sigma, g, last = s.functions[:3]
    s.project(0, 4, s.h)

    def update(b: ir.Expr) -> None:
        with T.serial(0, s.hidden) as j:
            at, own = b * s.columns + j, b * s.hidden + j

            def gate(start: int, state: ir.Expr, weight: int) -> ir.Expr:
                value = s.gates[at + start]
                return sigma(value if s.peephole is None else value + s.peephole[weight * s.hidden + j] * state)

            take = gate(i, s.c[own], 0)
            keep = _real(1, take) - take if "input_forget" in s.options else gate(f, s.c[own], 2)
            s.c[own] = keep * s.c[own] + take * g(s.gates[at + new])
            s.h[own] = gate(o, s.c[own], 1) * last(s.c[own])

    s.each(update)
