"""Several devices at once, measured: what pipelines of unequal cores reach, what the dispatcher costs, and faults.

    python benchmarks/executor.py throughput [--models resnet50,inception_v2,minilm_l3,ppocr_rec] [--seconds 5]
    python benchmarks/executor.py latency    [--models inception_v1,inception_v2,...] [--pieces 24]
    python benchmarks/executor.py overhead
    python benchmarks/executor.py priority   [--model resnet50] [--seconds 30]
    python benchmarks/executor.py faults     [--model squeezenet] [--requests 10000] [--threads 16]

Core 0 runs code for this machine and core 1 plain x86-64-v2 code, but for `latency`, where both run the former. Every
figure is of this machine while it does nothing else. --json FILE writes the figures; artifacts are kept in --folder.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from timeit import Timer
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

import kompilo
from kompilo.compiler.cli.console import json_text
from kompilo.compiler.errors import DeadlineError, DeviceError
from kompilo.compiler.predict.measured import measured_plan
from kompilo.compiler.runtime.executor.measure import throughput
from kompilo.compiler.runtime.links import shared_memory_link
from kompilo.compiler.runtime.machine import memory_bytes
from kompilo.models import zoo

FAST, SLOW = "cpu", "cpu:x86-64-v2"
UNEQUAL = (f"cpu:0={FAST}", f"cpu:1={SLOW}")
EQUAL = (f"cpu:0={FAST}", f"cpu:1={FAST}")
ROUNDS = 3


def main() -> None:
    """Measure what the command line names."""
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    found = VERBS[options.verb](options)
    if options.json:
        options.json.write_text(json_text(found) + "\n")


def measure_throughput(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Planned pipelines of two unequal cores against the sum of both alone, each with the whole model in one piece."""
    print("| model | core 0 alone, 1/s | core 1 alone, 1/s | planned, 1/s | of the sum | predicted, 1/s | off |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    rows = []
    for name in (options.models or "resnet50,inception_v2,minilm_l3,ppocr_rec").split(","):
        whole, cut = (_artifact(name, options.folder, pieces) for pieces in (None, options.pieces or 4))
        inputs = zoo.find(name).sample_inputs()
        plan = measured_plan(cut, UNEQUAL, inputs, shared_memory_link(), "throughput", memory_bytes(), options.seconds)
        rounds = [_one_round(whole, cut, plan.placement, inputs, options.seconds) for _ in range(ROUNDS)]
        first, second, both = sorted(rounds, key=lambda r: r[2] / (r[0] + r[1]))[ROUNDS // 2]
        off = plan.predicted / plan.measured - 1
        rows.append({"model": name, "rounds": rounds, "predicted": plan.predicted, "measured": plan.measured})
        share = both / (first + second)
        print(f"| {name} | {first:.4g} | {second:.4g} | {both:.4g} | {share:.1%} | {plan.predicted:.4g} | {off:+.1%} |")
    return rows


def _one_round(
    whole: Path, cut: Path, placement: Any, inputs: Mapping[str, np.ndarray], seconds: float
) -> tuple[float, float, float]:
    """Requests per second of each device alone, called directly, and of the pipeline."""
    alone = [1 / _median_call(kompilo.load(whole, device=device), inputs, seconds) for device in UNEQUAL]
    with kompilo.Pipeline(cut, plan=placement) as pipeline:
        pipeline.wait_ready(120)
        return alone[0], alone[1], throughput(pipeline, inputs, seconds)


def _median_call(model: Any, inputs: Mapping[str, np.ndarray], seconds: float) -> float:
    """The median seconds of calls, one after the other; the mean is what counts for throughput, but not of a busy
    machine's outliers."""
    values = [inputs[spec.name] for spec in model.inputs]
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < until:
        start = time.perf_counter()
        model(*values)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_latency(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Plans for one request on two equal cores, against the best core alone with the whole model in one piece."""
    print("| model | best core alone, ms | planned, ms | factor | predicted, ms | off | stages |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    rows = []
    for name in options.models.split(",") if options.models else zoo.names():
        whole, cut = (_artifact(name, options.folder, pieces) for pieces in (None, options.pieces or 24))
        inputs = zoo.find(name).sample_inputs()
        plan = measured_plan(cut, EQUAL, inputs, shared_memory_link(), "latency", memory_bytes(), options.seconds)
        alone = min(_median_call(kompilo.load(whole, device=device), inputs, options.seconds) for device in EQUAL)
        factor, off = alone / plan.figure, plan.predicted / plan.measured - 1
        stages = len(plan.placement.routes[0].stages)
        rows.append({"model": name, "alone": alone, "planned": plan.figure, "predicted": plan.predicted, "off": off})
        cells = f"{alone * 1e3:.4g} | {plan.figure * 1e3:.4g} | {factor:.2f} | {plan.predicted * 1e3:.4g} | {off:+.1%}"
        print(f"| {name} | {cells} | {stages} |")
    return rows


def measure_overhead(options: argparse.Namespace) -> dict[str, float]:
    """Microseconds of a call of two operators: loaded plainly, on a core, and by a pipeline of one device.

    From a thread that may run anywhere, and from one that is bound to the core.
    """
    path = options.folder / "tiny.kpo"
    kompilo.compile(_tiny_model()).save(path)
    x = np.ones((4, 8), np.float32)
    plain, pinned = kompilo.load(path, threads=1), kompilo.load(path, device="cpu:0")
    with kompilo.Pipeline(path, "cpu:0") as pipeline:
        calls = {"plain": plain, "on a core": pinned, "pipeline of one device": pipeline}
        free = _best_of(calls, x)
        os.sched_setaffinity(0, {0})
        bound = {f"{name}, thread bound": microseconds for name, microseconds in _best_of(calls, x).items()}
    for found in (free, bound):
        plainly = next(iter(found.values()))
        for name, microseconds in found.items():
            print(f"{name}: {microseconds:.2f} us, {microseconds - plainly:+.2f}")
    return free | bound


def _best_of(calls: Mapping[str, Any], x: np.ndarray) -> dict[str, float]:
    """The least microseconds of each of `calls`, which take turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(50):
        for name, call in calls.items():
            best[name] = min(best[name], Timer(lambda call=call: call(x)).timeit(2000) / 2000 * 1e6)
    return best


def _tiny_model() -> bytes:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Add", ["r", "x"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 8]) for name in "xy"]
    graph = helper.make_graph(nodes, "tiny", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def measure_priority(options: argparse.Namespace) -> dict[str, Any]:
    """Latencies of interactive requests, ten a second, without other work and while batches saturate both devices."""
    name = options.model or "resnet50"
    inputs = zoo.find(name).sample_inputs()
    results = {}
    with kompilo.Pipeline(_artifact(name, options.folder, options.pieces or 8), EQUAL) as pipeline:
        pipeline.wait_ready(120)
        values = [inputs[spec.name] for spec in pipeline.inputs]
        results["unloaded"] = _interactive(pipeline, values, options.seconds)
        stop = threading.Event()
        load = threading.Thread(target=_saturate, args=(pipeline, values, stop))
        load.start()
        results["loaded"] = _interactive(pipeline, values, options.seconds)
        stop.set()
        load.join()
    for kind, times in results.items():
        p50, p99 = (np.percentile(times, q) * 1e3 for q in (50, 99))
        print(f"{name}, {kind}: {len(times)} requests, median {p50:.4g} ms, p99 {p99:.4g} ms")
    print(f"p99 loaded / unloaded: {np.percentile(results['loaded'], 99) / np.percentile(results['unloaded'], 99):.2f}")
    return results


def _interactive(pipeline: kompilo.Pipeline, values: Sequence[np.ndarray], seconds: float) -> list[float]:
    times = []
    until = time.perf_counter() + seconds
    rng = random.Random(0)
    while time.perf_counter() < until:
        start = time.perf_counter()
        pipeline.submit(*values, priority="interactive").result()
        times.append(time.perf_counter() - start)
        time.sleep(rng.uniform(0.02, 0.18))
    return times


def _saturate(pipeline: kompilo.Pipeline, values: Sequence[np.ndarray], stop: threading.Event) -> None:
    while not stop.is_set():
        pipeline.submit(*values, priority="batch")


def measure_faults(options: argparse.Namespace) -> dict[str, Any]:
    """Requests from many threads while workers are killed, hang, run out of memory and slow down, at random."""
    name = options.model or "squeezenet"
    path = _artifact(name, options.folder, options.pieces or 4)
    zoo_model = zoo.find(name)
    samples = [zoo_model.sample_inputs(seed=k) for k in range(8)]
    expected = [list(kompilo.load(path, device="cpu", threads=1).run(sample).values()) for sample in samples]
    counts: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    numbers = iter(range(options.requests))
    lock, stop = threading.Lock(), threading.Event()
    start = time.perf_counter()
    with kompilo.Pipeline(path, EQUAL, patience=1.0) as pipeline:
        pipeline.wait_ready(120)

        def ask() -> None:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                outcome = _ask(pipeline, samples[number % 8], expected[number % 8])
                with lock:
                    counts[outcome] += 1

        threads = [threading.Thread(target=ask) for _ in range(options.threads)]
        villain = threading.Thread(target=_harm, args=(pipeline, stop, faults))
        for thread in (*threads, villain):
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        villain.join()
        told = pipeline.statistics()["requests"]
    seconds = time.perf_counter() - start
    print(f"{options.requests} requests of {name} from {options.threads} threads in {seconds:.0f} s: {dict(counts)}")
    print(f"faults: {dict(faults)}; stages done again: {told['repeated']}")
    return {"outcomes": counts, "faults": faults, "statistics": told, "seconds": seconds}


def _ask(pipeline: kompilo.Pipeline, sample: Mapping[str, np.ndarray], expected: Sequence[np.ndarray]) -> str:
    try:
        result = pipeline.submit(**sample, deadline=30.0).result(timeout=60.0)
    except (DeadlineError, DeviceError) as error:
        return type(error).__name__
    except TimeoutError:
        return "NOT ANSWERED"
    results = result if isinstance(result, tuple) else (result,)
    close = all(np.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(results, expected, strict=True))
    return "answered rightly" if close else "ANSWERED WRONGLY"


def _harm(pipeline: kompilo.Pipeline, stop: threading.Event, faults: Counter[str]) -> None:
    rng = random.Random(0)
    while not stop.wait(rng.uniform(0.2, 1.5)):
        pid = rng.choice(list(pipeline.workers.values()))
        kind = rng.choice(list(FAULTS))
        if pid is not None:
            faults[kind] += 1
            with suppress(ProcessLookupError, PermissionError):
                FAULTS[kind](pid)


def _hang(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(2.0)
    os.kill(pid, signal.SIGCONT)


def _slow(pid: int) -> None:
    """Ten times slower for a second: it runs a tenth of the time."""
    for _ in range(50):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.018)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.002)


def _starve(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_AS, (1 << 20, 1 << 20))


FAULTS: dict[str, Callable[[int], None]] = {
    "killed": lambda pid: os.kill(pid, signal.SIGKILL),
    "hanging": _hang,
    "slow": _slow,
    "out of memory": _starve,
}


def _artifact(name: str, folder: Path, pieces: int | None) -> Path:
    """The artifact of a zoo model at its sample shapes, for both targets; compiled at the first need."""
    path = folder / f"{name}-{pieces or 'whole'}.kpo"
    if not path.exists():
        shapes = {i.name: i.sample_shape for i in zoo.find(name).inputs}
        kompilo.compile(f"zoo:{name}", target=[FAST, SLOW], inputs=shapes, pieces=pieces).save(path)
    return path


VERBS = {
    "throughput": measure_throughput,
    "latency": measure_latency,
    "overhead": measure_overhead,
    "priority": measure_priority,
    "faults": measure_faults,
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("--models", help="names of the zoo, with commas")
    parser.add_argument("--model", help="a name of the zoo")
    parser.add_argument("--pieces", type=int, help="pieces that models are cut into")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "kompilo-executor")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
