"""MinCut against trying every assignment."""

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.passes.min_cut import INFINITE, MinCut


@st.composite
def networks(draw):
    """Number of choices, and (tail, head, cost, cost the other way round) between them and the two ends."""
    count = draw(st.integers(1, 6))
    end = st.integers(0, count + 1)
    edges = draw(st.lists(st.tuples(end, end, st.integers(0, 9), st.integers(0, 9)), max_size=15))
    return count, [e for e in edges if e[0] != e[1]]


def total(edges, sides):
    there = sum(cost for tail, head, cost, _ in edges if sides[tail] and not sides[head])
    return there + sum(back for tail, head, _, back in edges if sides[head] and not sides[tail])


@settings(max_examples=200, deadline=None)
@given(networks())
def test_cheapest_and_largest_source_side(network):
    count, edges = network
    cut = MinCut()
    assert [cut.choice() for _ in range(count)] == list(range(2, count + 2))
    for edge in edges:
        cut.cost(*edge)
    found = cut.solve()
    assert found[MinCut.SOURCE]
    assert not found[MinCut.SINK]
    all_sides = [[True, False, *rest] for rest in product([False, True], repeat=count)]
    least = min(total(edges, sides) for sides in all_sides)
    assert total(edges, found) == least
    assert sum(found) == max(sum(sides) for sides in all_sides if total(edges, sides) == least)


def test_fixed_choices():
    cut = MinCut()
    a, b = cut.choice(), cut.choice()
    cut.cost(MinCut.SOURCE, a, INFINITE)
    cut.cost(b, MinCut.SINK, INFINITE)
    cut.cost(a, b, 5)
    assert cut.solve() == [True, False, True, False]
