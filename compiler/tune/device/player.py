"""Measures the candidates of a bundle on the GPU of a machine that has neither Kompilo nor TVM.

`python3 measure.py` in a bundle's folder runs this. Python 3.10 and numpy are needed, and NVIDIA's driver; no toolkit.
Candidates run in a worker process, which one that crashes or hangs takes with it. Results are records, a line of JSON
each, written as they come: a run that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ...device_code import gpu_words, runs_on
from ...runtime.cuda_driver import NO_DEVICE, CudaError
from ...runtime.hip_driver import driver_class
from ..op_json import op_from_json
from ..record import Measurement, Point, Record
from .runner import UNLOADABLE

MANIFEST = "bundle.json"
WORKER = "--worker"
RESULTS = "results.jsonl"
_EXIT_UNUSABLE = 2
_START_S = 120.0
# A worker that has used its time is given this long per candidate; reference results of large operators take a while.
_TIMEOUT_S = 60.0


def main(bundle: Path, arguments: list[str]) -> int:
    """The program: measures what `arguments` ask for, and returns its exit status."""
    if arguments[:1] == [WORKER]:
        from .player_worker import serve

        serve(bundle, int(arguments[1]))
        return 0
    options = _options(bundle, arguments)
    manifest = json.loads((bundle / MANIFEST).read_text())
    gpu = find_gpu(manifest, options.device)
    print(f"{gpu['name']} ({gpu['key']}), driver for {gpu['driver']}: {len(manifest['candidates'])} candidates")
    done = _done(options.results)
    until = time.monotonic() + options.minutes * 60
    play = _Play(bundle, manifest, gpu, options)
    try:
        for number, candidate in enumerate(manifest["candidates"]):
            if _identity(candidate) in done:
                continue
            if time.monotonic() > until:
                print(f"the time is up; the same command goes on from here ({number} done)")
                break
            play.measure(number, candidate)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here")
    finally:
        play.close()
    play.summary()
    print(f"results: {options.results}\nto use them: kompilo records import {options.results.name}")
    return 0


def _options(bundle: Path, arguments: list[str]) -> Any:
    parser = argparse.ArgumentParser("measure.py", description="Measure these candidates on this machine's GPU.")
    parser.add_argument("--results", type=Path, default=bundle / RESULTS, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="number of the GPU (default 0)")
    parser.add_argument("--minutes", type=float, default=1e6, metavar="M", help="stop after so long (default: never)")
    parser.add_argument("--timeout", type=float, default=_TIMEOUT_S, metavar="S", help="seconds for a candidate")
    return parser.parse_args(arguments)


def find_gpu(manifest: dict[str, Any], number: int) -> dict[str, Any]:
    """Name, key and driver of GPU `number`; ends the program with a sentence if it cannot measure the bundle."""
    kind = manifest["kind"]
    drivers = driver_class(kind)
    maker = drivers.maker
    try:
        driver = drivers()
        if number >= driver.devices:
            _refuse(f"this machine has {driver.devices} {maker} GPUs, and none of number {number}.")
        name, version, sms = driver.name(number), driver.capability(number), driver.sms(number)
        made_for = driver.interface
    except OSError:
        _refuse(f"this machine has no {maker} driver ({drivers.library_name}).")
    except CudaError as error:
        _refuse(
            f"this machine has no {maker} GPU." if error.code == NO_DEVICE else f"the driver does not work: {error}."
        )
    if not runs_on(manifest["arch"], version):
        found = f"this machine's GPU ({name}) has the version {version}"
        _refuse(f"this bundle is for {manifest['arch']}, but {found}.")
    words = gpu_words(name)
    arch = version.partition(":")[0]
    key = f"cuda-{'-'.join(words)}" if kind == "cuda" else f"{kind}-{arch}-{sms}cu"
    for preset in manifest["presets"]:
        named = preset["name"] in words or kind != "cuda"  # AMD's names of products say less than their architecture
        if named and preset["sms"] == sms and runs_on(preset["arch"], version):
            key = preset["key"]
    return {"name": name, "key": key, "driver": made_for}


def _refuse(sentence: str) -> NoReturn:
    print(f"measure.py: {sentence}", file=sys.stderr)
    sys.exit(_EXIT_UNUSABLE)


def _done(results: Path) -> set[str]:
    """What is in the results already; a line that was cut off is ended, so that the next one is whole."""
    if not results.exists():
        return set()
    text = results.read_text()
    if text and not text.endswith("\n"):
        results.write_text(text + "\n")
    done = set()
    for line in text.splitlines():
        try:
            done.add(_identity(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            continue
    return done


def _identity(candidate: dict[str, Any]) -> str:
    return json.dumps([candidate[field] for field in ("op", "template", "version", "config")], sort_keys=True)


class _Play:
    """One run over the candidates, with the worker that has the GPU."""

    def __init__(self, bundle: Path, manifest: dict[str, Any], gpu: dict[str, Any], options: Any):
        self._bundle, self._manifest, self._gpu, self._options = bundle, manifest, gpu, options
        self._worker: subprocess.Popen[bytes] | None = None
        self._used = 0
        self._rest = b""
        self._best: dict[str, tuple[float, float, int, int]] = {}

    def measure(self, number: int, candidate: dict[str, Any]) -> None:
        """Measure a candidate and write its record."""
        answer = candidate.get("failed")
        if answer is None:
            answer = self._ask(number)
            if answer["status"] == "crashed" and self._used > 1:  # another candidate may have caused it
                answer = self._ask(number)
        if answer["status"] == UNLOADABLE:
            _refuse(f"the driver, for {self._gpu['driver']}, does not take this bundle's code: {answer['reason']}")
        usage = candidate.get("parts", {}).get("usage")
        measurement = Measurement.from_json({**_UNMEASURED, "usage": usage, **answer})
        point = Point.from_json(candidate)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        record = Record(op_from_json(candidate["op"]), self._gpu["key"], point, measurement, now, candidate["kompilo"])
        with self._options.results.open("a") as file:
            file.write(record.to_line() + "\n")
        self._tell(number, candidate, measurement)

    def summary(self) -> None:
        """The best time of each operator against that of its first candidate, which is Kompilo's own choice."""
        for words, (first, best, good, failed) in self._best.items():
            if good:
                print(f"{best * 1e6:10.1f} us  {first / best:5.2f}x  {good} right, {failed} failed  {words}")
            else:
                print(f"{'-':>10}     {'':5}   none right, {failed} failed  {words}")

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._worker.pid, signal.SIGKILL)
            self._worker.wait()
            for pipe in (self._worker.stdin, self._worker.stdout):
                assert pipe is not None
                pipe.close()
            self._worker = None

    def _tell(self, number: int, candidate: dict[str, Any], measured: Measurement) -> None:
        words = candidate["words"]
        first, best, good, failed = self._best.get(words, (0.0, float("inf"), 0, 0))
        if measured.ok and measured.seconds is not None:
            first, best, good = first or measured.seconds, min(best, measured.seconds), good + 1
            text = f"{measured.seconds * 1e6:.1f} us +- {measured.spread or 0:.1%}"
        else:
            failed, text = failed + 1, f"{measured.status}: {measured.reason}"
        self._best[words] = first, best, good, failed
        print(f"{number + 1}/{len(self._manifest['candidates'])} {words}: {text}", flush=True)

    def _ask(self, number: int) -> dict[str, Any]:
        """What the worker makes of a candidate; dying of it, or not ending in time, is the candidate's failure."""
        if self._worker is None:
            self._start()
        worker = self._worker
        assert worker is not None
        assert worker.stdin is not None
        self._used += 1
        with suppress(BrokenPipeError):  # its end is read below
            worker.stdin.write(b"%d\n" % number)
            worker.stdin.flush()
        answer = self._receive(self._options.timeout)
        if answer is None:
            self.close()
            return {"status": "timed_out", "reason": f"no end after {self._options.timeout:g} s."}
        if not answer:
            status = worker.wait()
            self.close()
            how = f"signal {-status}" if status < 0 else f"exit code {status}"
            return {"status": "crashed", "reason": f"the worker ended with {how}."}
        if answer.pop("lost", False):
            self.close()
        return answer

    def _start(self) -> None:
        """A fresh worker; it says so once it has the GPU."""
        command = [sys.executable, str(self._bundle / "measure.py"), WORKER, str(self._options.device)]
        self._worker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, cwd=self._bundle
        )
        self._used, self._rest = 0, b""
        if not self._receive(_START_S):
            self.close()
            _refuse("the process that measures does not start: see its message above.")

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """The next line of the worker; {} if it has ended, None if nothing comes in time."""
        worker = self._worker
        assert worker is not None
        assert worker.stdout is not None
        until = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([worker.stdout], [], [], left)[0]:
                return None
            data = os.read(worker.stdout.fileno(), 1 << 16)
            if not data:
                return {}
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


_UNMEASURED: dict[str, Any] = {
    "seconds": None, "spread": None, "samples": 0, "speed": 1.0, "alone": True, "error": None, "reason": "",
    "cache": "cold",
}  # fmt: skip
