"""A fixed share of the broken models; `run_fuzz.py` tries more."""

from __future__ import annotations

import os
from multiprocessing import active_children
from signal import SIGKILL

import pytest
from mutations import CHANGES
from run_fuzz import REFUSED, TAKEN, TIME_LIMIT_S, broken_model, check, findings

from kompilo.compiler.errors import ModelError

# 8 ms each, and some seconds for the worker's start.
COUNT = 700


def test_broken_models() -> None:
    """Each is taken or refused in a sentence; both occur, so that neither the changes nor the check are idle."""
    found = list(findings(range(COUNT)))
    assert [f for f in found if f.state not in (TAKEN, REFUSED)] == []
    assert min(sum(f.state == state for f in found) for state in (TAKEN, REFUSED)) > COUNT // 10
    reasons = {f.detail for f in found if f.state == REFUSED}
    assert len(reasons) > COUNT // 5


def test_a_number_always_gives_the_same_model() -> None:
    assert broken_model(4711) == broken_model(4711)
    assert len({broken_model(index) for index in range(50)}) == 50
    assert len(CHANGES) > 10


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ModelError("Add node 'x' has no inputs."), REFUSED),
        (ModelError("no full stop"), "no sentence"),
        (ModelError("two\nlines."), "no sentence"),
        (ModelError("Add node 'x' cannot be converted: MemoryError: no details."), "beyond its limits"),
        (ModelError("Add node 'x' cannot be converted: KeyError: 'y'."), "wrapped"),
        (KeyError("x"), "another exception"),
        (RecursionError(), "another exception"),
    ],
)
def test_what_is_noticed(error: BaseException, state: str) -> None:
    assert check(lambda: _raise(error))[0] == state


def test_a_killed_worker_is_noticed() -> None:
    """It is a finding, and the next model gets another worker."""
    others = set(active_children())
    found = findings([0, 1, 2])
    assert next(found).state in (TAKEN, REFUSED)
    (worker,) = set(active_children()) - others
    assert worker.pid is not None
    os.kill(worker.pid, SIGKILL)
    second, third = found
    assert (second.state, second.detail) == ("crash", f"the process ended with code {-SIGKILL}")
    assert third.state in (TAKEN, REFUSED)


def test_hangs_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that says nothing in time is a finding, and so is the one that comes next."""
    monkeypatch.setattr("run_fuzz.TIME_LIMIT_S", 0.0)
    assert TIME_LIMIT_S > 1
    states = [f.state for f in findings([0, 1])]
    assert states == ["hang", "hang"]
