"""A fixed quarter of ONNX's backend suite, the same on every machine; `run_suite.py` runs all of it."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from conformance import BEGIN, END, PAGE, write_page
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


def test_page(tmp_path: Path) -> None:
    """The result goes between the marks and is counted by family; what is written by hand stays."""
    path = tmp_path / "page.md"
    path.write_text(f"# By hand\n{BEGIN}yesterday\n{END}the end\n")
    strings = "on the host: Equal: its input 'x' holds strings"
    write_page(
        [
            Outcome("test_a", "node", "pass", strings, 30.0),
            Outcome("test_a_expanded", "node", "refused", "Neg node 'n': no such size 3.", 30.0),
            Outcome("test_ai_onnx_ml_b", "node", "disputed", "by chance", 0.0),
            Outcome("test_real", "real", "pass", "", 60.0),
        ],
        path,
    )
    text = path.read_text()
    assert text.startswith("# By hand\n")
    assert text.endswith(f"{END}the end\n")
    assert "yesterday" not in text
    for line in (
        "| node: bodies of functions | 1 | 0 | 1 | 0 | 0 | 0 | 0 |",
        "| node: ai.onnx | 1 | 1 | 0 | 0 | 0 | 0 | 0 |",
        "| real | 1 | 1 | 0 | 0 | 0 | 0 | 0 |",
        "| all | 4 | 2 | 1 | 1 | 0 | 0 | 0 |",
        "| Neg: no such size N | a_expanded |",
        "| by chance | ai_onnx_ml_b |",
        "| strings: no target holds text | a |",
    ):
        assert line in text.splitlines()
    path.write_text("no marks")
    with pytest.raises(ValueError, match="no place for the result"):
        write_page([], path)


def test_the_page_has_its_marks() -> None:
    _, begin, rest = PAGE.read_text().partition(BEGIN)
    assert begin
    assert END in rest
