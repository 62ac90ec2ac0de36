"""Relax operators with loops of our own, by name. All others take TVM's legalisation and the generic rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....compiler.schedule.target_spec import CpuSpec
from ...shared.normalization import instance_norm

LEGALIZATIONS: dict[str, Callable[..., Any]] = {
    "relax.nn.instance_norm": instance_norm,
}


def legalizations(spec: CpuSpec) -> Mapping[str, Callable[..., Any]]:
    """Relax operator name -> function(block builder, call) -> expression."""
    return LEGALIZATIONS
