"""Boosted regression trees: grown by XGBoost, kept as plain arrays, evaluated with numpy.

Predicting needs no XGBoost, whose import alone takes longer than ranking all operators of a model; and a file of plain
arrays is read by any version of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

Settings = Mapping[str, float | int | str]


@dataclass(frozen=True)
class Trees:
    """An ensemble whose prediction is the sum of one leaf of each tree.

    Nodes of all trees are numbered together; tree k begins at `roots[k]`. At node n a row goes to `left[n]` if its
    value of `feature[n]` is less than `threshold[n]`, or is missing and `missing_left[n]`, else to `right[n]`. A leaf
    leads to itself, and its threshold is its value. No path is longer than `depth`.
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    missing_left: np.ndarray
    depth: int

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """The sum over all trees for each row: `rows` float32 (n, features), the result float64 (n,)."""
        if not len(self.roots):
            return np.zeros(len(rows))
        feature, threshold, child, missing_left = self._tables
        flat, base = np.ascontiguousarray(rows).ravel(), (np.arange(len(rows)) * rows.shape[1])[:, None]
        with_gaps = bool(np.isnan(flat).any())
        at = np.repeat(self.roots.astype(np.intp)[None], len(rows), axis=0)
        for _ in range(self.depth):
            value = flat.take(base + feature.take(at))
            goes_left = value < threshold.take(at)
            if with_gaps:
                goes_left |= np.isnan(value) & missing_left.take(at)
            at = child.take(2 * at + goes_left)
        return threshold.take(at).sum(axis=1, dtype=np.float64)

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Features, thresholds, children (right, left) of each node in turn, directions: as `take` is fastest with."""
        child = np.stack([self.right, self.left], axis=1).ravel().astype(np.intp)
        return self.feature.astype(np.intp), self.threshold, child, self.missing_left

    def arrays(self) -> dict[str, np.ndarray]:
        """All fields, for a file."""
        return {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], features: int) -> Trees:
        """What `arrays` gave; KeyError if a field is missing, ValueError if they are no trees over so many features."""
        columns = {f.name: arrays[f.name] for f in fields(cls) if f.name != "depth"}
        trees = cls(**columns, depth=int(arrays["depth"]))
        trees._check(features)
        return trees

    def _check(self, features: int) -> None:
        nodes = len(self.feature)
        same = all(len(a) == nodes for a in (self.threshold, self.left, self.right, self.missing_left))
        inside = all(((a >= 0) & (a < nodes)).all() for a in (self.roots, self.left, self.right))
        known = ((self.feature >= 0) & (self.feature < features)).all()
        if not same or not inside or not known or self.depth > 64:
            raise ValueError("these arrays are no trees")


def no_trees() -> Trees:
    """An ensemble that always predicts 0."""
    nothing = np.zeros(0, np.int32)
    return Trees(nothing, nothing, nothing, nothing, nothing, nothing, 0)


def grow(
    rows: np.ndarray,
    labels: np.ndarray,
    rounds: int,
    settings: Settings,
    weights: np.ndarray | None = None,
) -> Trees:
    """Trees that predict `labels` from `rows`; the same for the same arguments, on one thread.

    `rows` is float32 (n, features), NaN where a value is missing; `labels` and `weights` (default 1) have shape (n,).
    """
    import xgboost

    data = xgboost.DMatrix(rows, labels, weight=weights)
    fixed = {"nthread": 1, "base_score": 0.0, "tree_method": "hist", "verbosity": 0}
    booster = xgboost.train({**fixed, **settings}, data, rounds)
    model = json.loads(bytes(booster.save_raw("json")))
    return _flatten(model["learner"]["gradient_booster"]["model"]["trees"])


def _flatten(trees: Sequence[Mapping[str, Sequence[float]]]) -> Trees:
    """One Trees of XGBoost's own; there, children of a leaf are -1 and its value is its split condition."""
    roots: list[int] = []
    parts = []
    start = depth = 0
    for tree in trees:
        left, right = (np.array(tree[side], np.int32) for side in ("left_children", "right_children"))
        own = np.arange(len(left), dtype=np.int32)
        leaf = left < 0
        parts.append(
            (
                np.where(leaf, 0, np.array(tree["split_indices"])).astype(np.int32),
                np.array(tree["split_conditions"], np.float32),
                np.where(leaf, own, left) + start,
                np.where(leaf, own, right) + start,
                np.array(tree["default_left"], bool),
            )
        )
        roots.append(start)
        start += len(left)
        depth = max(depth, _depth(left, right))
    feature, threshold, left, right, missing = (np.concatenate(c) for c in zip(*parts, strict=True))
    return Trees(np.array(roots, np.int32), feature, threshold, left, right, missing, depth)


def _depth(left: np.ndarray, right: np.ndarray) -> int:
    level, depth = np.array([0]), 0
    while True:
        level = np.concatenate([side[level][left[level] >= 0] for side in (left, right)])
        if not len(level):
            return depth
        depth += 1
