"""Evaluates a node whose inputs are all constants with ONNX's own reference implementation, where that can be trusted.

The reference implementation has one version of most operators and so ignores what older opsets meant (`Softmax` before
opset 13, `axis` of binary operators before 7), returns float64 or int64 for narrower types in places, and is wrong in
others (`LpNormalization`, `GlobalMaxPool`, `MaxPool` with indices, `Resize`). So the operators that it may evaluate are
listed; the others are converted, whatever their inputs are.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

# What may be folded: a result is stored in the artifact, and the reference implementation is slow.
_MOST_BYTES = 64 * 2**20
_MOST_ELEMENTS = 2**24
_MOST_CONTRACTED = 2**16
# Until then binary operators had the attributes `broadcast` and `axis`.
OLDEST_OPSET = 7

_CONTRACTIONS = frozenset(["Einsum", "Gemm", "MatMul"])
_OTHERS = """
Abs Acos Acosh Add Asin Asinh Atan Atanh Cast CastLike Ceil Clip Cos Cosh Div Erf Exp Floor Log Max Mean Min Mod Mul Neg
Pow Reciprocal Relu Round Sigmoid Sign Sin Sinh Sqrt Sub Sum Tan Tanh QuantizeLinear DequantizeLinear
And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or
Where Xor
ArgMax ArgMin CumSum NonZero ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum TopK
Compress Expand EyeLike GatherND OneHot Pad Range ScatterElements ScatterND Tile Trilu
"""
TRUSTED = _CONTRACTIONS.union(_OTHERS.split())


def fold(
    node: onnx.NodeProto, inputs: Sequence[np.ndarray | None], opsets: Mapping[str, int]
) -> list[np.ndarray] | None:
    """The outputs of `node` on constant `inputs`, or None where folding is not wise or not possible."""
    opset = opsets.get("", 1)
    if node.domain not in ("", "ai.onnx") or node.op_type not in TRUSTED or opset < OLDEST_OPSET:
        return None
    sizes = [x.size for x in inputs if x is not None]
    limit = _MOST_CONTRACTED if node.op_type in _CONTRACTIONS else _MOST_ELEMENTS
    if not sizes or max(sizes) > limit or any(not name for name in node.output):
        return None
    results = _run(*_model(node, inputs, opset))
    if results is None or any(not isinstance(r, np.ndarray | np.generic) for r in results):
        return None
    arrays = [np.asarray(r) for r in results]
    return arrays if sum(a.nbytes for a in arrays) <= _MOST_BYTES and all(a.dtype != object for a in arrays) else None


def _model(
    node: onnx.NodeProto, inputs: Sequence[np.ndarray | None], opset: int
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of the node alone, and its inputs by name."""
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    renamed = onnx.NodeProto()
    renamed.CopyFrom(node)
    del renamed.input[:]
    renamed.input.extend(names)
    empty = onnx.TypeProto()
    graph = helper.make_graph(
        [renamed],
        "constant",
        [helper.make_value_info(n, empty) for n in names if n],
        [helper.make_value_info(n, empty) for n in node.output],
    )
    feeds = {n: np.asarray(x, order="C") for n, x in zip(names, inputs, strict=True) if n}
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), feeds


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list | None:
    from onnx.reference import ReferenceEvaluator  # 0.2 s to import, and most models do not need it

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return ReferenceEvaluator(model).run(None, feeds)
    except Exception:
        return None
