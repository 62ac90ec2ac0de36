"""When nests that run at once are done: tokens move through FIFOs, and a nest stands still while one is empty or
full."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....compiler.errors import KompiloError
from .ir import Expr, Nest, Op, Pop, Position, Push, Stream
from .schedule import Schedule


@dataclass
class _Progress:
    """A nest's moves of tokens in its own time (cycles it does not stand still), and how far it has come."""

    times: np.ndarray
    streams: list[tuple[str, Stream]]
    own_end: int
    done: int = 0
    delay: int = 0


def dataflow_cycles(schedules: tuple[Schedule, ...]) -> int:
    """Cycles from the start of all nests to the last effect; exact.

    A token can be taken from the cycle after it was put, and a full FIFO has room from the cycle after one was taken.
    KompiloError if the nests wait for each other for ever.
    """
    nests = [_progress(s) for s in schedules]
    depths = {s.name: s.depth for n in nests for _, s in n.streams}
    moved: dict[tuple[str, str], list[int]] = {(kind, name): [] for name in depths for kind in ("pop", "push")}
    while any(n.done < len(n.times) for n in nests):
        if not sum(_advance(n, moved, depths) for n in nests):
            waiting = [s.graph.nest.name for s, n in zip(schedules, nests, strict=True) if n.done < len(n.times)]
            raise KompiloError(f"FPGA kernel: expected nests that finish, found {waiting} waiting for each other.")
    return max(n.own_end + n.delay for n in nests)


def _advance(n: _Progress, moved: dict[tuple[str, str], list[int]], depths: dict[str, int]) -> int:
    """Moves the nest on as far as what others have done so far allows; how many cycles' moves that were."""
    before = n.done
    while n.done < len(n.times):
        own, moves = n.times[n.done]
        at = int(own) + n.delay
        together = [n.streams[k] for k in range(len(n.streams)) if int(moves) >> k & 1]
        for kind, stream in together:
            count = len(moved[kind, stream.name])
            if kind == "pop":
                needed, index, wait = moved["push", stream.name], count, 1
            else:
                needed, index, wait = moved["pop", stream.name], count - depths[stream.name], 1
            if index < 0:
                continue
            if index >= len(needed):
                return n.done - before
            at = max(at, needed[index] + wait)
        for kind, stream in together:
            moved[kind, stream.name].append(at)
        n.delay = at - int(own)
        n.done += 1
    return n.done - before


def _progress(s: Schedule) -> _Progress:
    nest = s.graph.nest
    nodes = s.graph.of_kind("pop", "push")
    statements = [x for x in nest.body if isinstance(x, (Pop, Push))]
    env = _iterations(nest)
    start = np.arange(nest.trip, dtype=np.int64) * s.ii
    streams, times, bits = [], [], []
    for k, (node, statement) in enumerate(zip(nodes, statements, strict=True)):
        happens = np.ones(nest.trip, bool) if statement.guard is None else condition(statement.guard, env, nest.trip)
        own = start[happens] + s.times[node]
        streams.append((s.graph.nodes[node].kind, statement.stream))
        times.append(own)
        bits.append(np.full(len(own), 1 << k, np.int64))
    if not times:
        return _Progress(np.zeros((0, 2), np.int64), [], s.cycles)
    cycles, where = np.unique(np.concatenate(times), return_inverse=True)
    moves = np.zeros(len(cycles), np.int64)
    np.bitwise_or.at(moves, where, np.concatenate(bits))
    return _Progress(np.stack([cycles, moves], 1), streams, s.cycles)


def _iterations(nest: Nest) -> dict[str, np.ndarray]:
    """The value of each loop variable in each iteration."""
    grid = np.indices(tuple(loop.extent for loop in nest.loops)).reshape(len(nest.loops), -1)
    return {loop.var: values for loop, values in zip(nest.loops, grid, strict=True)}


def condition(e: Expr, env: dict[str, np.ndarray], trip: int) -> np.ndarray:
    """Where a guard holds; KompiloError if it depends on data."""
    return np.broadcast_to(np.asarray(_value(e, env)), (trip,)).astype(bool)


def _value(e: Expr, env: dict[str, np.ndarray]) -> np.ndarray:
    if isinstance(e, Position):
        return sum((c * env[v] for v, c in e.index.terms), np.asarray(e.index.const))
    if isinstance(e, Op) and e.name in ("eq", "lt", "le", "and", "or", "not"):
        args = [_value(a, env) for a in e.args]
        table = {"eq": np.equal, "lt": np.less, "le": np.less_equal, "and": np.logical_and, "or": np.logical_or}
        return np.logical_not(args[0]) if e.name == "not" else table[e.name](*args)
    if hasattr(e, "value") and not hasattr(e, "lanes"):
        return np.asarray(e.value)
    raise KompiloError(
        f"FPGA kernel: expected guards of streams to be made of loop positions, found {type(e).__name__}."
    )
