"""Operators of classical models (ai.onnx.ml) that work on features element by element."""

from __future__ import annotations

import math

from tvm import relax

from ..dtypes import is_float
from ..node import Node
from ..symbols import as_expr
from ..values import constant
from .broadcast import scalar
from .data_movement import require_inside
from .registry import converter

op = relax.op
_DOMAIN = "ai.onnx.ml"


@converter("Binarizer", domain=_DOMAIN)
def binarizer(node: Node) -> relax.Expr:
    """1 above the threshold, else 0, of the input's type."""
    dtype, threshold = node.dtype(0), node.attr("threshold", 0.0)
    # A whole number is above a fraction where it is above its floor.
    limit = scalar(threshold if is_float(dtype) else math.floor(threshold), dtype)
    return op.astype(node.emit(op.greater(node.inputs[0], limit)), dtype)


@converter("ArrayFeatureExtractor", domain=_DOMAIN)
def array_feature_extractor(node: Node) -> relax.Expr:
    """The elements of the last axis that the indices (input 1, of any shape) name; of a vector as one row.

    Indices that only a run gives are clamped to the axis.
    """
    shape, x = node.shape(0), node.inputs[0]
    if not shape:
        raise node.error("the input needs at least 1 dimension")
    known = node.const(1)
    if known is not None and known.size and known.min() < 0:
        raise node.error(f"the indices must not be negative, found {known.min()}")
    require_inside(node, known, shape[-1], "the last axis of input 0")
    if len(shape) == 1:
        x = node.emit(op.reshape(x, relax.ShapeExpr([as_expr(1), as_expr(shape[0])])))
    if known is not None:
        indices = constant(known.reshape(-1))
    else:
        indices = node.emit(op.reshape(node.inputs[1], [-1]))
    return op.take(x, indices, max(len(shape) - 1, 1), mode="clip")
