"""A record as a line: there and back, and a sentence for what is no record."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kompilo.compiler.tune.op_json import op_from_json, op_to_json
from kompilo.compiler.tune.record import Record

from record_support import matmul, record


@pytest.mark.parametrize("made", [record(), record(seconds=None), record(status="wrong_result", seconds=None)])
def test_a_line_and_back(made):
    line = made.to_line()
    assert "\n" not in line
    assert Record.from_line(line) == made


def test_an_operator_and_back():
    op = matmul("N")
    assert op_from_json(json.loads(json.dumps(op_to_json(op)))) == op


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema": 2}, "expected schema 1, found 2"),
        ({"schema": None}, "expected schema 1, found None"),
        ({"status": "great"}, "expected a status among ok"),
        ({"seconds": None}, "status 'ok' with seconds None"),
        ({"seconds": -1.0}, "with seconds -1.0"),
        ({"seconds": float("nan")}, "with seconds nan"),
        ({"seconds": float("inf")}, "with seconds inf"),
        ({"status": "crashed"}, "status 'crashed' with seconds 0.001"),
        ({"config": [1]}, "incomplete record"),
        ({"config": {"tile": [1]}}, "expected knobs that are numbers or words"),
        ({"version": float("inf")}, "incomplete record"),
        ({"op": 3}, "incomplete record"),
        ({"op": json.loads(record().to_line())["op"] | {"inputs": [["float32", 10**60]]}}, "sizes or names"),
        ({"op": {"kind": "matmul"}}, "incomplete record"),
        ({"spread": "wide"}, "could not convert"),
        ({"created": "nope"}, "expected a date such as 2026-11-22T10:30:00Z, found 'nope'"),
        ({"created": "2026-11-22T10:30:00+05:00"}, "expected a date"),
        ({"created": "2026-13-45"}, "month must be in"),
        *(({"created": nothing}, "expected a date") for nothing in (3, None, 0, False, [])),
        ({"seconds": 1e-60}, "with seconds 1e-60"),
        ({"seconds": 1e300}, "with seconds 1e\\+300"),
        ({"op": json.loads(record().to_line())["op"] | {"attrs": [["strides", {}]]}}, "unhashable"),
        ({"op": json.loads(record().to_line())["op"] | {"epilogue": [["add", [["s0"]], "float32"]]}}, "unhashable"),
    ],
)
def test_lines_that_are_no_record(changes, says):
    data = json.loads(record().to_line()) | changes
    with pytest.raises(ValueError, match=says):
        Record.from_line(json.dumps(data))


@pytest.mark.parametrize("line", ["", "null", "[]", "3", "{", "[" * 100_000, '{"schema":1}'])
def test_text_that_is_no_record(line):
    with pytest.raises(ValueError):
        Record.from_line(line)


@given(st.integers(0, 10_000), st.binary(min_size=0, max_size=3))
def test_a_damaged_line_is_a_record_or_a_value_error(place, noise):
    line = record().to_line().encode()
    place %= len(line)
    text = (line[:place] + noise + line[place + len(noise) :]).decode(errors="replace")
    with contextlib.suppress(ValueError):
        assert isinstance(Record.from_line(text), Record)
