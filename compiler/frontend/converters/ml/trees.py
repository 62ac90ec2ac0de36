"""TreeEnsemble, TreeEnsembleClassifier and TreeEnsembleRegressor: one kernel walks all trees for each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import ir, relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ....loop_marks import INDEPENDENT
from ...values import Value, constant
from ..registry import converter
from .forest import Forest, counted_forest, named_forest, numbers
from .scores import AI_ONNX_ML, POST_TRANSFORMS, labelled, labels, post_transform, rows_of, transformed

if TYPE_CHECKING:
    from ...node import Node

# More scores for each row than any model has; a damaged number must not take all memory.
_MOST_TARGETS = 1 << 20
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_COMPARISONS: tuple[Callable[[ir.Expr, ir.Expr], ir.Expr], ...] = (
    lambda x, value: x <= value,
    lambda x, value: x < value,
    lambda x, value: x >= value,
    lambda x, value: x > value,
    lambda x, value: tirx.EQ(x, value),
    # TVM's own comparison does not hold for NaN.
    lambda x, value: tirx.any(x < value, x > value, tirx.isnan(x), tirx.isnan(value)),
)
_TABLES = ("feature", "mode", "value", "missing", "true", "false", "roots", "depth", "starts", "targets", "weights")


@converter("TreeEnsemble", domain=AI_ONNX_ML, since=5)
def tree_ensemble(node: Node) -> Value:
    """Of the input's type throughout; attributes are numbers where the older operators have words."""
    dtype, targets = node.dtype(0), _targets(node, node.attr("n_targets", 1))
    wide = "float32" if dtype == "float16" else dtype
    forest = counted_forest(node, targets, wide)
    aggregate = _choice(node, "aggregate_function", _AGGREGATES, 1)
    transform = _choice(node, "post_transform", POST_TRANSFORMS, 0)
    x = rows_of(node, wide)
    result = _aggregated(node, x, forest, targets, aggregate, np.zeros(0, wide))
    result = transformed(node, result, transform if targets > 1 or transform == "PROBIT" else "NONE")
    return result if wide == dtype else node.call("Cast", result, to=10)


def _targets(node: Node, count: int) -> int:
    if not 1 <= count <= _MOST_TARGETS:
        raise node.error(f"attribute 'n_targets' must be between 1 and {_MOST_TARGETS}, found {count}")
    return count


def _choice(node: Node, name: str, choices: Sequence[str], default: int) -> str:
    index = node.attr(name, default)
    if not 0 <= index < len(choices):
        raise node.error(f"attribute {name!r} must be one of 0 to {len(choices) - 1}, found {index}")
    return choices[index]


@converter("TreeEnsembleRegressor", domain=AI_ONNX_ML)
def tree_ensemble_regressor(node: Node) -> Value:
    """float32; inputs of float64 are compared and summed in float64, integers in float32.

    As in ONNX Runtime, the only function that a single target goes through is PROBIT.
    """
    targets, dtype = _targets(node, node.required("n_targets")), "float64" if node.dtype(0) == "float64" else "float32"
    aggregate = node.attr("aggregate_function", "SUM")
    if aggregate not in _AGGREGATES:
        raise node.error(f"attribute 'aggregate_function' must be one of {', '.join(_AGGREGATES)}, found {aggregate!r}")
    forest, base = named_forest(node, "target", targets, dtype), _base(node, dtype)
    if len(base) not in (0, targets):
        raise node.error(f"attribute 'base_values' must have {targets} elements, found {len(base)}")
    result = _aggregated(node, rows_of(node, dtype), forest, targets, aggregate, base)
    transform = post_transform(node)
    result = transformed(node, result, transform if targets > 1 or transform == "PROBIT" else "NONE")
    return result if dtype == "float32" else node.call("Cast", result, to=1)


def _base(node: Node, dtype: str) -> np.ndarray:
    return numbers(node, "base_values", dtype, default=[])


