"""The templates in the order they are asked."""

from __future__ import annotations

from collections.abc import Sequence

from ....compiler.schedule.template import Template
from .matmul_simt import MatmulSimt

TEMPLATES: tuple[Template, ...] = (MatmulSimt(),)


def templates() -> Sequence[Template]:
    """All templates of GPU targets; the first that matches an operator offers the default config."""
    return TEMPLATES
