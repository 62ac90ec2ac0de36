"""Broken models, each imported by a worker process within limits: all have to be taken, or refused in one sentence.

python tests/fuzz/run_fuzz.py                          1000 models
python tests/fuzz/run_fuzz.py --count 20000 --first 0  those that docs/conformance.md speaks of
python tests/fuzz/run_fuzz.py --first 4711 --count 1 --keep DIR   one again; the models of findings go to DIR
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "onnx")]

from mutations import mutated  # noqa: E402
from random_models import random_model  # noqa: E402
from suite_cases import all_cases  # noqa: E402

TIME_LIMIT_S = 20.0
# Of one worker, which has imported TVM (0.4 GiB) and takes one model after the other.
MEMORY_LIMIT = 2 * 2**30
# What a worker may map: TVM's libraries and what Python and LLVM reserve are most of it.
ADDRESS_LIMIT = 8 * 2**30
LARGEST_SEED = 20_000
TAKEN, REFUSED = "taken", "refused"
# How a refusal reads that only passes on what some exception said of the compiler's own code.
WRAPPED = re.compile(r": \w*(?:Error|Exception|StopIteration): ")


@dataclass(frozen=True)
class Finding:
    """What became of a model: `state` is taken, refused, or what must not be."""

    index: int
    state: str
    detail: str
    model: bytes


@cache
def seeds() -> list[bytes]:
    """Small models: the cases of ONNX's suite, and random networks."""
    cases = [case.model for _, case in sorted(all_cases().items()) if len(case.model) <= LARGEST_SEED]
    networks = [random_model(seed).model.SerializeToString() for seed in range(40)]
    return cases + [model for model in networks if len(model) <= 4 * LARGEST_SEED]


def broken_model(index: int) -> bytes:
    """The model of this number; the same for each version of ONNX's suite."""
    rng = random.Random(index)
    return mutated(rng.choice(seeds()), rng)


def serve(connection: Connection) -> None:
    """Say that this process has started, then answer models with (state, detail) until the other end closes."""
    from kompilo.compiler.frontend.host_import import import_program

    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_LIMIT, ADDRESS_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send("ready")
    with tempfile.TemporaryDirectory(prefix="kompilo-fuzz-") as folder:
        path = Path(folder) / "model.onnx"
        (path.parent / "weights.bin").write_bytes(bytes(range(256)))
        while True:
            try:
                model = connection.recv()
            except EOFError:
                return
            path.write_bytes(model)
            connection.send(check(lambda: import_program(path)))


def check(run: Callable[[], object]) -> tuple[str, str]:
    """What came of an import: that it went through, its refusal, or what must not be."""
    from kompilo.compiler.errors import ModelError

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        run()
        state, detail = TAKEN, ""
    except ModelError as error:
        state, detail = REFUSED, error.message
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return "another exception", f"{type(error).__name__} ({where}): {str(error)[:200]}"
    if "MemoryError" in detail or "RecursionError" in detail:
        return "beyond its limits", detail[:300]
    if state == REFUSED and (not detail.endswith(".") or "\n" in detail or "\0" in detail):
        return "no sentence", detail[:300]
    if state == REFUSED and WRAPPED.search(detail):
        return "wrapped", detail[:300]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if after * 1024 > MEMORY_LIMIT and after > before:
        return "beyond its limits", f"{after / 2**20:.2f} GiB of memory, {before / 2**20:.2f} before"
    return state, detail


class Worker:
    """A process that imports models; one that dies or hangs is replaced."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other,), daemon=True)
        self._process.start()
        other.close()
        self._connection.recv()

    def check(self, model: bytes) -> tuple[str, str]:
        """The state of the model, and details. A process that is ended so takes no more models."""
        try:
            self._connection.send(model)
            if self._connection.poll(TIME_LIMIT_S):
                return self._connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            return "crash", f"the process ended with code {self._process.exitcode}"
        return "hang", f"nothing came within {TIME_LIMIT_S:g} s"

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.join()


def findings(numbers: Iterable[int]) -> Iterator[Finding]:
    """Each broken model with what became of it."""
    worker = Worker()
    try:
        for index in numbers:
            model = broken_model(index)
            state, detail = worker.check(model)
            if state not in (TAKEN, REFUSED):
                worker.close()
                worker = Worker()
            yield Finding(index, state, detail, model)
    finally:
        worker.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="how many models")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--keep", type=Path, help="a folder for the models of findings")
    parser.add_argument("--verbose", action="store_true", help="a line for each refusal as well")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    started = time.monotonic()
    for found in findings(range(options.first, options.first + options.count)):
        counts[found.state] += 1
        if options.verbose or found.state not in (TAKEN, REFUSED):
            print(f"{found.index}: {found.state}: {found.detail}", flush=True)
        if options.keep and found.state not in (TAKEN, REFUSED):
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"{found.index}.onnx").write_bytes(found.model)
        if time.monotonic() - started > options.seconds:
            break
    seconds = time.monotonic() - started
    print(
        f"{options.first} to {found.index}: "
        + ", ".join(f"{n} {s}" for s, n in counts.items())
        + f" in {seconds:.0f} s"
    )
    return int(any(state not in (TAKEN, REFUSED) for state in counts))


if __name__ == "__main__":
    sys.exit(main())
