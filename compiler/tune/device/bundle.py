"""`kompilo tune --bundle DIR`: candidates for a GPU that is elsewhere, to be measured there without Kompilo and TVM.

A bundle holds what a candidate needs: its code object, its launches, tables that pack its weights, and the files of
Kompilo's that run, check and time it, which need numpy only. Operands are drawn and results computed where it is
measured, so nothing large travels.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...driver import check_precision
from ...errors import TargetError, UsageError
from ...schedule.op_words import distinct_words
from ...schedule.target import Target, find_target
from ...scratch import scratch_folder
from ...version import VERSION
from ..budget import budget_seconds
from ..cost_model import CostModel
from ..library import RecordLibrary
from ..measure.job import Job
from ..op_json import op_to_json
from ..reference import supported
from ..search import TaskSearch
from ..store import RecordStore
from ..task import extract_tasks
from ..tune import known_results, searches_for
from .build_pool import BuildPool
from .player import MANIFEST
from .player_worker import FILES

if TYPE_CHECKING:
    from ...driver import Model

# A bundle stays below this, so that it can be sent about.
MOST_BYTES = 58 * 10**6
# Candidates of an operator come in blocks, so that a run that is stopped early has some of each.
_BLOCK = 8
_PACKAGE = "kompilo_measure"
# Of the manifest, for the operator of a candidate and its config.
_MANIFEST_BYTES = 1000

# Files of Kompilo's that measure: the standard library and numpy are all that they import besides each other.
CARRIED = (
    "compiler/__init__.py", "compiler/errors.py", "compiler/tensor_spec.py", "compiler/device_code.py",
    "compiler/launches.py", "compiler/schedule/__init__.py", "compiler/schedule/masks.py",
    "compiler/schedule/op_spec.py", "compiler/schedule/template.py", "compiler/schedule/target_spec.py",
    "compiler/schedule/traits.py",
    "compiler/runtime/__init__.py", "compiler/runtime/cuda_driver.py", "compiler/runtime/hip_driver.py",
    "compiler/tune/__init__.py",
    "compiler/tune/bands.py", "compiler/tune/numbers.py", "compiler/tune/op_json.py", "compiler/tune/record.py",
    "compiler/tune/reference.py",
    "compiler/tune/measure/__init__.py", "compiler/tune/measure/memory.py", "compiler/tune/measure/operands.py",
    "compiler/tune/measure/pace.py", "compiler/tune/measure/timing.py", "compiler/tune/device/__init__.py",
    "compiler/tune/device/gather.py", "compiler/tune/device/parts.py", "compiler/tune/device/player.py",
    "compiler/tune/device/player_worker.py", "compiler/tune/device/runner.py",
)  # fmt: skip

_SCRIPT = '''"""Measures the candidates of this folder on a GPU: python3 measure.py [--help]."""

import sys
from pathlib import Path

if sys.version_info < (3, 10):
    sys.exit("measure.py: Python 3.10 or newer is needed, this is %d.%d." % sys.version_info[:2])
try:
    import numpy
except ImportError:
    sys.exit("measure.py: numpy is needed: pip install numpy")

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from kompilo_measure.compiler.tune.device.player import main

if __name__ == "__main__":
    sys.exit(main(HERE, sys.argv[1:]))
'''

_DRIVERS = {
    "cuda": {"maker": "NVIDIA", "driver": "NVIDIA's driver for CUDA 13.0 or newer"},
    "rocm": {"maker": "AMD", "driver": "AMD's driver with ROCm's HIP (libamdhip64.so)"},
}
_README = """Candidates of {model} for {arch}, to be measured on an {maker} GPU.

    python3 measure.py              measures all of them; results.jsonl grows line by line
    python3 measure.py --minutes 10 stops after so long; the same command goes on from there

Needed: Linux, Python 3.10 or newer, numpy, and {driver}. No toolkit, no Kompilo, no TVM.
Each candidate is checked against a float64 result that is computed here, then timed by the GPU's events.

