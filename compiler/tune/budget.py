"""How long a tuning session may take."""

from __future__ import annotations

import re

from ..errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600}
_LONGEST_S = 366 * 24 * 3600.0


def budget_seconds(budget: str | float) -> float:
    """Seconds of "90s", "5m", "1.5h", "2h30m" or a number; UsageError for anything else."""
    if not isinstance(budget, str | int | float) or isinstance(budget, bool):
        raise UsageError(f'budget: expected seconds, or a time such as "5m", found {budget!r}.')
    if isinstance(budget, str):
        text = budget.strip().lower()
        parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
        if not parts or "".join(a + b for a, b in parts) != text:
            meant = f"for {text} seconds say {text}s." if text.isdecimal() else None
            raise UsageError(f'budget: expected a time such as "90s", "5m" or "1h30m", found {budget!r}.', meant)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        seconds = budget
    if not 0 < seconds <= _LONGEST_S:  # nor NaN
        raise UsageError(f"budget: expected more than no time at all and at most a year, found {str(budget)[:40]}.")
    return float(seconds)
