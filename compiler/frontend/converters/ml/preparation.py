"""Operators of ai.onnx.ml that prepare features: scale, normalise, impute, encode, look up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import ir, relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ....loop_marks import INDEPENDENT
from ...dtypes import is_float
from ...values import Value
from ..broadcast import pointwise
from ..registry import converter
from .forest import numbers
from .scores import AI_ONNX_ML

if TYPE_CHECKING:
    from ...node import Node


def _per_feature(node: Node, name: str, dtype: str) -> np.ndarray:
    """Attribute `name`: one number, or one for each element of the last axis of input 0."""
    values = numbers(node, name, dtype)
    if len(values) == 1:
        return values.reshape(())
    shape = node.shape(0)
    if not shape or not len(values):
        raise node.error(f"attribute {name!r} must have 1 element, found {len(values)}")
    node.require_equal(shape[-1], len(values), "the number of features")
    return values


def _single(node: Node) -> Value:
    """Input 0 in float32."""
    x = node.value(0)
    return x if x.dtype == "float32" else node.call("Cast", x, to=1)


@converter("Scaler", domain=AI_ONNX_ML)
def scaler(node: Node) -> Value:
    """(x - offset) * scale, in float32."""
    offset, scale = (_per_feature(node, name, "float32") for name in ("offset", "scale"))
    return node.call("Mul", node.call("Sub", _single(node), offset), scale)


_NORMS = {"MAX": "ReduceMax", "L1": "ReduceL1", "L2": "ReduceL2"}


@converter("Normalizer", domain=AI_ONNX_ML)
def normalizer(node: Node) -> Value:
    """Rows over their largest element, or their norm, in float32; what would be divided by 0 stays."""
    norm = node.attr("norm", "MAX")
    if norm not in _NORMS:
        raise node.error(f"attribute 'norm' must be one of {', '.join(_NORMS)}, found {norm!r}")
    if node.rank(0) not in (1, 2):
        raise node.error(f"the input needs 1 or 2 dimensions, found shape {node.shape(0)}")
    x, zero, one = _single(node), np.array(0, np.float32), np.array(1, np.float32)
    size = node.call(_NORMS[norm], x, np.array([-1]))
    return node.call("Div", x, node.call("Where", node.call("Equal", size, zero), one, size))


@converter("Imputer", domain=AI_ONNX_ML)
def imputer(node: Node) -> Any:
    """Elements that equal `replaced_value_...`, or are NaN where that is, become those of `imputed_value_...`."""
    dtype = node.dtype(0)
    kind = "float" if is_float(dtype) else "int64"
    imputed = _per_feature(node, f"imputed_value_{kind}s", dtype)
    replaced = node.attr(f"replaced_value_{kind}", 0)

    def chosen(x: ir.Expr, other: ir.Expr) -> ir.Expr:
        missing = tirx.isnan(x) if replaced != replaced else tirx.EQ(x, tirx.const(replaced, dtype))
        return tirx.Select(missing, other, x)

    return pointwise(node, chosen, [node.inputs[0], Value(array=imputed).expr(node.bb)], "imputed")


@converter("FeatureVectorizer", domain=AI_ONNX_ML)
def feature_vectorizer(node: Node) -> Value:
    """Columns of all inputs side by side in float32: of each as many as `inputdimensions` says, or zeros behind it."""
    wanted = node.attr("inputdimensions", [])
    if len(wanted) != len(node.values) or any(size < 0 for size in wanted):
        raise node.error(
            f"attribute 'inputdimensions' must have {len(node.values)} numbers, none negative, found {wanted}"
        )
    parts = []
    for index, size in enumerate(wanted):
        shape, x = node.shape(index), node.value(index)
        x = x if x.dtype == "float32" else node.call("Cast", x, to=1)
        if len(shape) == 1:
            x, shape = node.call("Unsqueeze", x, np.array([0])), [1, *shape]
        if len(shape) != 2 or not isinstance(shape[1], int):
            raise node.error(f"input {index} needs 2 dimensions of which the last is fixed, found shape {shape}")
        cut = node.call("Slice", x, np.array([0]), np.array([size]), np.array([1])) if shape[1] > size else x
        parts.append(node.call("Pad", cut, np.array([0, 0, 0, size - shape[1]])) if shape[1] < size else cut)
    return node.call("Concat", *parts, axis=1)


@converter("OneHotEncoder", domain=AI_ONNX_ML)
def one_hot_encoder(node: Node) -> Value:
    """A last axis with 1 (float32) at the category that an element equals. One that equals none has zeros, also with
    `zeros` = 0, where ONNX Runtime ends the run."""
    if node.attr("cats_strings"):
        raise node.error("attribute 'cats_strings': categories that are strings are not supported")
    categories = node.attr("cats_int64s")
    if not categories:
        raise node.error("attribute 'cats_int64s' is required and was not found")
    x = node.value(0) if node.dtype(0) == "int64" else node.call("Cast", node.value(0), to=7)
    column = node.call("Unsqueeze", x, np.array([-1]))
    return node.call("Cast", node.call("Equal", column, np.array(categories, np.int64)), to=1)


_DEFAULTS = {"int64s": -1, "floats": -0.0}


@converter("LabelEncoder", domain=AI_ONNX_ML, since=2)
def label_encoder(node: Node) -> Any:
    """The value that stands beside the key that an element equals (the first one), by a search in the sorted keys."""
    (keys, _), (values, kind) = (_column(node, what, node.dtype(0)) for what in ("keys", "values"))
    if len(keys) != len(values) or not len(keys):
        raise node.error(f"as many values as keys are needed, at least one, found {len(values)} and {len(keys)}")
    if keys.dtype != node.dtype(0):
        raise node.error(f"the keys are {keys.dtype}, expected {node.dtype(0)} like the input")
    default = node.attr("default_tensor")
    if default is None:
        default = np.array(node.attr(f"default_{kind.rstrip('s')}", _DEFAULTS.get(kind, 0)))
    if default.size != 1:
        raise node.error(f"attribute 'default_tensor' must have 1 element, found {default.size}")
    if is_float(str(keys.dtype)) and np.isnan(keys).any():
        raise node.error("a key is NaN, which runtimes do not agree about")
    kept = np.unique(keys, return_index=True)[1]
    return _looked_up(node, keys[kept], values[kept], default.reshape(-1)[0].astype(values.dtype))


def _column(node: Node, what: str, dtype: str) -> tuple[np.ndarray, str]:
    """The keys or values and the word for their kind: strings, which are not supported, int64s, floats or tensor."""
    given = [kind for kind in ("strings", "int64s", "floats", "tensor") if node.attr(f"{what}_{kind}") is not None]
    if len(given) != 1:
        raise node.error(f"exactly one attribute '{what}_...' is needed, found {len(given)}")
    if given[0] == "strings":
        raise node.error(f"attribute '{what}_strings': strings are not supported")
    held = node.attr(f"{what}_{given[0]}")
    return np.asarray(held, {"int64s": "int64", "floats": "float32"}.get(given[0])).reshape(-1), given[0]


def _looked_up(node: Node, keys: np.ndarray, values: np.ndarray, default: Any) -> Value:
    dtype, count = str(values.dtype), len(keys)
    steps = max(count - 1, 1).bit_length()
    flat = node.call("Reshape", node.value(0), np.array([-1]))
    unknown = tirx.const(default.item(), dtype)

    def compute(x: te.Tensor, keys: te.Tensor, values: te.Tensor) -> list[te.Tensor]:
        size = x.shape[0]
        outs = [tirx.decl_buffer([size], d, n, layout=None) for d, n in ((dtype, "found"), ("int64", "place"))]

        def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
            x, known, answers, found, place = (T.buffer_proxy(b) for b in (*ins, *outs))
            with IRBuilder() as builder:
                with T.serial(0, size, annotations=INDEPENDENT) as i:
                    place[i] = tirx.const(0, "int64")
                    for step in reversed(range(steps)):
                        further = place[i] + (1 << step)
                        last = tirx.min(further, tirx.const(count - 1, "int64"))
                        with T.If(tirx.all(further < count, known[last] <= x[i])), T.Then():
                            place[i] = further
                    found[i] = tirx.Select(tirx.EQ(known[place[i]], x[i]), answers[place[i]], unknown)
                return builder.get()

        return te.extern([[size]] * 2, [x, keys, values], body, dtype=[dtype, "int64"], out_buffers=outs, name="lookup")

    tables = [Value(array=a).expr(node.bb) for a in (keys, values)]
    found = node.te(compute, flat.expr(node.bb), *tables, name="lookup")
    first = Value(expr=node.emit(relax.TupleGetItem(found, 0)))
    return node.call("Reshape", first, node.call("Shape", node.value(0)))
