"""Which operators of a model can be tuned, how often each runs, and which candidates there are for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..build import describe_operators
from ..frontend.host_import import import_program
from ..model_source import resolve
from ..passes.pipeline import run_phases
from ..schedule.op_spec import OpSpec
from ..schedule.selection import Selector, matches
from ..schedule.target import Target
from .record import Point

if TYPE_CHECKING:
    from ..driver import Model


@dataclass(frozen=True)
class Task:
    """A fused operator of known sizes that a model runs `calls` times per inference.

    `points` are the candidates for its kernel; `points[0]` is what is taken when nothing has been measured.
    """

    op: OpSpec
    calls: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Tasks:
    """The tasks of a model in the order in which they run, and the operators whose sizes only run time tells."""

    tasks: tuple[Task, ...]
    unsized: tuple[str, ...]


def extract_tasks(
    model: Model,
    target: Target,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    precision: str = "fp32",
) -> Tasks:
    """The operators of `model` that templates of `target` make, each once.

    `inputs` and `precision` are as for `kompilo.compile`. Raises ModelError and InputError as that does.
    """
    selector = Selector(target, precision=precision)
    parts = import_program(resolve(model), inputs).compiled.values()
    mods = [run_phases(part.mod, target, stop_after="select", selector=selector) for part in parts]
    by_text = {str(op): op for op in selector.considered}
    calls: Counter[OpSpec] = Counter()
    for operator in (o for mod in mods for o in describe_operators(mod) if o.spec in by_text):
        calls[by_text[operator.spec]] += operator.calls
    used = list(calls.items())
    sized = tuple(Task(op, calls, points_of(op, target)) for op, calls in used if op.is_static)
    return Tasks(sized, tuple(str(op) for op, _ in used if not op.is_static))


def points_of(op: OpSpec, target: Target) -> tuple[Point, ...]:
    """All points of all templates that match `op`, the analytic default of the first template first."""
    points = [Point(t.name, t.version, config) for t, space in matches(op, target) for config in space]
    return tuple(dict.fromkeys(points))
