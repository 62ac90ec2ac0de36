"""A worker process: binds itself to its cores, loads the pieces, and runs stages as they are asked for.

Of the stages that wait the most urgent one is run; between two pieces a more urgent stage goes first.

    python -P -m kompilo.compiler.runtime.executor.worker SOCKET
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any

import numpy as np

from ...artifact.artifact import Artifact, read_artifact
from ...errors import KompiloError
from ..module import Module, load
from .arena import Arena, from_json
from .messages import DONE, DROP, FAILED, READY, Message, Orders, pack, receive, receive_orders
from .placement import pieces_of

_PR_SET_PDEATHSIG = 1


@dataclass(order=True)
class _Task:
    """A stage of a request that waits, or was interrupted behind piece number `done`."""

    urgency: float
    task: int
    message: Message = field(compare=False)
    done: int = field(default=0, compare=False)
    seconds: float = field(default=0.0, compare=False)
    values: dict[str, np.ndarray] = field(default_factory=dict, compare=False)


class _Worker:
    """The loaded pieces, and the stages that wait."""

    def __init__(self, end: socket.socket, orders: Orders) -> None:
        self.end = end
        self.stages = orders.stages
        self.arena = Arena(from_json(orders.places), orders.slots, orders.arena)
        artifact, check = read_artifact(orders.artifact)
        check()
        self.pieces = pieces_of(artifact)
        numbers = sorted({piece for pieces, _ in orders.stages for piece in pieces})
        self.modules = {n: _load(artifact, n, orders) for n in numbers}
        self.waiting: list[_Task] = []

    def serve(self) -> None:
        """Run what is asked for until the socket ends."""
        while self._take(wait=not self.waiting):
            if not self.waiting:
                continue
            task = heappop(self.waiting)
            try:
                finished = self._step(task)
            except Exception as error:  # of whatever kind: the dispatcher has others to do it
                text = error.message if isinstance(error, KompiloError) else f"{type(error).__name__}: {error}"
                self._answer(task, FAILED, 0.0, text)
                continue
            if finished:
                self._answer(task, DONE, task.seconds)
            else:
                heappush(self.waiting, task)

    def _take(self, wait: bool) -> bool:
        """Read what has come, after waiting for it if there is nothing else to do; False at the end of the socket."""
        self.end.setblocking(wait)
        while True:
            try:
                message = receive(self.end)
            except BlockingIOError:
                return True
            if message is None:
                return False
            if message.kind == DROP:
                self._drop(message.task)
            else:
                heappush(self.waiting, _Task(message.value, message.task, message))
            self.end.setblocking(False)

    def _drop(self, number: int) -> None:
        """Forget a stage whose request was given up; it is answered like one that failed."""
        found = [task for task in self.waiting if task.task == number]
        for task in found:
            self.waiting = [other for other in self.waiting if other is not task]
            self.waiting.sort()
            self._answer(task, FAILED, 0.0, "the request was given up.")

    def _step(self, task: _Task) -> bool:
        """Run the next piece of a stage; whether that was the last one."""
        started = time.perf_counter()
        pieces, writes = self.stages[task.message.stage]
        number, slot = pieces[task.done], task.message.slot
        piece = self.pieces[number]
        values = task.values
        given = [values[s.name] if s.name in values else self.arena.view(slot, s.name) for s in piece.inputs]
        result = self.modules[number](*given)
        for spec, array in zip(piece.outputs, result if isinstance(result, tuple) else (result,), strict=True):
            values[spec.name] = array
            if spec.name in writes:
                self.arena.view(slot, spec.name)[...] = array
        task.done += 1
        task.seconds += time.perf_counter() - started
        return task.done == len(pieces)

    def _answer(self, task: _Task, kind: int, seconds: float, text: str = "") -> None:
        self.end.setblocking(True)
        message = task.message
        self.end.send(pack(Message(kind, message.task, message.slot, message.stage, seconds, text)))


def _load(artifact: Artifact, number: int, orders: Orders) -> Module:
    """Piece `number` on this process's cores."""
    part = artifact
    if artifact.segments:
        piece = artifact.segments[number]
        codes = tuple(t for t in artifact.targets if t.segment == number)
        part = replace(artifact, inputs=piece.inputs, outputs=piece.outputs, targets=codes, segments=())
    return load(part, orders.target or "cpu", len(orders.cpus))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def main(arguments: list[str]) -> None:
    """Serve on the socket whose descriptor is the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is the parent's to handle
    _die_with_parent()
    end = socket.socket(fileno=int(arguments[0]))
    orders = receive_orders(end)
    if orders is None:
        return
    answer: Any
    try:
        os.sched_setaffinity(0, orders.cpus)
        worker = _Worker(end, orders)
        answer = Message(READY)
    except Exception as error:
        answer = Message(FAILED, text=error.message if isinstance(error, KompiloError) else str(error))
    try:
        end.send(pack(answer))
        if answer.kind == READY:
            worker.serve()
    except (BrokenPipeError, ConnectionResetError):
        return  # the dispatcher is gone


if __name__ == "__main__":
    main(sys.argv[1:])
