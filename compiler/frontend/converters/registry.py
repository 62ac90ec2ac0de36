"""The table of converters: which function turns an ONNX operator, of which opset on, into Relax.

A converter is registered by a decorator and found by the importer through `find_converter`; every module of this
package is loaded once, so a new file of converters needs no further registration.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from tvm import relax

if TYPE_CHECKING:
    from ..node import Node


@dataclass(frozen=True)
class Carried:
    """A result whose elements compiled code has as bytes: `expr`, of uint8, holds codes of the type `dtype`."""

    expr: relax.Expr
    dtype: str


Result = relax.Expr | np.ndarray | Carried | None
Converter = Callable[["Node"], Result | tuple[Result, ...]]
_Function = TypeVar("_Function", bound=Callable)

_TABLE: dict[tuple[str, str], dict[int, Converter]] = {}
# The same for nodes of which one of certain inputs, that others know at compile time, is data.
_OF_RUNS: dict[tuple[str, str], dict[int, tuple[tuple[int, ...], Converter]]] = {}


def canonical_domain(domain: str) -> str:
    """The standard domain has two spellings, "" and "ai.onnx"; return the first for both."""
    return "" if domain == "ai.onnx" else domain


def converter(op_type: str, since: int = 1, domain: str = "") -> Callable[[_Function], _Function]:
    """Register the decorated function for `op_type` from opset `since` on.

    Several versions may be registered: the newest that is not above the model's opset is used. The function takes a
    `Node` and returns one Relax expression (or numpy array, for a result known at compile time), or a tuple with one
    entry for each output of the node (None for an optional output that the operator does not produce).
    """

    def register(function: _Function) -> _Function:
        versions = _TABLE.setdefault((canonical_domain(domain), op_type), {})
        if since in versions:
            raise ValueError(f"two converters are registered for {op_type} since opset {since}")
        versions[since] = function
        return function

    return register


def run_converter(op_type: str, inputs: tuple[int, ...], since: int = 1) -> Callable[[_Function], _Function]:
    """Like `converter`, for nodes of which one of `inputs` (a shape, axes, a number of elements, ...) is data."""

    def register(function: _Function) -> _Function:
        _OF_RUNS.setdefault(("", op_type), {})[since] = (inputs, function)
        return function

    return register


@cache
def load_converters() -> None:
    """Import every module of converters, those of the folders too (once)."""
    package = importlib.import_module(__package__)
    for module in pkgutil.walk_packages(package.__path__, f"{__package__}."):
        importlib.import_module(module.name)


def find_converter(
    domain: str, op_type: str, opset: int, is_data: Callable[[int], bool] = lambda _: False
) -> Converter | None:
    """The newest converter of the operator that is not above `opset`, or None.

    Args:
        is_data: whether an input of the node is known in runs only.
    """
    load_converters()
    key = (canonical_domain(domain), op_type)
    of_runs = _OF_RUNS.get(key, {})
    usable = [since for since in of_runs if since <= opset]
    if usable:
        inputs, function = of_runs[max(usable)]
        if any(is_data(index) for index in inputs):
            return function
    versions = _TABLE.get(key, {})
    usable = [since for since in versions if since <= opset]
    return versions[max(usable)] if usable else None


def supported_operators() -> list[tuple[str, str]]:
    """Sorted (domain, op_type) pairs that have a converter."""
    load_converters()
    return sorted(_TABLE)