def _aggregated(node: Node, x: Value, forest: Forest, targets: int, aggregate: str, base: np.ndarray) -> Value:
    result, _ = _scores(node, x, forest, targets, aggregate)
    if aggregate == "AVERAGE":
        result = node.call("Div", result, np.array(len(forest.roots), base.dtype))
    return node.call("Add", result, base) if len(base) else result


@converter("TreeEnsembleClassifier", domain=AI_ONNX_ML)
def tree_ensemble_classifier(node: Node) -> tuple[Value, Value]:
    """Labels (int64) and scores (float32).

    With two classes and weights of one only, that one's sum decides: above 1/2 if no weight is negative, else above 0.
    """
    names = labels(node, "classlabels_int64s", "classlabels_strings")
    count, dtype = len(names), "float64" if node.dtype(0) == "float64" else "float32"
    forest, base = named_forest(node, "class", count, dtype), _base(node, dtype)
    transform, weighed = post_transform(node), sorted(set(forest.targets.tolist()))
    if count < 2:
        raise node.error(f"at least 2 classes are needed, found {count}")
    single = count == 2 and len(weighed) == 1
    # Whose a base value is where one class has all weights, ONNX leaves open: ONNX Runtime adds it to the first.
    most = (1 if weighed == [0] else 0) if single else count
    if len(base) not in (0, most):
        raise node.error(
            f"attribute 'base_values' must have {most} elements where {len(weighed)} of {count} classes have weights, "
            f"found {len(base)}"
        )
    sums, seen = _scores(node, rows_of(node, dtype), forest, count, "SUM")
    if single:
        return _one_of_two(node, sums, weighed[0], forest, base, transform, names)
    sums = node.call("Add", sums, base) if len(base) else sums
    known = node.call("Cast", seen, to=9)
    chosen = sums if len(base) else node.call("Where", known, sums, np.array(-np.inf, dtype))
    label = labelled(node, node.call("ArgMax", chosen, axis=1, keepdims=0), names)
    return label, _single_precision(node, transformed(node, sums, transform))


def _one_of_two(
    node: Node, sums: Value, weighed: int, forest: Forest, base: np.ndarray, transform: str, names: np.ndarray
) -> tuple[Value, Value]:
    """Two classes, of which only `weighed` has weights; a base value belongs to the first."""
    dtype = np.dtype(sums.dtype)
    both = node.call("Add", sums, np.array([*base, 0], dtype)) if len(base) else sums
    decisive = node.call("Gather", both, np.array(weighed), axis=1)
    positive = not (forest.weights < 0).any()
    limit = np.array(0.5 if positive else 0.0, dtype)
    label = labelled(node, node.call("Cast", node.call("Greater", decisive, limit), to=7), names)
    if weighed == 0:
        if transform == "PROBIT":
            raise node.error("attribute 'post_transform' is PROBIT, which leaves the second of two scores open")
        column = node.call("Unsqueeze", decisive, np.array([1]))
        other = node.call("Sub", np.array(1.0 if positive else 0.0, dtype), column)
        if transform == "LOGISTIC":
            other = node.call("Neg", column)
        both = node.call("Concat", other, column, axis=1)
        transform = transform if transform == "LOGISTIC" else "NONE"
    return label, _single_precision(node, transformed(node, both, transform))


def _single_precision(node: Node, x: Value) -> Value:
    return x if x.dtype == "float32" else node.call("Cast", x, to=1)


