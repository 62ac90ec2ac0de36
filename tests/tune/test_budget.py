"""Budgets as people write them."""

from __future__ import annotations

import pytest

from kompilo.compiler.errors import UsageError
from kompilo.compiler.tune.budget import budget_seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1.5h", 5400), (" 2H30m ", 9000), (45, 45), (0.5, 0.5)]
)
def test_times(text, seconds):
    assert budget_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 minutes", "m5", "-3s", "0s", 0, -1, float("nan"), float("inf")])
def test_bad_budgets(text):
    with pytest.raises(UsageError, match="budget: expected"):
        budget_seconds(text)