Bring results.jsonl back to a machine with Kompilo:

    kompilo records import results.jsonl
"""


@dataclass(frozen=True)
class Bundle:
    """What was made: `operators` and their `candidates`, of which `failed` could not be built; why no more came in.

    `skipped` are operators whose sizes only a run tells, or that the reference does not know.
    """

    folder: Path
    target: str
    bytes: int
    operators: int
    candidates: int
    failed: int
    left_out: int
    stopped: str
    skipped: tuple[str, ...]
    reasons: tuple[str, ...]


def make_bundle(
    model: Model,
    target: str,
    folder: Path,
    budget: str | float | None = "5m",
    trials: int | None = None,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    records: Path | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    precision: str = "fp32",
) -> Bundle:
    """Build candidates for the operators of `model` into `folder`, which must be new or empty.

    Arguments are those of `kompilo.tune`; `budget` is the time for building. What records know already is left out.
    `progress` is called with candidates built, candidates planned, and seconds gone by.

    Raises:
        ModelError, InputError, TargetError, UsageError: one sentence on what was expected and found.
    """
    hardware = find_target(target)
    if not hardware.drives_device:
        raise TargetError(f"--bundle: expected a target for GPUs, cuda or rocm, found {target!r}.")
    check_precision(precision, {target: hardware})
    _check_folder(folder)
    began = time.monotonic()
    seconds = None if budget is None else budget_seconds(budget)
    until = None if seconds is None else began + seconds
    found = extract_tasks(model, hardware, inputs, precision)
    library = RecordLibrary.of([records] if records is not None and RecordStore(records).folder.exists() else None)
    unmeasurable = tuple(str(t.op) for t in found.tasks if not supported(t.op))
    found = replace(found, tasks=tuple(t for t in found.tasks if supported(t.op)))
    known = known_results(found, hardware, library)
    learner = (CostModel.pretrained(hardware) or CostModel(hardware)).with_records([r for own in known for r in own])
    searches = searches_for(found, hardware, library, known, learner)
    plan = list(_plan(searches, trials, seed))
    writer = build_into(folder, plan, target, str(model), until, workers, progress)
    stopped = "the bundle is full" if writer.full else "the time is up" if writer.count < len(plan) else ""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Bundle(
        folder, hardware.spec.key, size, len(searches), writer.count - writer.failed, writer.failed,
        sum(len(s.task.points) - len(s.results) for s in searches) - writer.count, stopped,
        (*found.unsized, *unmeasurable),
        tuple(sorted(writer.reasons)),
    )  # fmt: skip


def build_into(
    folder: Path,
    plan: Sequence[Job],
    target: str,
    title: str,
    until: float | None = None,
    workers: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Writer:
    """Build the candidates of `plan` and write the bundle; `title` says what they are of. UsageError without room."""
    began = time.monotonic()
    _make_folder(folder)
    with scratch_folder("bundle") as scratch, BuildPool(target, scratch, workers) as pool:
        writer = Writer(folder, scratch)
        for job, answer in pool.build((job for job in plan if not writer.full), until):
            writer.add(job, answer)
            if progress is not None:
                progress(writer.count, len(plan), time.monotonic() - began)
    writer.finish(title, target, find_target(target), plan)
    return writer


def _check_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--bundle: expected a new or empty folder, found {str(folder)!r}.")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--bundle: {str(folder)!r} cannot be made: {error.strerror or error}.") from None


def _plan(searches: Sequence[TaskSearch], trials: int | None, seed: int) -> Iterator[Job]:
    """The start of each operator; then, in blocks, those the model likes best and some unlike them."""
    rng = np.random.default_rng(seed)
    left = trials if trials is not None else sum(len(s.task.points) for s in searches)
    open_searches, most = list(searches), 1
    while open_searches and left > 0:
        share, most = max(1, min(most, left // len(open_searches))), _BLOCK
        for search in list(open_searches):
            for _ in range(share):
                point = search.pick(rng) if left > 0 else None
                if point is None:
                    if search in open_searches and not search.untried:
                        open_searches.remove(search)
                    break
                left -= 1
                yield Job(search.task.op, point)


class Writer:
    """Collects built candidates in the bundle's zip; `failed` counts those that could not be, for `reasons`."""

    def __init__(self, folder: Path, scratch: Path):
        self._folder, self._scratch = folder, scratch
        self._zip = zipfile.ZipFile(folder / FILES, "w", zipfile.ZIP_DEFLATED, compresslevel=9)
        self._built: dict[Job, dict[str, Any]] = {}
        self._names: set[str] = set()
        self._bytes = 0
        self.failed = 0
        self.reasons: set[str] = set()

    @property
    def count(self) -> int:
        """Candidates so far."""
        return len(self._built)

    @property
    def full(self) -> bool:
        """Whether there is no room for more."""
        return self._bytes > MOST_BYTES

    def add(self, job: Job, answer: dict[str, Any]) -> None:
        """Take over what was built of `job`, or why nothing was."""
        if "built" not in answer:
            self.failed += 1
            self.reasons.add(answer["reason"])
            self._built[job] = {"failed": {"status": answer["failed"], "reason": answer["reason"]}}
            return
        parts = answer["built"]
        files = [parts["code"], *parts["packed"].values()]
        fresh = [name for name in dict.fromkeys(files) if name not in self._names]
        if self.full:
            return
        for name in fresh:
            packed = name.endswith((".gather", ".array"))
            method = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
            self._zip.write(self._scratch / name, name, method, None if packed else 9)
            self._bytes += self._zip.getinfo(name).compress_size
            self._names.add(name)
        self._bytes += len(json.dumps(parts)) + _MANIFEST_BYTES
        self._built[job] = {"parts": parts}

    def finish(self, model: str, target: str, hardware: Target, plan: Sequence[Job]) -> None:
        """Write all else. Candidates are in the order of `plan`."""
        self._zip.close()
        spec: Any = hardware.spec
        ops = list(dict.fromkeys(job.op for job in plan))
        words = dict(zip(ops, distinct_words(ops), strict=True))
        manifest = {
            "format": "kompilo bundle",
            "version": 1,
            "model": model,
            "target": target,
            "kind": spec.kind,
            "arch": spec.arch,
            "kompilo": VERSION,
            "presets": _presets(target, hardware),
            "candidates": [_candidate(job, words[job.op], self._built[job]) for job in plan if job in self._built],
        }
        (self._folder / MANIFEST).write_text(json.dumps(manifest, separators=(",", ":")) + "\n")
        (self._folder / "measure.py").write_text(_SCRIPT)
        (self._folder / "README.txt").write_text(_README.format(model=model, arch=spec.arch, **_DRIVERS[spec.kind]))
        root = Path(__file__).resolve().parents[2]  # of the package compiler
        for name in CARRIED:
            place = self._folder / _PACKAGE / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((root.parent / name).read_bytes())
        (self._folder / _PACKAGE / "__init__.py").touch()


def _candidate(job: Job, words: str, built: dict[str, Any]) -> dict[str, Any]:
    return {
        "op": op_to_json(job.op),
        "words": words,
        "template": job.point.template,
        "version": job.point.version,
        "config": dict(job.point.config.knobs),
        "kompilo": VERSION,
        **built,
    }


def _presets(target: str, hardware: Target) -> list[dict[str, Any]]:
    """The GPUs known by name, by which records are filed."""
    kind = target.partition(":")[0]
    found = []
    for name in type(hardware).presets():
        spec: Any = find_target(f"{kind}:{name}").spec
        if spec.key.endswith(f"-{name}"):  # not one that an architecture stands for
            found.append({"name": name, "key": spec.key, "arch": spec.arch, "sms": spec.cores})
    return found
