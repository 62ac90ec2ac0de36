"""The cells of RNN, GRU and LSTM as loops over the hidden units, for one sequence at one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

Function = Callable[[ir.Expr], ir.Expr]


def _real(value: float, like: ir.Expr) -> ir.Expr:
    return tirx.const(value, str(like.ty.dtype))


def _sigmoid(x: ir.Expr) -> ir.Expr:
    return _real(1, x) / (_real(1, x) + tirx.exp(-x))


def _tanh(x: ir.Expr) -> ir.Expr:
    """By the exponential of -2|x|, which does not overflow; near zero, where that cancels, by TIR's own."""
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


@dataclass(frozen=True)
class Step:
    """What a cell sees of one sequence at one step; all buffers are flat.

    Attributes:
        hidden: number of hidden units H.
        functions: the activations f, g, h; each clips its argument first where the node asks for that.
        gates: scratch of G * H numbers, `at` their first one; holds the projected input at the beginning.
        recurrent: weights (H, G * H); `columns` is G * H.
        h, c: states; `own` is the sequence's first element in them. `c` is scratch where the cell has no such state.
        peephole: 3 * H weights of LSTM's cell state, or None.
        hidden_bias: H biases of the hidden gate, or None (GRU).
        options: of the node: "input_forget", "linear_before_reset".
    """

    hidden: int
    columns: int
    functions: Sequence[Function]
    gates: Any
    at: ir.Expr
    recurrent: Any
    h: Any
    c: Any
    own: ir.Expr
    peephole: Any
    hidden_bias: Any
    options: frozenset[str]

    def gate(self, number: int, unit: ir.Expr) -> ir.Expr:
        """Where gate `number` of a unit stands."""
        return self.at + number * self.hidden + unit

    def project(self, first: int, last: int, source: Any) -> None:
        """Add the product of `source` (H numbers from `own` on) with the recurrent weights to gates first to last."""
        with T.serial(0, self.hidden) as k, T.serial(0, (last - first) * self.hidden) as j:
            column = first * self.hidden + j
            place = self.at + column
            self.gates[place] = self.gates[place] + source[self.own + k] * self.recurrent[k * self.columns + column]


def rnn(s: Step) -> None:
    """h = f(x W + h R + b)."""
    s.project(0, 1, s.h)
    with T.serial(0, s.hidden) as j:
        s.h[s.own + j] = s.functions[0](s.gates[s.gate(0, j)])


def gru(s: Step) -> None:
    """h = (1 - z) * g(x W + r * (h R), or (r * h) R) + z * h, the gates z and r by f."""
    z, r, new = 0, 1, 2
    f, g = s.functions[:2]
    s.project(0, 2, s.h)
    with T.serial(0, 2 * s.hidden) as j:
        s.gates[s.at + j] = f(s.gates[s.at + j])
    if "linear_before_reset" in s.options:
        with T.serial(0, s.hidden) as j:
            s.c[s.own + j] = s.hidden_bias[j]
        with T.serial(0, s.hidden) as k, T.serial(0, s.hidden) as j:
            weight = s.recurrent[k * s.columns + new * s.hidden + j]
            s.c[s.own + j] = s.c[s.own + j] + s.h[s.own + k] * weight
        with T.serial(0, s.hidden) as j:
            place = s.gate(new, j)
            s.gates[place] = s.gates[place] + s.gates[s.gate(r, j)] * s.c[s.own + j]
    else:
        with T.serial(0, s.hidden) as j:
            s.c[s.own + j] = s.gates[s.gate(r, j)] * s.h[s.own + j]
        s.project(2, 3, s.c)
    with T.serial(0, s.hidden) as j:
        candidate, keep, old = g(s.gates[s.gate(new, j)]), s.gates[s.gate(z, j)], s.h[s.own + j]
        s.h[s.own + j] = (_real(1, keep) - keep) * candidate + keep * old


def lstm(s: Step) -> None:
    """c = f * c + i * g(...), h = o * h(c); peepholes show i and f the old c, o the new one."""
    i, o, f, new = 0, 1, 2, 3
    sigma, g, last = s.functions[:3]
    s.project(0, 4, s.h)
    with T.serial(0, s.hidden) as j:
        old = s.c[s.own + j]

        def gate(number: int, state: ir.Expr, weight: int) -> ir.Expr:
            value = s.gates[s.gate(number, j)]
            return sigma(value if s.peephole is None else value + s.peephole[weight * s.hidden + j] * state)

        # Each is stored where it stood: the forget gate first, before the state changes.
        s.gates[s.gate(i, j)] = gate(i, old, 0)
        take = s.gates[s.gate(i, j)]
        s.gates[s.gate(f, j)] = _real(1, take) - take if "input_forget" in s.options else gate(f, old, 2)
        s.c[s.own + j] = s.gates[s.gate(f, j)] * old + take * g(s.gates[s.gate(new, j)])
        s.gates[s.gate(o, j)] = gate(o, s.c[s.own + j], 1)
        s.h[s.own + j] = s.gates[s.gate(o, j)] * last(s.c[s.own + j])
