"""Decision trees of ai.onnx.ml against ONNX Runtime, and, for TreeEnsemble, ONNX's evaluator."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

pytest.importorskip("onnxruntime", reason="the trees are compared with ONNX Runtime")

from kompilo.compiler.errors import ModelError

from op_test import check_op, check_variants, floats, ints, make_model, reference_outputs

ML = "ai.onnx.ml"
MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]

NODES = ("treeids", "nodeids", "modes", "featureids", "values", "truenodeids", "falsenodeids")
WEIGHTS = ("treeids", "nodeids", "ids", "weights")


def forest(seed: int, targets: list[int], modes: list[str], kind: str, trees: int = 5, **more: Any) -> dict[str, Any]:
    """Random trees of uneven depth over 4 features, whose leaves have a weight for some of `targets`."""
    rng = np.random.default_rng(seed)
    table: dict[str, list] = {name: [] for name in NODES}
    weights: dict[str, list] = {name: [] for name in WEIGHTS}
    for tree in range(trees):
        count = 0

        def grow(depth: int, tree: int = tree) -> int:
            nonlocal count
            me, row = count, len(table["modes"])
            count += 1
            leaf = depth == 0 or rng.random() < 0.2
            mode, value = "LEAF" if leaf else str(rng.choice(modes)), float(rng.integers(-3, 4)) / 2
            entry = (tree, me, mode, int(rng.integers(4)), value, 0, 0)
            for column, value in zip(table.values(), entry, strict=True):
                column.append(value)
            if leaf:
                for target in rng.permutation(targets)[: rng.integers(1, len(targets) + 1)]:
                    entry = (tree, me, int(target), float(rng.normal()))
                    for column, value in zip(weights.values(), entry, strict=True):
                        column.append(value)
            else:
                table["truenodeids"][row] = grow(depth - 1)
                table["falsenodeids"][row] = grow(depth - 1)
            return me

        grow(4)
    return {f"nodes_{n}": v for n, v in table.items()} | {f"{kind}_{n}": v for n, v in weights.items()} | more


def rows(count: int = 23, dtype: str = "float32") -> np.ndarray:
    """Rows that often equal what the trees compare with."""
    return (ints(count, 4, low=-4, high=5) / 2).astype(dtype)


def test_all_modes_and_missing_values() -> None:
    attributes = forest(1, [0], MODES, "target", n_targets=1)
    x = rows()
    x[::3, 1] = x[::5, 2] = np.nan
    tracks = {"nodes_missing_value_tracks_true": ints(len(attributes["nodes_modes"]), low=0, high=2).tolist()}
    each = [forest(2, [0], [mode], "target", n_targets=1, trees=2) for mode in MODES]
    check_variants("TreeEnsembleRegressor", x, [attributes, attributes | tracks, *each], dynamic=True, domain=ML)


def test_aggregates() -> None:
    nodes = []
    for aggregate in ("SUM", "AVERAGE", "MIN", "MAX"):
        attributes = forest(3, [0, 1, 2], MODES[:1], "target", n_targets=3, aggregate_function=aggregate)
        one = forest(4, [0], MODES[:2], "target", n_targets=1, aggregate_function=aggregate, base_values=[0.25])
        nodes += [attributes, attributes | {"base_values": [0.5, -1.0, 2.0]}, one]
    check_variants("TreeEnsembleRegressor", rows(), nodes, domain=ML)


@pytest.mark.parametrize("dtype", ["float64", "int64", "int32"])
def test_types(dtype: str) -> None:
    """ONNX Runtime's regressor takes no integers: floats of the same values then."""
    attributes, x = forest(5, [0, 1], MODES[:2], "target", n_targets=2), rows(dtype=dtype)
    named = {"x": x if dtype == "float64" else x.astype(np.float32)}
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain=ML, **attributes)
    wanted = reference_outputs(make_model([node], named, ["y"], domain=ML), named)
    check_op("TreeEnsembleRegressor", [x], attributes, domain=ML, reference=wanted)
    attributes = forest(5, [0, 1, 2], MODES[2:4], "class", classlabels_int64s=[4, 8, 15])
    check_op("TreeEnsembleClassifier", [x], attributes, domain=ML, outputs=2)


