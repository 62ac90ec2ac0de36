"""Relax operators with loops of our own, by name. All others take TVM's legalisation and the generic rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..shared.normalization import instance_norm

LEGALIZATIONS: dict[str, Callable[..., Any]] = {
    "relax.nn.instance_norm": instance_norm,
}
