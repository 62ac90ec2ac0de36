"""Made-up tuning sessions, for what shows them."""

from __future__ import annotations

from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.compiler.schedule.roofline import Level, Roofline
from kompilo.compiler.schedule.template import Config
from kompilo.compiler.tune.record import Point
from kompilo.compiler.tune.report import SessionState, TaskState, TuneReport

ROOFLINE = Roofline(150e9, (Level("L2", 1 << 20, 90e9), Level("L3", 32 << 20, 25e9), Level("memory", None, 10e9)))
POINTS = tuple(Point("conv2d_direct", 1, Config.of(tile_w=w)) for w in range(1, 9))


def conv(
    channels: int, outputs: int, size: int = 56, kernel: int = 3, groups: int = 1, steps: tuple[Step, ...] = ()
) -> OpSpec:
    """A convolution that keeps the image's size."""
    pad = kernel // 2
    out = TensorType((1, size, size, outputs), "float32")
    return OpSpec(
        "conv2d",
        (
            TensorType((1, size, size, channels), "float32"),
            TensorType((outputs, channels // groups, kernel, kernel), "float32"),
            TensorType((outputs,), "float32"),
        ),
        (False, True, True),
        (
            ("data_layout", "NHWC"), ("dilation", (1, 1)), ("groups", groups), ("padding", (pad,) * 4),
            ("strides", (1, 1)),
        ),
        out,
        out,
        (Step("add", ("anchor", "i2"), "float32"), *steps),
    )  # fmt: skip


def task(op: OpSpec, times: tuple[float, ...] = (), calls: int = 1, failed: int = 0) -> TaskState:
    """An operator after measuring `times` (seconds), a second each, and after `failed` candidates that failed."""
    best = min(range(len(times)), key=times.__getitem__, default=None)
    history = tuple((float(k + 1), times[k]) for k in range(len(times)) if times[k] == min(times[: k + 1]))
    return TaskState(
        op=op,
        calls=calls,
        points=len(POINTS),
        tried=len(times) + failed,
        failed=failed,
        start_point=POINTS[0],
        start_seconds=times[0] if times else None,
        best_point=None if best is None else POINTS[best],
        best_seconds=None if best is None else times[best],
        predicted_seconds=None,
        history=history,
    )


def state(*tasks: TaskState, **changes) -> SessionState:
    """A snapshot half-way through a minute."""
    measured, failed = sum(t.tried for t in tasks), sum(t.failed for t in tasks)
    return SessionState(
        **{"tasks": tasks, "elapsed_s": 30.0, "budget_s": 60.0, "measured": measured, "failed": failed} | changes
    )


def good_tasks() -> tuple[TaskState, ...]:
    """Three operators: one got faster, one stayed, one has nothing but its start."""
    return (
        task(conv(64, 64), (2e-3, 1.5e-3, 1.8e-3, 1.0e-3), calls=2),
        task(conv(64, 256, kernel=1), (1e-3, 1.2e-3), failed=1),
        task(conv(128, 128, 28, groups=128), (0.1e-3,)),
    )


def report(
    *tasks: TaskState,
    stopped: str = "the time is up",
    skipped: tuple[str, ...] = (),
    whole_device: bool = False,
    **changes,
) -> TuneReport:
    """The end of a session."""
    end = state(*tasks, **{"running": False, "stopped": stopped, "elapsed_s": 60.0} | changes)
    return TuneReport("zoo:test", "cpu-test-2c", end, "/records", 1.5, skipped, whole_device=whole_device)
