"""Numbers as people read them."""

from __future__ import annotations

import pytest

from kompilo.compiler.number_words import count, size_text, time_text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.5e-6, "1.5 us"), (1.234e-3, "1.23 ms"), (0.9999e-3, "1 ms"), (0.9999, "1.00 s")]
)
def test_times(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (3_400_000, "3.4 MB"), (2.5e9, "2.50 GB")])
def test_sizes(size: float, text: str) -> None:
    assert size_text(size) == text


def test_one_and_several() -> None:
    assert [count(n, "operator") for n in (0, 1, 2)] == ["0 operators", "1 operator", "2 operators"]