def test_numbers_in_tensors() -> None:
    """From opset 3 on, numbers may be tensors; the operator is deprecated in opset 5 and the same."""
    attributes = forest(11, [0, 1], MODES[:1], "target", n_targets=2, base_values=[0.1, 0.2])
    for name in ("nodes_values", "target_weights", "base_values"):
        values = np.array(attributes.pop(name), np.float64) / 3
        attributes[f"{name}_as_tensor"] = numpy_helper.from_array(values, name)
    x = rows(dtype="float64") / 3
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain=ML, **attributes)
    wanted = reference_outputs(make_model([node], {"x": x}, ["y"], domain=ML, version=3), {"x": x})
    check_op("TreeEnsembleRegressor", [x], attributes, domain=ML, version=3, reference=wanted)
    check_op("TreeEnsembleRegressor", [x], attributes, domain=ML, version=5, reference=wanted)


def test_post_transforms() -> None:
    classes, targets = [], []
    for transform in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"):
        attributes = forest(6, [0, 1, 2], MODES[:1], "class", classlabels_int64s=[7, -2, 30], post_transform=transform)
        classes += [attributes, attributes | {"base_values": [0.5, -0.25, 0.125]}]
        for count in (2, 1):
            ids = list(range(count))
            targets.append(forest(7, ids, MODES[:1], "target", n_targets=count, post_transform=transform))
    check_variants("TreeEnsembleClassifier", rows(), classes, outputs=2, dynamic=True, domain=ML)
    check_variants("TreeEnsembleRegressor", rows(), targets, domain=ML)


def test_two_classes_of_which_one_has_weights() -> None:
    nodes = []
    for weighed, positive in itertools.product((0, 1), (True, False)):
        attributes = forest(8, [weighed], MODES[:1], "class", classlabels_int64s=[5, 9])
        if positive:
            attributes["class_weights"] = [abs(w) / 3 for w in attributes["class_weights"]]
        for transform in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"):
            nodes.append(attributes | {"post_transform": transform})
            nodes += [] if weighed else [nodes[-1] | {"base_values": [0.1]}]
    check_variants("TreeEnsembleClassifier", rows(), nodes, outputs=2, domain=ML)


def test_two_classes_of_which_both_have_weights() -> None:
    """The label is that of the larger score, as in ONNX's text; ONNX Runtime's is a number that need not be a label."""
    attributes = forest(9, [0, 1], MODES[:1], "class", classlabels_int64s=[0, 1])
    attributes["class_weights"] = [abs(w) for w in attributes["class_weights"]]
    wanted = _larger(attributes, rows(5))
    check_op("TreeEnsembleClassifier", [rows(5)], attributes, domain=ML, outputs=2, reference=wanted)


def _larger(attributes: dict[str, Any], x: np.ndarray) -> list[np.ndarray]:
    sums = np.array([[_sum(attributes, row, c) for c in (0, 1)] for row in x], np.float32)
    return [sums.argmax(1), sums]


def _sum(attributes: dict[str, Any], row: np.ndarray, target: int) -> float:
    """The sum of weights of the leaves that a row gets to, by following the attributes one by one."""
    ids = list(zip(attributes["nodes_treeids"], attributes["nodes_nodeids"], strict=True))
    total = 0.0
    for tree in sorted(set(attributes["nodes_treeids"])):
        at = ids.index((tree, 0))
        while attributes["nodes_modes"][at] != "LEAF":
            holds = row[attributes["nodes_featureids"][at]] <= attributes["nodes_values"][at]
            at = ids.index((tree, attributes["nodes_truenodeids" if holds else "nodes_falsenodeids"][at]))
        for key in zip(*(attributes[f"class_{n}"] for n in WEIGHTS), strict=True):
            total += key[3] if key[:3] == (tree, ids[at][1], target) else 0.0
    return total


