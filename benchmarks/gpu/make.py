"""Builds the folder that checks and times Kompilo's kernels on a GPU, which need not be of this machine."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bandwidth
import rules
from cases import check_cases, integer_operators, timed_cases

from kompilo.compiler.errors import KompiloError
from kompilo.compiler.schedule.flops import flops
from kompilo.compiler.schedule.selection import matches
from kompilo.compiler.schedule.target import Target, find_target
from kompilo.compiler.tune.device.bundle import build_into
from kompilo.compiler.tune.device.player import MANIFEST
from kompilo.compiler.tune.device.player_worker import FILES
from kompilo.compiler.tune.measure.job import Job
from kompilo.compiler.tune.op_json import op_to_json
from kompilo.compiler.tune.record import Point
from kompilo.compiler.tune.reference import supported
from kompilo.compiler.tune.task import extract_tasks

HERE = Path(__file__).resolve().parent
# What is carried besides the files that measure.
CARRIED = ("play.py", "checked.py", "timed.py", "rivals.py", "models.py")
FACTS = "gpu_check.json"
# Configs of each template: of what is checked, spread over its space; of what is timed, its first.
CHECKED, TIMED = 3, 6
# Of how many cases a small folder has one.
SMALL_STEP = 9
# Sizes of what memory limits: rows and columns of float16; of tiny ones, for trying the benchmark out.
_MEMORY, _SMALL_MEMORY = (16384, 8192), (24, 64)

Say = Callable[[str], None]


def make(folder: Path, target: str, small: bool = False, workers: int | None = None, say: Say = print) -> None:
    """Write the folder; KompiloError where it cannot be. `small`: few cases of tiny sizes, for tests."""
    hardware = find_target(target)
    cases = [c for c in check_cases() if c.precision in hardware.precisions]
    checked = list(_checked(cases[::19] if small else cases, hardware, 1 if small else CHECKED, say))
    timed = {c.name: _timed(c.model(), hardware, 1 if small else TIMED) for c in timed_cases(small)}
    for name in [name for name, jobs in timed.items() if not jobs]:
        say(f"{name}: no template makes it as one kernel, it is not timed")
    jobs = list(dict.fromkeys([*checked, *(job for own in timed.values() for job in own)]))
    reached = {job.point.template for job in jobs}
    say(f"{len(jobs)} candidates of {len(reached)} templates: {', '.join(sorted(reached))}")
    began = time.monotonic()

    def progress(built: int, planned: int, seconds: float) -> None:
        if built % 25 == 0 or built == planned:
            say(f"{built} of {planned} built in {time.monotonic() - began:.0f} s")

    writer = build_into(folder, jobs, target, "Kompilo's templates", workers=workers, progress=progress)
    for reason in sorted(writer.reasons):
        say(f"not built: {reason}")
    memory = list(_memory(folder, hardware, _SMALL_MEMORY if small else _MEMORY))
    ruled = list(rules.write(folder, hardware, rules.rule_cases()[:: SMALL_STEP if small else 1]))
    for facts in ruled:
        if "problem" in facts:
            say(f"{facts['name']}: {facts['problem']}")
    others = {"memory": memory, "rules": ruled}
    _divide(folder, {name: own for name, own in timed.items() if own}, set(checked), others)
    for name in CARRIED:
        shutil.copy(HERE / name, folder / name)


def _checked(cases: list[Any], hardware: Target, count: int, say: Say) -> Iterator[Job]:
    """Of each operator and each template that makes it: the default, and configs spread over its space."""
    operators = [] if count == 1 else integer_operators()
    for case in cases:
        try:
            operators += [t.op for t in extract_tasks(case.model(), hardware, None, case.precision).tasks]
        except KompiloError as error:
            say(f"{case.name}: {error}")
    for op in dict.fromkeys(operators):
        if not supported(op):
            say(f"not checked, as the reference does not know it: {op}")
            continue
        for template, space in matches(op, hardware):
            configs = list(space)
            step = max(1, len(configs) // count)
            for config in configs[::step][:count]:
                yield Job(op, Point(template.name, template.version, config))


def _timed(model: bytes, hardware: Target, count: int) -> list[Job]:
    """What each template would try first; the very first is what a compilation takes. None if it is several kernels."""
    tasks = extract_tasks(model, hardware).tasks
    if len(tasks) != 1:
        return []
    op = tasks[0].op
    return [
        Job(op, Point(template.name, template.version, config))
        for template, space in matches(op, hardware)
        for config in list(space)[:count]
    ]


def _memory(folder: Path, hardware: Target, sizes: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """What memory limits, built here, its files added to the bundle's."""
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(folder / FILES, "a") as files:
        for case in bandwidth.cases(*sizes):
            name = case.name
            try:
                rule, parts, _ = bandwidth.kernels_of(case, hardware, files, Path(scratch))
            except KompiloError as error:
                yield {"name": name, "problem": str(error)}
                continue
            inputs = [[list(shape), dtype] for dtype, shape in case.inputs.values()]
            rows, columns = sizes
            shape = {"row sums": [rows], "transpose": [columns, rows]}.get(name, [rows, columns])
            output = [shape, case.output[0]]
            yield {"name": name, "rule": rule, "parts": parts, "inputs": inputs, "output": output}


def _divide(
    folder: Path, timed: dict[str, list[Job]], checked: set[Job], others: dict[str, list[dict[str, Any]]]
) -> None:
    """What is checked stays in the manifest, what is timed goes to a file of its own."""
    manifest = json.loads((folder / MANIFEST).read_text())
    built = {_identity(c): c for c in manifest["candidates"]}
    facts = {
        "kompilo": manifest["kompilo"],
        "timed": [
            {
                "name": name,
                "op": op_to_json(jobs[0].op),
                "flops": flops(jobs[0].op),
                "candidates": [built[_identity(_named(job))] for job in jobs if _identity(_named(job)) in built],
            }
            for name, jobs in timed.items()
        ],
        **others,
    }
    stays = {_identity(_named(job)) for job in checked}
    manifest["candidates"] = [c for c in manifest["candidates"] if _identity(c) in stays]
    (folder / MANIFEST).write_text(json.dumps(manifest, separators=(",", ":")) + "\n")
    (folder / FACTS).write_text(json.dumps(facts, separators=(",", ":")) + "\n")


def _named(job: Job) -> dict[str, Any]:
    config = dict(job.point.config.knobs)
    return {"op": op_to_json(job.op), "template": job.point.template, "config": config}


def _identity(candidate: dict[str, Any]) -> str:
    return json.dumps([candidate[name] for name in ("op", "template", "config")], sort_keys=True)
