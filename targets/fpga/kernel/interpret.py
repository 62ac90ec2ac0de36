"""Reference interpreter: runs a kernel as the IR's text says, one element at a time. Slow, and right by inspection.

Where HLS C++ and Verilog disagree it tells which of them is wrong.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from ....compiler.errors import KompiloError
from .ir import (
    Accumulate,
    Const,
    Expr,
    Kernel,
    Let,
    Load,
    Lookup,
    Nest,
    Pop,
    Position,
    Push,
    Reduce,
    Ref,
    Stack,
    Statement,
    Store,
    Stream,
)
from .ops import evaluate
from .types import Value

Arrays = dict[str, np.ndarray]
_Env = dict[str, int]


def interpret(kernel: Kernel, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """The "out" arrays of `kernel` for its "in" arrays by name; KompiloError if an input is missing or does not fit."""
    memory = initial_memory(kernel, inputs)
    queues: dict[Stream, deque[np.ndarray]] = {s: deque() for s in kernel.streams}
    for nest in kernel.nests:
        _Run(memory, queues, nest).run()
    left = [s.name for s, queue in queues.items() if queue]
    if left:
        raise KompiloError(f"FPGA kernel {kernel.name}: expected streams to end empty, found tokens in {left}.")
    return {a.name: memory[a.name] for a in kernel.role("out")}


def initial_memory(kernel: Kernel, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """All arrays before the kernel starts: inputs, zeros elsewhere. KompiloError if an input does not fit."""
    memory = {}
    for array in kernel.arrays:
        memory[array.name] = np.zeros(array.shape, array.dtype.numpy())
        if array.role != "in":
            continue
        given = inputs.get(array.name)
        found = f"{given.dtype}{list(given.shape)}" if given is not None else "nothing"
        if given is None or given.shape != array.shape or given.dtype != array.dtype.numpy():
            expected = f"{array.dtype.numpy()}{list(array.shape)}"
            raise KompiloError(f"FPGA kernel {kernel.name}, input {array.name}: expected {expected}, found {found}.")
        memory[array.name][...] = given
    return memory


class _Run:
    """One nest."""

    def __init__(self, memory: Arrays, queues: Mapping[Stream, deque[np.ndarray]], nest: Nest):
        self.memory, self.queues, self.nest = memory, queues, nest
        self.values: dict[str, np.ndarray] = {}
        self.accumulators: dict[str, np.ndarray] = {}

    def run(self) -> None:
        names = [loop.var for loop in self.nest.loops]
        for point in itertools.product(*(range(loop.extent) for loop in self.nest.loops)):
            env = dict(zip(names, point, strict=True))
            for statement in self.nest.body:
                self._statement(statement, env)

    def _statement(self, s: Statement, env: _Env) -> None:
        guard = getattr(s, "guard", None)
        if isinstance(s, Pop):
            token = self.queues[s.stream].popleft() if guard is None or self._eval(guard, env) else None
            self.values[s.name] = token if token is not None else np.zeros(s.stream.shape, object)
            return
        if isinstance(s, Stack):
            self.values[s.name] = np.stack([self._over(s, env, part) for part in s.parts], s.axis)
            return
        shape = tuple(lane.extent for lane in s.lanes)
        results: np.ndarray = np.zeros(shape, object)
        for at in np.ndindex(shape):
            results[at] = self._lane(s, env | {lane.var: k for lane, k in zip(s.lanes, at, strict=True)})
        if isinstance(s, (Let, Accumulate)):
            self.values[s.name] = results
        elif isinstance(s, Push):
            if guard is None or self._eval(guard, env):
                self.queues[s.stream].append(results)
        else:
            for at in np.ndindex(shape):
                self._store(s, results[at], env | {lane.var: k for lane, k in zip(s.lanes, at, strict=True)})

    def _over(self, s: Stack, env: _Env, part: Expr) -> np.ndarray:
        """One part over the lanes."""
        shape = tuple(lane.extent for lane in s.lanes)
        values: np.ndarray = np.zeros(shape, object)
        for at in np.ndindex(shape):
            values[at] = self._eval(part, env | {lane.var: k for lane, k in zip(s.lanes, at, strict=True)})
        return values

    def _lane(self, s: Any, env: _Env) -> Value:
        value = self._eval(s.value, env)
        if not isinstance(s, Accumulate):
            return value
        cells = self.accumulators.setdefault(s.array.name, np.zeros(s.array.shape, object))
        where = tuple(i.at(env) for i in s.indices)
        before = self._eval(s.init, env) if self._eval(s.first, env) else cells[where]
        cells[where] = evaluate(s.op, [before, value], s.array.dtype)
        return cells[where]

    def _store(self, s: Store, value: Any, env: _Env) -> None:
        if s.guard is None or self._eval(s.guard, env):
            self.memory[s.array.name][self._position(s, env)] = value

    def _position(self, access: Load | Store, env: _Env) -> tuple[int, ...]:
        where = tuple(i.at(env) for i in access.indices)
        if not all(0 <= i < n for i, n in zip(where, access.array.shape, strict=True)):
            raise KompiloError(f"FPGA kernel: expected an element of {access.array.name}, found {list(where)}.")
        return where

    def _eval(self, e: Expr, env: _Env) -> Value:
        if isinstance(e, Const):
            return e.value
        if isinstance(e, Position):
            return e.dtype.wrap(e.index.at(env))
        if isinstance(e, Load):
            if e.guard is not None and not self._eval(e.guard, env):
                return 0
            value = self.memory[e.array.name][self._position(e, env)]
            return float(value) if e.dtype.is_float else int(value)
        if isinstance(e, Ref):
            return self.values[e.name][tuple(i.at(env) for i in e.indices)]
        if isinstance(e, Reduce):
            return self._reduce(e, env)
        if isinstance(e, Lookup):
            return e.table[int(self._eval(e.index, env))]
        return evaluate(e.name, [self._eval(a, env) for a in e.args], e.dtype)

    def _reduce(self, e: Reduce, env: _Env) -> Value:
        points = itertools.product(*(range(lane.extent) for lane in e.lanes))
        terms = [
            self._eval(e.value, env | dict(zip((lane.var for lane in e.lanes), point, strict=True))) for point in points
        ]
        while len(terms) > 1:
            pairs = [evaluate(e.name, terms[k : k + 2], e.dtype) for k in range(0, len(terms) - 1, 2)]
            terms = pairs + terms[len(terms) // 2 * 2 :]
        return terms[0]
