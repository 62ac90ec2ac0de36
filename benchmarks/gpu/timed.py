"""The process that times: each operator in turns with another library, one that a kernel's fault costs nothing else."""

from __future__ import annotations

import json
import statistics
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rivals
from kompilo_measure.compiler.launches import DeviceProgram
from kompilo_measure.compiler.runtime.cuda_driver import Context
from kompilo_measure.compiler.runtime.hip_driver import driver_class
from kompilo_measure.compiler.schedule.op_spec import OpSpec
from kompilo_measure.compiler.tune.bands import truth
from kompilo_measure.compiler.tune.device.parts import pack, read_program
from kompilo_measure.compiler.tune.device.player import MANIFEST
from kompilo_measure.compiler.tune.device.runner import DeviceRun, RunFailure
from kompilo_measure.compiler.tune.measure.operands import random_operands
from kompilo_measure.compiler.tune.op_json import op_from_json

# Samples that find the fastest config.
TRIES = 5


class Bench:
    """The GPU with the files of the bundle at `here`."""

    def __init__(self, here: Path, device: int, rounds: int, sample_s: float):
        self._rounds, self._sample_s = rounds, sample_s
        self._files = zipfile.ZipFile(here / "candidates.zip")
        kind = json.loads((here / MANIFEST).read_text())["kind"]
        driver = driver_class(kind)()
        self._l2, self.context = driver.l2_bytes(device), driver.context(device)
        self.rivals = rivals.find(self.context, kind, device, sample_s)

    def operator(self, case: dict[str, Any]) -> dict[str, Any]:
        """Times of an operator: with its default config, with the fastest right one, and of the rivals."""
        op = op_from_json(case["op"])
        arrays = random_operands(op, 0)
        expected = truth(op, arrays)
        found: list[tuple[float, dict[str, Any]]] = []
        problems = []
        for candidate in case["candidates"]:
            words = f"{candidate['template']}({candidate['config']})"
            if "failed" in candidate:
                problems.append(f"{words}: {candidate['failed']['reason']}")
                continue
            try:
                with self._run(op, candidate["parts"], arrays) as run:
                    run.check(expected)
                    once = sampler(run, self._sample_s)
                    tries = min(TRIES, self._rounds)
                    found.append((statistics.median(once() for _ in range(tries)), candidate))
            except RunFailure as failure:
                problems.append(f"{words}: {failure}")
                if failure.lost:
                    raise
        answer: dict[str, Any] = {"problems": problems, "tried": len(case["candidates"]), "right": len(found)}
        if not found:
            return answer
        best = min(found, key=lambda f: f[0])[1]
        first = found[0][0] if found[0][1] is case["candidates"][0] else None
        with self._run(op, best["parts"], arrays) as run:
            theirs = {name: make(op, arrays) for name, make in self.rivals.items() if op.kind in rivals.KINDS[name]}
            times = in_turns({"ours": sampler(run, self._sample_s), **theirs}, self._rounds)
        return {**answer, "default": first, "config": f"{best['template']}({best['config']})", "seconds": times}

    def memory(self, case: dict[str, Any]) -> dict[str, Any]:
        """Times of an operator that memory limits, beside a copy within the GPU of as many bytes."""
        if "problem" in case:
            return {"problems": [case["problem"]]}
        generator = np.random.default_rng(0)
        arrays = [generator.standard_normal(shape, np.float32).astype(dtype) for shape, dtype in case["inputs"]]
        shape, dtype = case["output"]
        moved = sum(a.nbytes for a in arrays) + int(np.prod(shape)) * np.dtype(dtype).itemsize
        context, half = self.context, moved // 2
        program = read_program(case["parts"], self._read)
        with DeviceRun(context, program, arrays, (tuple(shape), dtype), [], self._l2) as run:
            error = _far_off(case["name"], arrays, run.result())
            spaces = [context.allocate(half) for _ in range(2)]
            copy = clocked(context, lambda: context.copy(spaces[1], spaces[0], half), self._sample_s)
            times = in_turns({"ours": sampler(run, self._sample_s), "copy": copy}, self._rounds)
            for space in spaces:
                context.free(space)
        problems = [] if error <= 1e-2 else [f"wrong by {error:.1e}"]  # NaN is wrong too
        return {"seconds": times, "bytes": moved, "rule": case["rule"], "problems": problems}

    def _run(self, op: OpSpec, parts: dict[str, Any], arrays: Sequence[np.ndarray]) -> DeviceRun:
        program: DeviceProgram = read_program(parts, self._read)
        packed = [pack(parts, k, array, self._read) for k, array in enumerate(arrays)]
        output = tuple(int(d) for d in op.output.shape), op.output.dtype
        return DeviceRun(self.context, program, packed, output, [], self._l2)

    def _read(self, name: str) -> bytes:
        return self._files.read(name)


def serve(here: Path, device: int, first: int, rounds: int, sample_s: float, say: Callable[[str], None]) -> None:
    """Answer a line of JSON for each case of the bundle from number `first` on."""
    facts = json.loads((here / "gpu_check.json").read_text())
    bench = Bench(here, device, rounds, sample_s)
    cases = [(bench.operator, c) for c in facts["timed"]] + [(bench.memory, c) for c in facts["memory"]]
    for number, (measure, case) in list(enumerate(cases))[first:]:
        say(json.dumps({"number": number, "name": case["name"], **measure(case)}))


def in_turns(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Medians of what the calls return, each called in turn: what disturbs one disturbs all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(call())
    return {name: statistics.median(own) for name, own in times.items()}


def sampler(run: DeviceRun, sample_s: float) -> Callable[[], float]:
    """A function that returns the seconds of one execution, the mean of as many as make a sample."""
    run.sample(1)
    repeat = max(1, min(200, int(sample_s / run.sample(1))))
    return lambda: run.sample(repeat)


def clocked(context: Context, work: Callable[[], None], sample_s: float) -> Callable[[], float]:
    """A function that does `work` several times in the context's stream and returns the seconds of one."""
    start, end = context.event(), context.event()

    def once(repeat: int) -> float:
        context.mark(start)
        for _ in range(repeat):
            work()
        context.mark(end)
        context.synchronize()
        return max(context.seconds(start, end), 1e-7) / repeat

    repeat = max(1, min(200, int(sample_s / once(2))))
    return lambda: once(repeat)


def _far_off(name: str, arrays: Sequence[np.ndarray], found: np.ndarray) -> float:
    """The largest difference from numpy relative to the largest value, of the first rows or columns."""
    x, *more = (a[:64].astype(np.float64) for a in arrays)

    def softmax() -> np.ndarray:
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    results: dict[str, Callable[[], np.ndarray]] = {
        "ReLU": lambda: np.maximum(x, 0),
        "add": lambda: x + more[0],
        "softmax": softmax,
        "row sums": lambda: x.sum(-1),
        "transpose": lambda: x.T,
    }
    wanted = results[name]()
    part = found[:, :64] if name == "transpose" else found[:64]
    return float(np.abs(part - wanted).max() / np.abs(wanted).max())
