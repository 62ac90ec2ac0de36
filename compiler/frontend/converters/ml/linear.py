"""LinearClassifier and LinearRegressor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...values import Value
from ..registry import converter
from .forest import numbers
from .scores import AI_ONNX_ML, labelled, labels, matrix, of_two, post_transform, rows_of, transformed

if TYPE_CHECKING:
    from ...node import Node


def _sums(node: Node, count: int | None) -> tuple[Value, int]:
    """Rows times the transpose of the coefficients (count, features), plus intercepts; and `count`."""
    x = rows_of(node, "float32")
    coefficients, intercepts = (
        numbers(node, "coefficients", "float32"),
        numbers(node, "intercepts", "float32", None, []),
    )
    count = len(intercepts) or count or 1
    sums = node.call("MatMul", x, np.ascontiguousarray(matrix(node, x, coefficients, count, "coefficients").T))
    return (node.call("Add", sums, intercepts) if len(intercepts) else sums), count


@converter("LinearRegressor", domain=AI_ONNX_ML)
def linear_regressor(node: Node) -> Value:
    """float32. As in ONNX Runtime, the only function that a single target goes through is PROBIT."""
    targets, transform = node.attr("targets", 1), post_transform(node)
    sums, count = _sums(node, targets)
    if count != targets:
        raise node.error(f"attribute 'intercepts' must have {targets} elements, found {count}")
    return transformed(node, sums, transform if targets > 1 or transform == "PROBIT" else "NONE")


@converter("LinearClassifier", domain=AI_ONNX_ML)
def linear_classifier(node: Node) -> tuple[Value, Value]:
    """Labels (int64) and scores (float32): the largest score decides; of two classes with one score, whether that is
    above 0."""
    names, transform = labels(node, "classlabels_ints", "classlabels_strings"), post_transform(node)
    sums, count = _sums(node, len(names))
    if count == 1 and len(names) == 2:
        label = node.call("Greater", node.call("Squeeze", sums, np.array([1])), np.array(0, np.float32))
        return labelled(node, node.call("Cast", label, to=7), names), of_two(node, sums, transform)
    if count != len(names):
        raise node.error(f"attribute 'intercepts' must have {len(names)} elements for as many labels, found {count}")
    return labelled(node, node.call("ArgMax", sums, axis=1, keepdims=0), names), transformed(node, sums, transform)
