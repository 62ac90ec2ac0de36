"""What loops written outright tell the targets' rules about themselves."""

from __future__ import annotations

# An annotation: iterations may run in any order, and at once.
INDEPENDENT = {"kompilo.independent": 1}
