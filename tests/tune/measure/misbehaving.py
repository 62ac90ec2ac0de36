"""A target like the CPU's whose template offers, beside a right config, one for every way to misbehave."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tvm import tirx
from tvm.tirx import Stmt

from kompilo.compiler.schedule.op_spec import OpSpec, TensorType
from kompilo.compiler.schedule.target_spec import TargetSpec
from kompilo.compiler.schedule.template import Candidate, Config, Space, Template
from kompilo.compiler.tune.measure import operands
from kompilo.compiler.tune.measure.operands import random_operands
from kompilo.compiler.tune.record import Point
from kompilo.targets.cpu.target import CpuTarget
from kompilo.targets.cpu.templates.matmul_tile import MatmulTile

LEAKS: list[np.ndarray] = []


def extern(name: str, *args: tirx.Expr) -> Stmt:
    """Compiled code that calls a function of the C library."""
    return tirx.Evaluate(tirx.call_extern("int32", name, *args))


def store(buffer: tirx.Buffer, index: int, value: float = 1.0) -> Stmt:
    """Compiled code that stores to a place in or outside of a buffer."""
    flat = tirx.decl_buffer((1 << 50,), "float32", data=buffer.data)
    write = tirx.BufferStore(flat, tirx.const(value, "float32"), [tirx.const(index, "int64")])
    return tirx.SeqStmt([tirx.DeclBuffer(flat, data=buffer.data), write])


def endless() -> Stmt:
    """Compiled code that never ends, and does something that the compiler cannot drop."""
    return tirx.While(tirx.const(True, "bool"), extern("sched_yield"))


def huge(buffer: tirx.Buffer) -> Stmt:
    """Compiled code that asks for 100 GB."""
    memory = tirx.decl_buffer((25 << 30,), "float32", "memory", scope="global")
    index = tirx.Var("i", "int64")
    fill = tirx.BufferStore(memory, tirx.const(1.0, "float32"), [index])
    loop = tirx.For(index, tirx.const(0, "int64"), tirx.const(25 << 30, "int64"), tirx.ForKind.SERIAL, fill)
    copy = tirx.BufferStore(buffer, memory[7], [0] * len(buffer.shape))
    return tirx.SeqStmt([tirx.AllocBuffer(memory), loop, copy])


# What the compiled code does before (or, for "wrong" and "overwrite", after) the right thing.
CODE: dict[str, Callable[[list[tirx.Buffer]], Stmt]] = {
    "segfault": lambda b: store(b[-1], 1 << 48),
    "abort": lambda b: extern("abort"),
    "exit": lambda b: extern("exit", tirx.const(0, "int32")),
    "endless": lambda b: endless(),
    "sleep": lambda b: extern("pause"),
    "huge": lambda b: huge(b[-1]),
    "overwrite_input": lambda b: store(b[0], 0),
    "behind_input": lambda b: store(b[0], int(np.prod([int(d) for d in b[0].shape]))),
    "behind_output": lambda b: store(b[-1], int(np.prod([int(d) for d in b[-1].shape]))),
    "far_behind_output": lambda b: store(b[-1], 4096),
    "before_output": lambda b: store(b[-1], -1),
}
# Right, but slow by microseconds.
NAPS = {"nap": 300, "long_nap": 900}
AFTER = {
    "wrong": lambda b: store(b[-1], 5, 1000.0),
    "nan": lambda b: store(b[-1], 5, float("nan")),
    "slightly_wrong": lambda b: store(b[-1], 0, 0.0),
}


def loop_forever() -> None:
    while True:
        pass


def hold_lock() -> None:
    ctypes.PyDLL(None).pause()


def hundred_gigabytes() -> None:
    np.ones(25 << 30, np.float32)


def raise_error() -> None:
    raise RuntimeError("no code for this config\nsecond line")


def shout() -> None:
    for _ in range(1000):
        os.write(1, b"\xff\x00garbage{}[]\n" * 1000)
        print("garbage", flush=True)


def deaf() -> None:
    for fd in range(3, 64):
        try:
            os.close(fd)
        except OSError:
            continue


def intrude() -> None:
    """Write into every descriptor there is."""
    for fd in range(3, 64):
        try:
            os.write(fd, b'{"timed": 1}\nnonsense\n')
        except OSError:
            continue


def leak() -> None:
    LEAKS.append(np.ones(8 << 20, np.float32))


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stack_overflow() -> None:
    def deeper(n: int) -> int:
        return deeper(n + 1) + ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(deeper)(n)

    deeper(0)


def orphan() -> None:
    """Start a process that would outlive the worker, then hang; its number goes to the file that a variable names."""
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    Path(os.environ["MISBEHAVING_ORPHAN"]).write_text(str(child))
    time.sleep(600)


def slow() -> None:
    time.sleep(1.0)


# What the template itself does when it is asked to build.
BUILD: dict[str, Callable[[], None]] = {
    f.__name__: f
    for f in (
        loop_forever, hold_lock, hundred_gigabytes, raise_error, shout, deaf, intrude, leak, stop, kill,
        stack_overflow, orphan, slow,
    )
}  # fmt: skip

ACTS = ("good", *NAPS, *CODE, *AFTER, *BUILD)


# What making the operands of an operator with so many rows does, which no candidate has a part in.
ROWS_THAT_HANG, ROWS_THAT_KILL = 77, 78
OPERANDS: dict[int, Callable[[], None]] = {ROWS_THAT_HANG: loop_forever, ROWS_THAT_KILL: kill}


def _misbehave_first(op: OpSpec, seed: int) -> list[np.ndarray]:
    OPERANDS.get(int(op.inputs[0].shape[0]), lambda: None)()
    return random_operands(op, seed)


operands.random_operands = _misbehave_first


class MisbehavingTemplate(Template):
    """The tiled matmul with one more knob."""

    name = "misbehaving"
    version = 3

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        inner = MatmulTile().match(op, target)
        return None if inner is None else Space(config("good"), tuple(map(config, ACTS)))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        act = str(config["act"])
        BUILD.get(act, lambda: None)()
        space = MatmulTile().match(op, target)
        assert space is not None
        inner = MatmulTile().build(op, target, space.default)
        func = inner.func
        buffers = [p for p in func.params if isinstance(p, tirx.Buffer)] or list(func.buffer_map.values())
        if act in NAPS:
            func = func.with_body(tirx.SeqStmt([extern("usleep", tirx.const(NAPS[act], "int32")), func.body]))
        if act in CODE:
            func = func.with_body(tirx.SeqStmt([CODE[act](buffers), func.body]))
        if act in AFTER:
            func = func.with_body(tirx.SeqStmt([func.body, AFTER[act](buffers)]))
        return Candidate(func, inner.packers)


class MisbehavingTarget(CpuTarget):
    """The local CPU with the misbehaving template alone."""

    @property
    def templates(self) -> tuple[Template, ...]:  # type: ignore[override]
        return (MisbehavingTemplate(),)


def config(act: str) -> Config:
    """The config that behaves as `act` says."""
    return Config.of(act=act)


def point(act: str) -> Point:
    """The same as a point to measure."""
    return Point(MisbehavingTemplate.name, MisbehavingTemplate.version, config(act))


def matmul(m: int = 33, n: int = 47, k: int = 29) -> OpSpec:
    """(m, k) x constant (k, n)."""
    types = TensorType((m, k), "float32"), TensorType((k, n), "float32")
    result = TensorType((m, n), "float32")
    attrs = (("lhs_perm", (0, 1)), ("out_perm", (0, 1)), ("rhs_perm", (0, 1)))
    return OpSpec("matmul", types, (False, True), attrs, result, result)
