"""A fixed quarter of ONNX's backend suite, the same on every machine; `run_suite.py` runs all of it."""

from __future__ import annotations

import zlib

import pytest
from suite_cases import all_cases
from suite_runner import Outcome, read_expected, run_cases, surprises

# Each part is one test: a worker process is started for it, which takes some seconds.
PARTS, ALL_PARTS = 4, 16
# Run with the first part, wherever they belong: several ranges of data in a graph, whose chains TVM misplaces.
ALWAYS = ("test_affine_grid_3d",)


@pytest.mark.parametrize("part", range(PARTS))
def test_part(part: int) -> None:
    """No case is wrong, crashes or hangs, and those that are refused are the ones listed in refused.txt."""
    names = {name for name in all_cases() if zlib.crc32(name.encode()) % ALL_PARTS == part}
    cases = [case for name, case in all_cases().items() if name in names or (part == 0 and name in ALWAYS)]
    found = surprises(run_cases(cases), read_expected())
    assert not found, "\n".join(found)


def test_surprises() -> None:
    """What differs from the expectations is told, and only that."""
    known = {"a": "no such operator", "b": "no such operator"}
    states = [("a", "refused"), ("b", "pass"), ("c", "refused"), ("d", "pass"), ("e", "wrong"), ("f", "hang")]
    found = surprises([Outcome(name, "node", state, "why", 0.0) for name, state in states], known)
    on_host = "on the host: Neg: only a run knows how many dimensions its input 'x' has"
    found += surprises([Outcome("g", "node", "pass", on_host, 0.0), Outcome("h", "node", "pass", "", 0.0)], known)
    assert [line.split(":")[0].split()[0] for line in found] == ["b", "c", "e", "f", "g"]
