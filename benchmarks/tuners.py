"""Kompilo's tuning session against MetaSchedule and against random search: same operators, same wall time.

    python benchmarks/tuners.py [--model zoo:resnet50] [--operators 8] [--seconds 180] [--seeds 3] [--plot FILE.svg]

The operators are the convolutions and matmuls of the model with the largest share of its arithmetic, without their
epilogues, as code of one thread. The cost model of Kompilo's session was trained without any operator of this model.
Random search draws from the same spaces and measures with the same workers. What is compared, at every moment, is the
sum of the best times so far, each operator as often as the model calls it; it exists once all operators have a time.
A config that both have measured has one time in all their sums, the median of its times: which of them happened to
measure it at a better moment says nothing about how they search.
The tuners run in turn, once with each seed, and the median of the sums counts. MetaSchedule needs
`pip install 'kompilo[meta]'`.

MetaSchedule measures by its own rules:
- the time of a candidate is the mean over 0.1 s of calls, Kompilo's the median of samples of some 20 us or a call
- weights and activations are in cache, which flatters it; in Kompilo's sessions weights come from memory
- what the core's clock and other programs do to a time stays in it; Kompilo scales it by a reference beside it
- results are not compared with a reference; Kompilo spends a part of its time on that
- it builds a round of candidates, then times them; of Kompilo's workers one times what it has built while others build

Its clock starts when it has imported TVM, Kompilo's before its workers are started. Before each round of candidates of
an operator it searches for long (84 s on two busy cores): for several operators give it `--seconds 600` and more.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from kompilo.compiler.knobs import Knobs
from kompilo.compiler.model_source import zoo
from kompilo.compiler.schedule.flops import flops
from kompilo.compiler.schedule.op_spec import OpSpec
from kompilo.compiler.schedule.target import Target, find_target
from kompilo.compiler.tune.advisors import preferred
from kompilo.compiler.tune.cost_model import CostModel
from kompilo.compiler.tune.library import RecordLibrary
from kompilo.compiler.tune.measure.pool import MeasurePool
from kompilo.compiler.tune.record import Point, Record
from kompilo.compiler.tune.search import InGivenOrder, Search, TaskSearch
from kompilo.compiler.tune.session import Limits, Session
from kompilo.compiler.tune.task import Task, extract_tasks, points_of
from kompilo.compiler.tune.training import operators_of_zoo, training_examples


class Event(NamedTuple):
    """A measurement: seconds since the start, place of the operator, seconds of the candidate or None if it failed, and
    which of the operator's points it is, None for MetaSchedule's."""

    moment: float
    place: int
    seconds: float | None
    point: Point | None = None


WORKER = Path(__file__).with_name("metaschedule_worker.py")
# Importing all of MetaSchedule takes 20 seconds, on a busy machine some minutes.
READY_WITHIN_S = 300
MOMENTS = (5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 600)


def main() -> None:
    """Run the tuners one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="zoo:resnet50")
    parser.add_argument("--operators", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--records", nargs="*", type=Path, default=[])
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if not options.model.startswith("zoo:"):
        parser.error(
            f"--model: expected zoo:NAME, as only of those the training data are known, found {options.model}."
        )
    target = find_target("cpu")
    tasks = heaviest(options.model, target, options.operators)
    learned = left_out(options.model, target, options.records)
    tuners: dict[str, Callable[[int], list[Event]]] = {
        "Kompilo": lambda seed: kompilo_events(tasks, options.seconds, seed, learned),
        "random search": lambda seed: random_events(tasks, options.seconds, seed),
        "MetaSchedule": lambda seed: metaschedule_events(tasks, target, options.seconds, seed),
    }
    curves: dict[str, list[list[Event]]] = {name: [] for name in tuners}
    for seed in range(options.seeds):
        for name, run in tuners.items():
            curves[name].append(run(seed))
    curves = with_common_times(curves)
    calls = [task.calls for task in tasks]
    print(f"{len(tasks)} operators, {sum(len(task.points) for task in tasks)} configs in Kompilo's spaces\n")
    print(table(curves, calls, options.seconds))
    if options.plot:
        plot(curves, calls, options.seconds, options.plot)


def heaviest(model: str, target: Target, count: int) -> list[Task]:
    """The `count` tasks with the most arithmetic among convolutions and matmuls with constant weights, epilogues cut
    off."""
    bare: dict[OpSpec, int] = {}
    for task in extract_tasks(model, target, dict(zoo().find(model.removeprefix("zoo:")).shapes)).tasks:
        op = task.op
        if op.kind in ("conv2d", "matmul") and op.constant[1] and (op.kind != "conv2d" or op.ints("groups") == (1,)):
            cut = replace(op, inputs=op.inputs[:2], constant=op.constant[:2], output=op.anchor_type, epilogue=())
            bare[cut] = bare.get(cut, 0) + task.calls
    chosen = sorted(bare, key=lambda op: -(flops(op) or 0) * bare[op])[:count]
    return [Task(op, bare[op], points_of(op, target)) for op in chosen]


def left_out(model: str, target: Target, records: Sequence[Path]) -> CostModel:
    """The cost model of all records but those of operators whose anchor occurs in `model`, one of the zoo."""
    texts = operators_of_zoo(target, Knobs.from_environment().cache / "tune")[model.removeprefix("zoo:")]
    own = {anchor_text(text) for text in texts}
    examples = training_examples(RecordLibrary.of(records), target)
    return CostModel.of_examples([e for e in examples if anchor_text(str(e.op)) not in own], target)


def anchor_text(text: str) -> str:
    """Kind, first two operands and attributes of an operator's text."""
    operands, _, rest = text.partition(") {")
    return ", ".join(operands.split(", ")[:2]) + rest.partition("}")[0]


def kompilo_events(tasks: Sequence[Task], seconds: float, seed: int, learned: CostModel) -> list[Event]:
    """A session as `kompilo tune` runs it; it goes on to the end of the time or of the spaces.

    Points are worth their times on one thread here, not on all cores.
    """
    searches = [TaskSearch(task, first_point(task, learned)) for task in tasks]
    for search in searches:
        search.predict_with(learned)
    return _session(Search(searches, seed), tasks, seconds, learned)


def first_point(task: Task, learned: CostModel) -> Point:
    """Where a session starts: what `kompilo compile` takes that has this cost model and no records."""
    return task.points[preferred(learned.predict(task.op, task.points), 0)]


class RandomSearch(Search):
    """Every untried point of every task is as likely as any other."""

    def propose(self, count: int) -> list[tuple[TaskSearch, object]]:  # type: ignore[override]
        """Up to `count` points, now pending."""
        left = [(task, point) for task in self.tasks for point in task.untried]
        chosen = [left[k] for k in self._rng.permutation(len(left))[:count]]
        for task, point in chosen:
            task.pending.add(point)
        return chosen


def random_events(tasks: Sequence[Task], seconds: float, seed: int) -> list[Event]:
    """Random search with the workers of a session."""
    searches = [TaskSearch(task, task.points[0]) for task in tasks]
    for search in searches:
        search.predict_with(InGivenOrder())
    return _session(RandomSearch(searches, seed), tasks, seconds, None)


def _session(search: Search, tasks: Sequence[Task], seconds: float, learner: CostModel | None) -> list[Event]:
    places = {task.op: k for k, task in enumerate(tasks)}
    events: list[Event] = []
    began = time.monotonic()

    def keep(record: Record) -> None:
        m = record.measurement
        events.append(Event(time.monotonic() - began, places[record.op], m.seconds, record.point))

    with MeasurePool("cpu") as pool:
        Session(search, pool, Limits(seconds, None, 0.0), "benchmark", "benchmark", keep, learner).run()
    return events


def metaschedule_events(
    tasks: Sequence[Task], target: Target, seconds: float, seed: int = 0, worker: Path = WORKER
) -> list[Event]:
    """What MetaSchedule measures in `seconds`, in a process that is ended then.

    If nothing comes of it, the last that `worker` said on standard error is printed there.
    """
    asked = {
        "operators": [_for_metaschedule(task) for task in tasks],
        "target": {"kind": "llvm", "mcpu": target.spec.mcpu, "num-cores": 1},  # type: ignore[attr-defined]
        "cores": len(os.sched_getaffinity(0)),
        "seed": seed,
    }
    found, said = _run_worker(worker, json.dumps(asked), seconds)
    events = [json.loads(line) for line in found.splitlines() if line.startswith("[") and line.endswith("]")]
    if all(s is None for _, _, s in events):
        why = said.strip().splitlines() or [f"no candidate was timed within {seconds:g} s."]
        print(f"MetaSchedule measured nothing: {why[-1]}", file=sys.stderr)
    return [Event(float(t), int(k), s) for t, k, s in events if t <= seconds]


def _run_worker(worker: Path, asked: str, seconds: float) -> tuple[str, str]:
    """What the process writes until it ends, or `seconds` after it said that it is ready: output and errors."""
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryDirectory() as folder:
        given.write(asked)
        given.seek(0)
        output, errors = Path(folder, "output"), Path(folder, "errors")
        with output.open("w") as out, errors.open("w") as err:
            process = subprocess.Popen(
                [sys.executable, str(worker)],
                stdin=given,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env={**os.environ, "TVM_NUM_THREADS": "1"},
            )
        try:
            until = time.monotonic() + READY_WITHIN_S
            while process.poll() is None and time.monotonic() < until and not _is_ready(output):
                time.sleep(0.02)
            if _is_ready(output):
                process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        late = "" if _is_ready(output) else f"it was not ready within {READY_WITHIN_S} s."
        return output.read_text(), errors.read_text() or late


def _is_ready(output: Path) -> bool:
    return "ready" in output.read_text().split("\n")[:-1]


def _for_metaschedule(task: Task) -> dict[str, object]:
    op = task.op
    lhs, weight = (list(t.shape) for t in op.inputs)
    if op.kind == "matmul":
        shapes = [[s[k] for k in op.ints(perm)] for s, perm in ((lhs, "lhs_perm"), (weight, "rhs_perm"))]
        return {"kind": "matmul", "shapes": shapes, "calls": task.calls}
    out_channels, in_channels, height, width = weight
    return {
        "kind": "conv2d",
        "shapes": [lhs, [height, width, in_channels, out_channels]],
        "calls": task.calls,
        **{name: list(op.ints(name)) for name in ("strides", "padding", "dilation")},
    }


def with_common_times(curves: dict[str, list[list[Event]]]) -> dict[str, list[list[Event]]]:
    """The same events, each point with the median of the times that it has in all runs of all tuners."""
    times: dict[tuple[int, Point], list[float]] = {}
    for event in (e for runs in curves.values() for run in runs for e in run):
        if event.point is not None and event.seconds is not None:
            times.setdefault((event.place, event.point), []).append(event.seconds)
    common = {key: statistics.median(found) for key, found in times.items()}

    def as_common(event: Event) -> Event:
        if event.point is None or event.seconds is None:
            return event
        return event._replace(seconds=common[event.place, event.point])

    return {name: [[as_common(e) for e in run] for run in runs] for name, runs in curves.items()}


def total_at(events: Sequence[Event], calls: Sequence[int], moment: float) -> float:
    """Sum of the best times until `moment`, in seconds; NaN before every operator has one."""
    best = [math.nan] * len(calls)
    for event in events:
        if event.moment <= moment and event.seconds is not None and not best[event.place] <= event.seconds:
            best[event.place] = event.seconds
    return sum(c * b for c, b in zip(calls, best, strict=True))


def median_total(runs: Sequence[Sequence[Event]], calls: Sequence[int], moment: float) -> float:
    """The median over `runs`; NaN if any of them has no sum yet."""
    totals = [total_at(events, calls, moment) for events in runs]
    return math.nan if any(map(math.isnan, totals)) else statistics.median(totals)


def table(curves: dict[str, list[list[Event]]], calls: Sequence[int], seconds: float) -> str:
    """A row for each moment, in milliseconds, and how many candidates were measured in all."""
    lines = ["| seconds | " + " | ".join(curves) + " |", "|--:|" + "--:|" * len(curves)]
    for moment in [m for m in MOMENTS if m <= seconds]:
        row = [median_total(runs, calls, moment) for runs in curves.values()]
        lines.append(f"| {moment} | " + " | ".join("-" if math.isnan(x) else f"{1e3 * x:.2f}" for x in row) + " |")
    counts = [statistics.median(len(events) for events in runs) for runs in curves.values()]
    return "\n".join([*lines, "| measured | " + " | ".join(f"{n:.0f}" for n in counts) + " |"])


def plot(curves: dict[str, list[list[Event]]], calls: Sequence[int], seconds: float, path: Path) -> None:
    """The same as curves over time, on logarithmic axes, into `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    moments = [seconds ** (k / 300) for k in range(301)]
    draw: Callable[..., object] = axes.plot
    for name, runs in curves.items():
        draw(moments, [1e3 * median_total(runs, calls, m) for m in moments], label=name, drawstyle="steps-post")
    axes.set(xscale="log", yscale="log", xlabel="seconds of tuning", ylabel="sum of the best times, ms")
    axes.legend()
    axes.grid(True, which="both", alpha=0.3)
    figure.savefig(path, bbox_inches="tight")


if __name__ == "__main__":
    main()
