"""Runs cases in worker processes: one that dies or hangs costs its case and is replaced."""

from __future__ import annotations

import multiprocessing
import queue
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from suite_cases import Case
from suite_worker import CRASH, HANG, ON_HOST, PASS, REFUSED, WRONG, serve

# For compiling and running one case on a busy machine; whole networks of 19 convolutions take longest.
TIME_LIMIT_S = 120.0
EXPECTED = Path(__file__).with_name("refused.txt")

# Cases whose outputs are not what ONNX's text says, with what is wrong in them.
_UNROUNDED = (
    "divides by size * scale - 1, where the text has the length of the output, a whole number (so ONNX Runtime)"
)
DISPUTED = {
    "test_resize_downsample_scales_cubic_align_corners": _UNROUNDED,
    "test_resize_downsample_scales_linear_align_corners": _UNROUNDED,
}


@dataclass(frozen=True)
class Outcome:
    """What became of a case: its state, why it is no pass (or what stays on the host), how many seconds it took."""

    name: str
    kind: str
    state: str
    detail: str
    seconds: float

    @property
    def on_host(self) -> list[str]:
        """The types of the operators that stay on the host."""
        text = self.detail.removeprefix(ON_HOST) if self.detail.startswith(ON_HOST) else ""
        return [entry.split(":")[0] for entry in text.split("; ")] if text else []

    @property
    def reason(self) -> str:
        """The detail without what differs between nodes, to group by."""
        text = re.sub(r"([A-Za-z]\w*) node '[^']*'", r"\1", self.detail)
        text = re.sub(r"^(\w+): operator \1 \(opset \d+\) is", r"operator \1 is", text)
        text = re.sub(r"(?<=put |tor )'[^']*'|(?<=')[^']{40,}(?=')|(?<=\()\w{24,}(?=\))", "…", text)
        return re.sub(r"\d+", "N", text).rstrip(".")


class Worker:
    """A process that checks cases."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other,), daemon=True)
        self._process.start()
        other.close()
        try:
            self._connection.recv()
        except EOFError:
            raise RuntimeError("no worker process can be started") from None

    def check(self, case: Case, limit_s: float) -> tuple[str, str]:
        try:
            self._connection.send(case)
            if self._connection.poll(limit_s):
                return self._connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            return CRASH, f"the process ended with code {self._process.exitcode}"
        return HANG, f"nothing came within {limit_s:g} s"

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.join()


def run_cases(cases: Iterable[Case], limit_s: float = TIME_LIMIT_S, jobs: int = 1) -> Iterator[Outcome]:
    """Check `cases`, each worker one after the other; outcomes come as they are found."""
    todo, done = iter(list(cases)), queue.SimpleQueue[Outcome | BaseException | None]()
    taking = threading.Lock()

    def work() -> None:
        try:
            for outcome in _outcomes(todo, taking, limit_s):
                done.put(outcome)
            done.put(None)
        except BaseException as error:
            done.put(error)

    for _ in range(jobs):
        threading.Thread(target=work, daemon=True).start()
    running = jobs
    while running:
        found = done.get()
        if isinstance(found, BaseException):
            raise found
        if found is None:
            running -= 1
        else:
            yield found


def _outcomes(cases: Iterator[Case], taking: threading.Lock, limit_s: float) -> Iterator[Outcome]:
    """What becomes of cases that one worker takes, as long as there are some."""
    worker = Worker()
    try:
        while True:
            with taking:
                case = next(cases, None)
            if case is None:
                return
            started = time.perf_counter()
            state, detail = worker.check(case, limit_s)
            if state == HANG or detail.startswith("the process ended"):
                worker.close()
                worker = Worker()
            if state == WRONG and case.name in DISPUTED:
                state, detail = "disputed", DISPUTED[case.name]
            yield Outcome(case.name, case.kind, state, detail, time.perf_counter() - started)
    finally:
        worker.close()


def read_expected(path: Path = EXPECTED) -> dict[str, str]:
    """Name of each case that is to be refused -> the reason."""
    expected, reason = {}, ""
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("# "):
            reason = line[2:]
        elif line.strip():
            expected[line.strip()] = reason
    return expected


def write_expected(reasons: Mapping[str, str], path: Path = EXPECTED) -> None:
    groups = defaultdict(list)
    for name, reason in sorted(reasons.items()):
        groups[reason].append(name)
    blocks = [
        "\n".join([f"# {reason}", *groups[reason]]) for reason in sorted(groups, key=lambda r: (-len(groups[r]), r))
    ]
    path.write_text("\n\n".join(blocks) + "\n")


def surprises(outcomes: Iterable[Outcome], expected: Mapping[str, str]) -> list[str]:
    """A line for each case that is wrong, crashed or hung, or that is refused where it was not, or the other way; and
    for operators on tensors of numbers that stay on the host only because something before them does."""
    lines = []
    for o in outcomes:
        if o.on_host and "only a run knows" in o.detail:
            lines.append(f"{o.name} has an operator on the host that a target has: {o.detail}")
        if o.state == REFUSED and o.name not in expected:
            lines.append(f"{o.name} is refused: {o.detail}")
        elif o.state in (WRONG, CRASH, HANG):
            lines.append(f"{o.name}: {o.state}: {o.detail}")
        elif o.state == PASS and o.name in expected:
            lines.append(f"{o.name} passes, but is listed in {EXPECTED.name}: write that file anew")
    return lines
