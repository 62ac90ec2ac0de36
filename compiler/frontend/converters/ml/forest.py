"""Tables of decision trees, as ai.onnx.ml has them in attributes, read and checked.

`TreeEnsembleClassifier` and `TreeEnsembleRegressor` name nodes by the numbers of their tree and of themselves;
`TreeEnsemble` counts nodes and leaves of all trees. Both become one `Forest`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ...node import Node

# How a node compares a feature with its number, in the order of TreeEnsemble's codes.
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
_EQUAL, _MEMBER = MODES.index("BRANCH_EQ"), 6


@dataclass(frozen=True)
class Forest:
    """Decision trees. A place is a node, or a leaf if it is negative: -1 is leaf 0, -2 leaf 1, ...

    Attributes:
        feature, mode, value, missing: of each node: which feature it compares, how, with what, and whether NaN goes the
            way of a comparison that holds.
        true, false: the places that follow.
        roots: the place where each tree begins, and `depth`, the most nodes on a way from there to a leaf.
        starts: leaf i has the weights `starts[i]` to `starts[i + 1]` (exclusive).
        targets, weights: of each weight.
    """

    feature: np.ndarray
    mode: np.ndarray
    value: np.ndarray
    missing: np.ndarray
    true: np.ndarray
    false: np.ndarray
    roots: np.ndarray
    depth: np.ndarray
    starts: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def _list(node: Node, name: str, count: int | None = None, default: Any = None) -> list:
    """The attribute, of `count` elements where that is given."""
    value = node.attr(name, default)
    if value is None:
        raise node.error(f"attribute {name!r} is required and was not found")
    value = list(value.reshape(-1)) if isinstance(value, np.ndarray) else list(value)
    if count is not None and len(value) != count:
        raise node.error(f"attribute {name!r} must have {count} elements, found {len(value)}")
    return value


def numbers(node: Node, name: str, dtype: str, count: int | None = None, default: Any = None) -> np.ndarray:
    """The attribute `name`, or `name`_as_tensor, as numbers of `dtype`."""
    chosen = f"{name}_as_tensor" if node.attr(f"{name}_as_tensor") is not None else name
    return np.array(_list(node, chosen, count, default), dtype)


def _inside(node: Node, name: str, values: Sequence[int], size: int) -> np.ndarray:
    wrong = next((v for v in values if not 0 <= v < size), None)
    if wrong is not None:
        raise node.error(f"attribute {name!r} must be at least 0 and less than {size}, found {wrong}")
    return np.array(values, np.int64)


def _missing(node: Node, count: int) -> np.ndarray:
    name = "nodes_missing_value_tracks_true"
    return np.array(_list(node, name, count) if node.attr(name) else [0] * count, bool)


def named_forest(node: Node, kind: str, targets: int, dtype: str) -> Forest:
    """The trees of TreeEnsembleClassifier and -Regressor, whose weights have attributes called `kind`_ids, ...

    Args:
        targets: how many classes or targets there are.
        dtype: of what nodes compare with, and of weights.
    Raises:
        ModelError: lists of unequal length, nodes that are not there, or that follow on themselves.
    """
    trees = _list(node, "nodes_treeids")
    count = len(trees)
    if not count:
        raise node.error("attribute 'nodes_treeids' is empty: there are no trees")
    ids = list(zip(trees, _list(node, "nodes_nodeids", count), strict=True))
    place: dict[tuple[int, int], int] = {}
    inner: list[int] = []
    leaves: list[int] = []
    for index, (key, mode) in enumerate(zip(ids, _list(node, "nodes_modes", count), strict=True)):
        if key in place:
            raise node.error(f"attribute 'nodes_nodeids' has node {key[1]} of tree {key[0]} twice")
        if mode != "LEAF" and mode not in MODES:
            raise node.error(f"attribute 'nodes_modes' must hold LEAF or one of {', '.join(MODES)}, found {mode!r}")
        place[key] = -1 - len(leaves) if mode == "LEAF" else len(inner)
        (leaves if mode == "LEAF" else inner).append(index)
    ways = []
    for way in ("nodes_truenodeids", "nodes_falsenodeids"):
        given = _list(node, way, count)
        missing = next(((trees[i], given[i]) for i in inner if (trees[i], given[i]) not in place), None)
        if missing is not None:
            raise node.error(f"attribute {way!r} names node {missing[1]} of tree {missing[0]}, which is not there")
        ways.append(np.array([place[trees[i], given[i]] for i in inner], np.int64))
    modes = _list(node, "nodes_modes", count)
    first: dict[int, int] = {}
    for key in ids:
        first.setdefault(key[0], place[key])
    return _finished(
        node,
        feature=np.array(_list(node, "nodes_featureids", count), np.int64)[inner],
        mode=np.array([MODES.index(modes[i]) for i in inner], np.int64),
        value=numbers(node, "nodes_values", dtype, count)[inner],
        missing=_missing(node, count)[inner],
        true=ways[0],
        false=ways[1],
        roots=np.array(list(first.values()), np.int64),
        **_named_weights(node, kind, targets, dtype, place, len(leaves)),
    )


def _named_weights(
    node: Node, kind: str, targets: int, dtype: str, place: dict[tuple[int, int], int], leaves: int
) -> dict[str, np.ndarray]:
    ids = _list(node, f"{kind}_ids")
    weights = numbers(node, f"{kind}_weights", dtype, len(ids))
    keys = list(zip(_list(node, f"{kind}_treeids", len(ids)), _list(node, f"{kind}_nodeids", len(ids)), strict=True))
    unknown = next((key for key in keys if key not in place), None)
    if unknown is not None:
        raise node.error(f"attribute '{kind}_nodeids' names node {unknown[1]} of tree {unknown[0]}, which is not there")
    at = np.array([-1 - place[key] for key in keys], np.int64)
    # Weights of nodes that are no leaves are never reached.
    kept = np.flatnonzero(at >= 0)
    order = kept[np.argsort(at[kept], kind="stable")]
    starts = np.searchsorted(at[order], np.arange(leaves + 1))
    return {"starts": starts, "targets": _inside(node, f"{kind}_ids", ids, targets)[order], "weights": weights[order]}


def counted_forest(node: Node, targets: int, dtype: str) -> Forest:
    """The trees of TreeEnsemble; errors as in `named_forest`."""
    feature = _list(node, "nodes_featureids")
    count = len(feature)
    leaf_targets = _list(node, "leaf_targetids")
    leaves = len(leaf_targets)
    if not count:
        raise node.error("attribute 'nodes_featureids' is empty: there are no trees")
    modes = _inside(node, "nodes_modes", [int(m) for m in _list(node, "nodes_modes", count)], _MEMBER + 1)
    ways = []
    for way in ("true", "false"):
        is_leaf = np.array(_list(node, f"nodes_{way}leafs", count), bool)
        name = f"nodes_{way}nodeids"
        ids = np.array(_list(node, name, count), np.int64)
        _inside(node, name, list(ids[is_leaf]), leaves)
        _inside(node, name, list(ids[~is_leaf]), count)
        ways.append(np.where(is_leaf, -1 - ids, ids))
    roots = _inside(node, "tree_roots", _list(node, "tree_roots"), count)
    # A tree of one leaf is a node of which both ways lead there.
    table = {
        "feature": np.array(feature, np.int64),
        "mode": modes,
        "value": numbers(node, "nodes_splits", dtype, count),
        "missing": _missing(node, count),
        "true": ways[0],
        "false": ways[1],
    }
    return _finished(
        node,
        roots=roots,
        starts=np.arange(leaves + 1),
        targets=_inside(node, "leaf_targetids", leaf_targets, targets),
        weights=numbers(node, "leaf_weights", dtype, leaves),
        **_without_members(node, table),
    )


def _without_members(node: Node, table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Nodes that ask whether a feature is in a set as chains of nodes that compare it with each member."""
    members = np.flatnonzero(table["mode"] == _MEMBER)
    if not len(members):
        return table
    values = numbers(node, "membership_values", str(table["value"].dtype))
    ends = np.flatnonzero(np.isnan(values))
    if len(ends) != len(members) or ends[-1] != len(values) - 1:
        raise node.error(
            f"attribute 'membership_values' must have {len(members)} sets, each with NaN at its end, found {len(ends)}"
        )
    rows: list[dict[str, Any]] = []
    table = {name: column.copy() for name, column in table.items()}
    count, begin = len(table["mode"]), 0
    for index, end in zip(members.tolist(), ends.tolist(), strict=True):
        chosen, begin = values[begin:end], end + 1
        if not len(chosen):  # nothing is in an empty set, but NaN may go the way of what is
            chosen = np.full(1, np.nan, values.dtype)
        table["mode"][index], table["value"][index] = _EQUAL, chosen[0]
        own = {name: column[index] for name, column in table.items()}
        for position, member in enumerate(chosen[1:]):
            following = count + len(rows)
            if position:
                rows[-1]["false"] = following
            else:
                table["false"][index] = following
            rows.append(own | {"value": member})
    added = {name: np.array([row[name] for row in rows], column.dtype) for name, column in table.items()}
    return {name: np.concatenate([column, added[name]]) for name, column in table.items()}


