"""Evaluates a node whose inputs are all constants with ONNX's own reference implementation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

# What may be folded: a result is stored in the artifact, and the reference implementation is slow.
_MOST_BYTES = 64 * 2**20
_MOST_ELEMENTS = 2**24
_HEAVY_ELEMENTS = 2**16
_HEAVY = frozenset(
    [
        "Conv",
        "ConvTranspose",
        "ConvInteger",
        "QLinearConv",
        "MatMul",
        "Gemm",
        "MatMulInteger",
        "QLinearMatMul",
        "Einsum",
        "MaxPool",
        "AveragePool",
        "LpPool",
        "LRN",
        "Resize",
        "Upsample",
        "LSTM",
        "GRU",
        "RNN",
        "Attention",
        "GridSample",
        "RoiAlign",
        "DeformConv",
        "NonMaxSuppression",
        "DFT",
        "STFT",
        "Col2Im",
    ]
)
_NOT_A_FUNCTION = frozenset(
    [
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Bernoulli",
        "Multinomial",
        "If",
        "Loop",
        "Scan",
    ]
)


def fold(
    node: onnx.NodeProto, inputs: Sequence[np.ndarray | None], opsets: Mapping[str, int]
) -> list[np.ndarray] | None:
    """The outputs of `node` on constant `inputs`, or None where folding is not wise or not possible."""
    sizes = [x.size for x in inputs if x is not None]
    limit = _HEAVY_ELEMENTS if node.op_type in _HEAVY else _MOST_ELEMENTS
    if node.domain not in ("", "ai.onnx") or node.op_type in _NOT_A_FUNCTION or not sizes or max(sizes) > limit:
        return None
    if any(not name for name in node.output):
        return None
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
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opsets.get("", 1))])
    feeds = {n: np.asarray(x, order="C") for n, x in zip(names, inputs, strict=True) if n}
    results = _run(model, feeds)
    if results is None or any(not isinstance(r, np.ndarray | np.generic) for r in results):
        return None
    arrays = [np.asarray(r) for r in results]
    return arrays if sum(a.nbytes for a in arrays) <= _MOST_BYTES and all(a.dtype != object for a in arrays) else None


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list | None:
    from onnx.reference import (
        ReferenceEvaluator,  # 0.2 s to import, and most models need it not at all
    )

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return ReferenceEvaluator(model).run(None, feeds)
    except Exception:
        return None
