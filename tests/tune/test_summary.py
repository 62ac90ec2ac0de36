"""A session in numbers."""

from dataclasses import replace

import pytest
from sample_states import ROOFLINE, conv, good_tasks, state, task

from kompilo.compiler.tune.summary import model_history, rows


def test_rows_come_by_their_share():
    found = rows(state(task(conv(8, 8)), *good_tasks()), ROOFLINE)
    assert [row.words.split()[0] for row in found] == ["conv", "conv", "depthwise", "conv"]
    assert sum(row.share for row in found[:3]) == pytest.approx(1)
    assert found[0].share == pytest.approx(2 / 3.1)
    assert (found[0].speedup, found[0].changed) == (2.0, True)
    assert (found[1].speedup, found[1].changed) == (1.0, False)
    assert found[0].flops_per_second() == 2 * found[0].flops_per_second(start=True)


def test_what_was_not_measured_is_not_known():
    (row,) = rows(state(task(conv(8, 8), failed=3)), ROOFLINE)
    assert (row.share, row.speedup, row.of_roofline, row.flops_per_second()) == (None, None, None, None)
    assert not row.changed


def test_part_of_the_roofline():
    (row,) = rows(state(task(conv(64, 64), (10e-3,))), ROOFLINE)
    assert row.of_roofline == pytest.approx(row.flops / 150e9 / 10e-3)
    assert rows(state(task(conv(64, 64), (10e-3,))))[0].of_roofline is None
    op = conv(64, 64)
    other = replace(op, inputs=tuple(replace(t, dtype="int8") for t in op.inputs))
    assert rows(state(task(other, (10e-3,))), ROOFLINE)[0].of_roofline is None


def test_the_model_over_time():
    # Starts: 1, 2, ... seconds; the second operator is measured from the first second on, too.
    first, second = task(conv(8, 8), (4e-3, 3e-3, 5e-3, 1e-3), calls=2), task(conv(8, 16), (1e-3, 0.5e-3))
    assert model_history(state(first, second, elapsed_s=10.0)) == [
        (1.0, pytest.approx(9e-3)),
        (2.0, pytest.approx(6.5e-3)),
        (4.0, pytest.approx(2.5e-3)),
        (10.0, pytest.approx(2.5e-3)),
    ]


def test_the_model_has_no_time_before_all_operators_have():
    assert model_history(state()) == []
    assert model_history(state(task(conv(8, 8)), task(conv(8, 16), (1e-3,)))) == []
    late = replace(task(conv(8, 8), (1e-3,)), history=((7.0, 1e-3),))
    assert model_history(state(late, task(conv(8, 16), (2e-3, 1e-3)), elapsed_s=8.0))[0] == (7.0, pytest.approx(2e-3))
