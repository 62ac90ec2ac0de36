"""Pipelines against every possibility, tried one by one."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations, product
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.plan.linear import most
from kompilo.compiler.plan.pipeline import Single, Team, Unit, side_by_side

EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)


def table(times: list[float], limit: int | None = None) -> np.ndarray:
    """Seconds of each segment of nodes that take `times`; at most `limit` nodes fit."""
    sums = np.concatenate([[0.0], np.cumsum(times)])
    seconds = sums[None, :] - sums[:, None]
    for i, j in product(range(len(sums)), repeat=2):
        if j <= i or (limit is not None and j - i > limit):
            seconds[i, j] = inf
    return seconds


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Tables of up to three devices for up to four nodes, seconds of cuts on a fast link, factors of links."""
    nodes, devices = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    time = st.floats(0.1, 10.0)
    tables = [
        table(draw(st.lists(time, min_size=nodes, max_size=nodes)), draw(st.none() | st.integers(1, nodes)))
        for _ in range(devices)
    ]
    cuts = np.array(draw(st.lists(st.floats(0.0, 5.0), min_size=nodes + 1, max_size=nodes + 1)))
    factors = np.array(draw(st.lists(st.floats(0.1, 3.0), min_size=9, max_size=9))).reshape(3, 3)
    return tables, cuts, (factors + factors.T) / 2


def best_pipeline(tables: list[np.ndarray], cuts: np.ndarray, factors: np.ndarray, devices: tuple[int, ...]) -> float:
    """The least bottleneck of all orders of `devices` and all cuts, each device having something to do."""
    nodes, best = len(cuts) - 1, inf
    for order in permutations(devices):
        for inner in combinations(range(1, nodes), len(order) - 1):
            ends = [0, *inner, nodes]
            stages = [tables[d][a, b] for d, a, b in zip(order, ends, ends[1:], strict=False)]
            links = [cuts[c] * factors[a, b] for c, a, b in zip(inner, order, order[1:], strict=False)]
            best = min(best, max([*stages, *links]))
    return best


def partitions(items: list[int]) -> list[list[tuple[int, ...]]]:
    """All ways to put some of `items` into groups."""
    if not items:
        return [[]]
    found = []
    for rest in partitions(items[1:]):
        found.append(rest)
        found.append([(items[0],), *rest])
        found += [[*rest[:k], (items[0], *group), *rest[k + 1 :]] for k, group in enumerate(rest)]
    return found


@EXAMPLES
@given(problems())
def test_a_team_is_as_fast_as_the_best_of_all_choices(problem):
    tables, cuts, factors = problem
    devices = list(range(len(tables)))
    best = max(
        sum(1 / best_pipeline(tables, cuts, factors, group) for group in groups) for groups in partitions(devices)
    )
    units: list[Unit] = [Single(d, tables[d], d) for d in devices]
    team = Team(units, lambda a, b: cuts * factors[a[0], b[0]], from_start=True)
    found = team.table()[0, -1]
    assert (1 / found if found < inf else 0.0) == pytest.approx(best)
    if found < inf:
        check_flows(team.flows(0, len(cuts) - 1), tables, cuts, factors, 1 / found)


def check_flows(flows, tables, cuts, factors, rate):
    """Flows pass all nodes in order, and devices and links can serve them."""
    nodes = len(cuts) - 1
    assert sum(r for r, _ in flows) == pytest.approx(rate)
    busy: dict[int, float] = {}
    for share, pieces in flows:
        assert [pieces[0][1], *(end for _, _, end in pieces)] == [0, *(i for _, i, _ in pieces[1:]), nodes]
        for device, i, j in pieces:
            busy[device] = busy.get(device, 0.0) + share * tables[device][i, j]
        for (a, _, cut), (b, _, _) in pairwise(pieces):
            assert cuts[cut] * factors[a, b] * share <= 1 + 1e-9
    assert all(part <= 1 + 1e-9 for part in busy.values())


@EXAMPLES
@given(problems())
def test_teams_of_teams_can_do_what_they_say(problem):
    """They may be better than one team: a stage of theirs can be served by several devices side by side."""
    tables, cuts, factors = problem
    link = lambda a, b: np.max([cuts * factors[x, y] for x in a for y in b], axis=0)  # noqa: E731
    units: list[Unit] = [Single(d, tables[d], d) for d in range(len(tables))]
    inner = Team(units[1:], link) if len(units) > 1 else units[0]
    outer = Team([units[0], inner] if len(units) > 1 else [inner], link, from_start=True)
    levels = outer.table()[0, -1]
    if levels < inf:
        check_flows(outer.flows(0, len(cuts) - 1), tables, cuts, factors, 1 / levels)


def test_equal_devices_count_as_one_class():
    times = table([1.0, 1.0, 1.0, 1.0], limit=2)  # the whole does not fit into one
    team = Team([Single(d, times, "same") for d in range(6)], lambda a, b: np.zeros(5), from_start=True)
    assert team.counts == (6,)
    assert 1 / team.table()[0, 4] == pytest.approx(3 / 2)  # three pipelines of two
    flows = team.flows(0, 4)
    assert sorted(d for _, pieces in flows for d, _, _ in pieces) == list(range(6))


def test_a_segment_of_the_chain_is_served_as_well():
    team = Team([Single(d, table([1.0, 2.0, 4.0]), d) for d in range(2)], lambda a, b: np.full(4, 0.5))
    assert team.table()[1, 3] == pytest.approx(3.0)  # both do both: two in six seconds
    assert team.table()[0, 2] == pytest.approx(1.5)
    assert team.table()[2, 1] == inf
    assert sum(rate for rate, _ in team.flows(1, 3)) == pytest.approx(1 / 3)


def test_flows_through_several_stages_keep_their_shares():
    first = [(3.0, ((0, 0, 1),)), (1.0, ((1, 0, 1),))]
    second = [(2.0, ((2, 1, 2),)), (2.0, ((3, 1, 2),))]
    flows = side_by_side([first, second], 4.0)
    assert [(rate, [d for d, _, _ in pieces]) for rate, pieces in flows] == [
        (pytest.approx(2.0), [0, 2]), (pytest.approx(1.0), [0, 3]), (pytest.approx(1.0), [1, 3]),
    ]  # fmt: skip


@EXAMPLES
@given(st.integers(1, 3), st.integers(1, 3), st.data())
def test_shares_are_the_best_of_all_corners(rows, columns, data):
    """An optimum lies where as many limits hold exactly as there are unknowns."""
    value = st.floats(0.1, 10.0) | st.just(0.0)
    limits = np.array([[data.draw(value) for _ in range(columns)] for _ in range(rows)])
    limits[0] += 0.1
    x = most(limits)
    assert (x >= 0).all()
    assert (limits @ x <= 1 + 1e-9).all()
    every, right = np.concatenate([limits, -np.eye(columns)]), np.concatenate([np.ones(rows), np.zeros(columns)])
    best = 0.0
    for chosen in combinations(range(rows + columns), columns):
        part = every[list(chosen)]
        if abs(np.linalg.det(part)) > 1e-9:
            corner = np.linalg.solve(part, right[list(chosen)])
            if (every @ corner <= right + 1e-9).all():
                best = max(best, float(corner.sum()))
    assert x.sum() == pytest.approx(best)