def _ensemble(dtype: Any = np.float32, **changes: Any) -> dict[str, Any]:
    """Two trees over 3 features: 0 (<= 0.5) and 1 (feature 1 in {1, 2.5}) are nodes, then a tree of node 2."""
    arrays = {
        "nodes_splits": np.array([0.5, 0.0, -1.0], dtype),
        "nodes_modes": np.array([0, 6, 3], np.uint8),
        "leaf_weights": np.array([1.5, -2.0, 0.25, 4.0, 8.0], dtype),
        "membership_values": np.array([1.0, 2.5, np.nan], dtype),
    }
    table = {
        "n_targets": 2,
        "nodes_featureids": [0, 1, 2],
        "nodes_truenodeids": [1, 0, 3],
        "nodes_trueleafs": [0, 1, 1],
        "nodes_falsenodeids": [2, 1, 4],
        "nodes_falseleafs": [1, 1, 1],
        "leaf_targetids": [0, 1, 0, 1, 0],
        "tree_roots": [0, 2],
        "aggregate_function": 1,
        "post_transform": 0,
    }
    return {n: numpy_helper.from_array(a, n) for n, a in arrays.items()} | table | changes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tree_ensemble(dtype: str) -> None:
    x = np.array([[0, 1, 0], [0.5, 2.5, -1], [0, 2, -2], [1, 1, 0], [np.nan, 1, 5]], dtype)
    wanted = np.array([[1.5, 4], [9.5, 0], [8, -2], [0.25, 4], [0.25, 4]], dtype)
    model_opset = {"domain": ML, "version": 5}
    check_op("TreeEnsemble", [x], _ensemble(np.dtype(dtype)), reference=[wanted], dynamic=True, **model_opset)
    averaged = _ensemble(np.dtype(dtype), aggregate_function=0)
    check_op("TreeEnsemble", [x], averaged, reference=[wanted / 2], **model_opset)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "cycle": ({"nodes_truenodeids": [0, 0, 3]}, "a way through the nodes of a tree leads back to where it began"),
    "leaf": ({"nodes_truenodeids": [1, 5, 3]}, "'nodes_truenodeids' must be at least 0 and less than 5, found 5"),
    "node": ({"nodes_truenodeids": [7, 0, 3]}, "'nodes_truenodeids' must be at least 0 and less than 3, found 7"),
    "root": ({"tree_roots": [3]}, "'tree_roots' must be at least 0 and less than 3, found 3"),
    "length": ({"nodes_falseleafs": [1, 1]}, "'nodes_falseleafs' must have 3 elements, found 2"),
    "target": ({"leaf_targetids": [0, 1, 2, 1, 0]}, "'leaf_targetids' must be at least 0 and less than 2, found 2"),
    "feature": ({"nodes_featureids": [0, 1, 9]}, "the number of features must be at least 10, found 3"),
    "negative": ({"nodes_featureids": [0, 1, -1]}, "'nodes_featureids' must not be negative, found -1"),
    "aggregate": ({"aggregate_function": 4}, "'aggregate_function' must be one of 0 to 3, found 4"),
    "targets": ({"n_targets": 2**31}, "'n_targets' must be between 1 and 1048576, found 2147483648"),
    "transform": ({"post_transform": -1}, "'post_transform' must be one of 0 to 4, found -1"),
    "members": (
        {"membership_values": numpy_helper.from_array(np.ones(2, np.float32))},
        "'membership_values' must have 1 sets, each with NaN at its end, found 0",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tables(name: str) -> None:
    changes, message = WRONG[name]
    with pytest.raises(ModelError, match=message):
        check_op("TreeEnsemble", [floats(2, 3)], _ensemble(**changes), domain=ML, version=5, reference=[])


NAMED: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"nodes_truenodeids": [9, 0, 0]}, "'nodes_truenodeids' names node 9 of tree 0, which is not there"),
    "cycle": ({"nodes_falsenodeids": [0, 0, 0]}, "leads back to where it began"),
    "twice": ({"nodes_nodeids": [0, 1, 1]}, "'nodes_nodeids' has node 1 of tree 0 twice"),
    "mode": ({"nodes_modes": ["BRANCH", "LEAF", "LEAF"]}, "'nodes_modes' must hold LEAF or one of .* found 'BRANCH'"),
    "weight": ({"target_nodeids": [1, 7]}, "'target_nodeids' names node 7 of tree 0, which is not there"),
    "base": ({"base_values": [1.0, 2.0]}, "'base_values' must have 1 elements, found 2"),
    "function": ({"aggregate_function": "MEDIAN"}, "'aggregate_function' must be one of .* found 'MEDIAN'"),
}


@pytest.mark.parametrize("name", NAMED)
def test_wrong_named_tables(name: str) -> None:
    table: dict[str, Any] = {
        "n_targets": 1,
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.0, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [1.0, 2.0],
    }
    changes, message = NAMED[name]
    with pytest.raises(ModelError, match=message):
        check_op("TreeEnsembleRegressor", [floats(2, 3)], table | changes, domain=ML, reference=[])
