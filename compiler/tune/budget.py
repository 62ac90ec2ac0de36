"""How long a tuning session may take."""

from __future__ import annotations

import math
import re

from ..errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600}


def budget_seconds(budget: str | float) -> float:
    """Seconds of "90s", "5m", "1.5h", "2h30m" or a number; UsageError for anything else."""
    if isinstance(budget, str):
        text = budget.strip().lower()
        parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
        if not parts or "".join(a + b for a, b in parts) != text:
            raise UsageError(f'budget: expected a time such as "90s", "5m" or "1h30m", found {budget!r}.')
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        seconds = float(budget)
    if not (seconds > 0 and math.isfinite(seconds)):
        raise UsageError(f"budget: expected more than no time at all, found {budget!r}.")
    return seconds