def _scores(node: Node, x: Value, forest: Forest, targets: int, aggregate: str) -> tuple[Value, Value]:
    """(rows, targets) of what the leaves say together, 0 where none says anything; and whether one does (uint8)."""
    if len(forest.feature):
        node.require_at_least((x.shape or [0, 0])[1], int(forest.feature.max()) + 1, "the number of features")
    tables = [constant(np.ascontiguousarray(_stored(getattr(forest, name)))) for name in _TABLES]

    def compute(x: te.Tensor, *tables: te.Tensor) -> list[te.Tensor]:
        rows, features = x.shape
        shapes = [[rows, targets], [rows, targets], [rows]]
        dtypes = [x.dtype, "uint8", "int32"]
        outs = [
            tirx.decl_buffer(s, d, n, layout=None)
            for s, d, n in zip(shapes, dtypes, ("scores", "seen", "place"), strict=True)
        ]

        def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
            buffers = (T.buffer_proxy(b) for b in (*ins, *outs))
            of = dict(zip(("x", *_TABLES, "scores", "seen", "place"), buffers, strict=True))
            return _walk(of, forest, (rows, features, targets), aggregate)

        return te.extern(shapes, [x, *tables], body, dtype=dtypes, out_buffers=outs, name="trees")

    found = node.te(compute, x.expr(node.bb), *tables, name="trees")
    scores, seen = (Value(expr=node.emit(relax.TupleGetItem(found, i))) for i in range(2))
    return scores, seen


def _stored(column: np.ndarray) -> np.ndarray:
    """A column as kernels read it; never empty, for a forest of leaves has no nodes."""
    column = column.astype(np.uint8) if column.dtype == bool else column
    return column if len(column) else np.zeros(1, column.dtype)


def _walk(of: dict[str, Any], forest: Forest, sizes: tuple[Any, Any, int], aggregate: str) -> tirx.Stmt:
    """For each row: down every tree to a leaf, whose weights are added to the scores."""
    rows, features, targets = sizes
    x, place, scores, seen = (of[name] for name in ("x", "place", "scores", "seen"))
    dtype = str(forest.weights.dtype)
    with IRBuilder() as builder:
        with T.serial(0, rows, annotations=INDEPENDENT) as n:
            with T.serial(0, targets) as c:
                scores[n * targets + c] = tirx.const(0, dtype)
                seen[n * targets + c] = tirx.const(0, "uint8")
            with T.serial(0, len(forest.roots)) as tree:
                place[n] = of["roots"][tree]
                with T.serial(0, of["depth"][tree].astype("int64")), T.If(place[n] >= 0), T.Then():
                    at = place[n]
                    holds = _holds(of, forest, at, x[n * features + of["feature"][at].astype("int64")])
                    place[n] = tirx.Select(holds, of["true"][at], of["false"][at])
                leaf = -1 - place[n]
                begin = of["starts"][leaf].astype("int64")
                with T.serial(0, of["starts"][leaf + 1].astype("int64") - begin) as k:
                    target = n * targets + of["targets"][begin + k].astype("int64")
                    weight = of["weights"][begin + k]
                    scores[target] = _joined(scores[target], weight, seen[target], aggregate)
                    seen[target] = tirx.const(1, "uint8")
        return builder.get()


def _holds(of: dict[str, Any], forest: Forest, at: ir.Expr, x: ir.Expr) -> ir.Expr:
    """Whether the comparison of node `at` holds for its feature `x`."""
    value, modes = of["value"][at], sorted(set(forest.mode.tolist())) or [0]
    holds = _COMPARISONS[modes[-1]](x, value)
    for mode in modes[:-1]:
        holds = tirx.Select(tirx.EQ(of["mode"][at], mode), _COMPARISONS[mode](x, value), holds)
    if forest.missing.any():
        holds = tirx.any(holds, tirx.all(tirx.isnan(x), of["missing"][at] > tirx.const(0, "uint8")))
    return holds


def _joined(score: ir.Expr, weight: ir.Expr, seen: ir.Expr, aggregate: str) -> ir.Expr:
    if aggregate in ("SUM", "AVERAGE"):
        return score + weight
    pick = tirx.min if aggregate == "MIN" else tirx.max
    return tirx.Select(seen > tirx.const(0, "uint8"), pick(score, weight), weight)
