"""Relax operators with loops of our own, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....compiler.schedule.target_spec import CpuSpec


def legalizations(spec: CpuSpec) -> Mapping[str, Callable[..., Any]]:
    """Relax operator name -> function(block builder, call) -> expression."""
    return {}
