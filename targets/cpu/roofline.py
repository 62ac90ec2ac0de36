"""Peak rates of one core of this machine, measured with kernels of our own: what any kernel could reach at most.

Arithmetic: chains of multiply-adds on full vectors, as many as keep all ports busy through the latency of each; nothing
is read or written inside. Memory: sums over an array that just fits a level, with several accumulators so that loads do
not wait for additions. Each number is the best of many runs: whatever else the machine does only takes away from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import tvm
from tvm import tirx

from ...compiler.schedule.roofline import Level, Roofline
from ...compiler.schedule.target_spec import CpuSpec
from ..shared.index_math import ramp, splat
from ..shared.tir_loops import Index, i64, loop, seq, store
from .templates.tile_builder import on_stack

if TYPE_CHECKING:
    from .target import CpuTarget

# More than latency (4 to 5 cycles) times ports (2) on all cores known, and fewer than the least register file (16) less
# the two factors.
CHAINS = 12
CHAIN_STEPS = 20_000
# Enough memory to be out of any cache of one core's share, and not so much that a small machine runs out of it.
MOST_BYTES = 256 << 20
SECONDS_PER_KERNEL = 0.25


def measure_roofline(target: CpuTarget) -> Roofline:
    """Measure this machine, on one core, in about a second; `target` must be one whose code runs here."""
    spec = target.spec
    lanes = spec.lanes("float32")
    flops = 2 * lanes * CHAINS * CHAIN_STEPS
    factors = tvm.runtime.tensor(np.array([0.999, 1e-3], "float32"))
    result = tvm.runtime.tensor(np.zeros(lanes, "float32"))
    chains = _compiled(_multiply_adds(lanes), target)
    peak = flops / _best_seconds(lambda: chains(factors, result))
    return Roofline(peak, tuple(_level(name, size, capacity, target) for name, size, capacity in _sizes(spec)))


def _sizes(spec: CpuSpec) -> list[tuple[str, int, int | None]]:
    """Name, bytes to stream, and capacity of each level; an L3 that is no larger than the L2 is left out."""
    levels: list[tuple[str, int, int | None]] = [("L2", spec.l2_bytes * 3 // 4, spec.l2_bytes)]
    if spec.l3_bytes >= 2 * spec.l2_bytes:
        levels.append(("L3", min(4 * spec.l2_bytes, spec.l3_bytes // 2), spec.l3_bytes))
    largest = max(spec.l2_bytes, spec.l3_bytes)
    return [*levels, ("memory", min(4 * largest, MOST_BYTES), None)]


def _level(name: str, size: int, capacity: int | None, target: CpuTarget) -> Level:
    lanes = target.spec.lanes("float32")
    step = 4 * lanes * CHAINS
    count = max(1, size // step)
    data = tvm.runtime.tensor(np.ones(count * step // 4, "float32"))
    result = tvm.runtime.tensor(np.zeros(lanes, "float32"))
    read = _compiled(_sums(lanes, count), target)
    return Level(name, capacity, count * step / _best_seconds(lambda: read(data, result)))


def _multiply_adds(lanes: int) -> tirx.PrimFunc:
    """`accumulator = accumulator * a + b` for CHAINS vectors, CHAIN_STEPS times."""
    factors = tirx.decl_buffer((2,), "float32", "factors")
    chain = _Chains(lanes)
    a, b = (splat(tirx.BufferLoad(factors, [i64(k)]), lanes) for k in range(2))
    body = loop("step", CHAIN_STEPS, lambda _: chain.each(lambda k, value: value * a + b))
    return chain.function([factors], body)


def _sums(lanes: int, count: int) -> tirx.PrimFunc:
    """`accumulator[k] += data[i, k]` for all i < `count` and k < CHAINS, each a vector."""
    data = tirx.decl_buffer((count * CHAINS * lanes,), "float32", "data")
    chain = _Chains(lanes)

    def row(i: Index) -> tirx.Stmt:
        return chain.each(
            lambda k, value: value + tirx.BufferLoad(data, [ramp(i * (CHAINS * lanes) + k * lanes, lanes)])
        )

    return chain.function([data], loop("i", count, row))


class _Chains:
    """CHAINS vectors of `lanes` that live in registers, in arrays small enough for the stack."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        self.banks = [on_stack(lanes, f"acc{k}") for k in range(CHAINS)]

    def each(self, update: Callable[[int, tirx.Expr], tirx.Expr]) -> tirx.Stmt:
        """Every accumulator k becomes `update(k, its value)`."""
        return seq(*(self._set(k, update(k, self._get(k))) for k in range(CHAINS)))

    def function(self, inputs: list[tirx.Buffer], body: tirx.Stmt) -> tirx.PrimFunc:
        """Accumulators from nought, `body`, and their sum to the last argument, so that all of it is needed."""
        result = tirx.decl_buffer((self.lanes,), "float32", "result")
        zero = splat(tirx.const(0.0, "float32"), self.lanes)
        start = seq(*(self._set(k, zero) for k in range(CHAINS)))
        total = sum((self._get(k) for k in range(1, CHAINS)), self._get(0))
        whole = seq(
            *(tirx.AllocBuffer(b) for b in self.banks), start, body, store(result, [ramp(0, self.lanes)], total)
        )
        return tirx.PrimFunc([*inputs, result], whole)

    def _get(self, k: int) -> tirx.Expr:
        return tirx.BufferLoad(self.banks[k], [ramp(0, self.lanes)])

    def _set(self, k: int, value: tirx.Expr) -> tirx.Stmt:
        return store(self.banks[k], [ramp(0, self.lanes)], value)


def _compiled(func: tirx.PrimFunc, target: CpuTarget) -> Callable[..., object]:
    named = func.with_attr("global_symbol", "main")
    return tvm.compile(tvm.IRModule({"main": named}), target.tvm_target())["main"]


def _best_seconds(call: Callable[[], object]) -> float:
    """The shortest of as many runs as fit SECONDS_PER_KERNEL, of at least five."""
    times: list[float] = []
    until = time.perf_counter() + SECONDS_PER_KERNEL
    while len(times) < 5 or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