def _finished(node: Node, **columns: np.ndarray) -> Forest:
    negative = columns["feature"][columns["feature"] < 0]
    if len(negative):
        raise node.error(f"attribute 'nodes_featureids' must not be negative, found {negative[0]}")
    depths = _depths(node, columns["true"], columns["false"])
    depth = np.array([0 if root < 0 else depths[root] for root in columns["roots"]], np.int64)
    integers = {n: c.astype(np.int32) for n, c in columns.items() if n not in ("value", "weights", "missing")}
    return Forest(**(columns | integers), depth=depth.astype(np.int32))


def _depths(node: Node, true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """For each node the most nodes from it to a leaf; ModelError where a way leads back to where it began."""
    depths = np.zeros(len(true), np.int64)
    state = bytearray(len(true))  # 1 on the way that is being followed, 2 once it is done
    for start in range(len(true)):
        stack = [start] if not state[start] else []
        while stack:
            at = stack[-1]
            following = [int(way[at]) for way in (true, false) if way[at] >= 0]
            if not state[at]:
                state[at] = 1
                if any(state[n] == 1 for n in following):
                    raise node.error("a way through the nodes of a tree leads back to where it began")
                stack.extend(n for n in following if not state[n])
            else:
                stack.pop()
                if state[at] == 1:
                    depths[at] = 1 + max((depths[n] for n in following), default=0)
                    state[at] = 2
    return depths
