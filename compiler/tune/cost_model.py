"""The cost model: which of an operator's candidates is fastest, and about how long it takes, without measuring.

Two ensembles of trees divide the work. `ranking` predicts ln(time / median time of the operator's candidates) and sees
all features; only it decides between candidates, so no capacity is spent on what they have in common. `level` predicts
ln(median time / ideal time) of an operator from the operator's features, which makes seconds of it. In a session a
third, small ensemble learns what the measurements so far say of both.
"""

from __future__ import annotations

import io
import json
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ..artifact.atomic import replace_contents
from ..errors import UsageError
from ..schedule.op_spec import OpSpec
from ..schedule.target import Target
from .examples import Example, examples_of
from .features import CONFIG, FEATURE_NAMES, feature_names, features, ideal_cycles
from .record import Point, Record
from .trees import Settings, Trees, grow, no_trees

FORMAT = 1
FILE_NAME = "cost_model.npz"
# Ideal cycles become seconds at this clock; the level learns how far that is from the truth.
NOMINAL_HERTZ = 2.5e9
# Deviations of more e-folds than this are not told apart: a candidate is then simply bad, or a time wrong.
FAR = 0.7

# A candidate that is slower than the best by this many e-folds weighs 1/e of it: it is the good ones that must be told
# apart. The least weight keeps the bad ones known as bad.
NEAR, LEAST_WEIGHT = 0.3, 0.05

RANKING: Settings = {
    "max_depth": 6,
    "eta": 0.1,
    "subsample": 0.8,
    "colsample_bytree": 0.3,
    # Each round grows several trees and takes their mean: choices on left-out models get 0.3% better by it.
    "num_parallel_tree": 4,
    "min_child_weight": 2,
    "seed": 0,
}
RANKING_ROUNDS = 150
LEVEL: Settings = {"max_depth": 3, "eta": 0.1, "subsample": 0.8, "colsample_bytree": 0.8, "seed": 0}
LEVEL_ROUNDS = 60
# In a session: few, shallow trees over few measurements.
SESSION: Settings = {"max_depth": 4, "eta": 0.15, "colsample_bytree": 0.5, "min_child_weight": 2, "seed": 0}
SESSION_ROUNDS = 30

# By how many e-folds a config of which nothing is known is thought to be slower than the one before it.
UNTOLD = 0.02

_OPERATOR_PART = slice(0, len(FEATURE_NAMES) - len(CONFIG))
_ESTIMATE = FEATURE_NAMES.index("config.estimate")


@dataclass(frozen=True)
class CostModel:
    """Predicts times of candidates on `target`; never changed, `with_records` gives another.

    Without `ranking` and `level`, as `CostModel(target)`, it ranks by a plain estimate until records arrive. `trained`
    says what it was trained on.
    """

    target: Target
    ranking: Trees = field(default_factory=no_trees)
    level: Trees = field(default_factory=no_trees)
    trained: tuple[tuple[str, Any], ...] = ()
    session: Trees = field(default_factory=no_trees)
    examples: tuple[Example, ...] = ()

    @classmethod
    def fit(cls, records: Sequence[Record], target: Target) -> CostModel:
        """A model of all usable `records`: of `target`, of present template versions, successful, of known sizes.

        Raises UsageError if there are too few to learn from.
        """
        return cls.of_examples(examples_of(records, target), target)

    @classmethod
    def of_examples(cls, examples: Sequence[Example], target: Target) -> CostModel:
        """A model of `examples`, of `target`; errors as for `fit`."""
        usable = [e for e in examples if len(e.points) > 1]
        if not usable:
            raise UsageError(
                f"cannot train a cost model for {target.spec.key}: expected records of several configs of an operator, "
                f"found {sum(len(e.points) for e in examples)} usable record(s)."
            )
        rows = np.concatenate([e.rows for e in usable])
        # The median: a candidate that takes 20 times as long says nothing of the others.
        middles = [float(np.median(np.log(e.seconds))) for e in usable]
        labels = np.concatenate([np.log(e.seconds) - m for e, m in zip(usable, middles, strict=True)])
        weights = np.concatenate([_weights(e.seconds) for e in usable])
        levels = np.array([m - np.log(ideal_seconds(e.op, target)) for e, m in zip(usable, middles, strict=True)])
        return cls(
            target,
            grow(rows, np.clip(labels, -FAR, FAR), RANKING_ROUNDS, RANKING, weights),
            grow(np.stack([e.rows[0, _OPERATOR_PART] for e in usable]), levels, LEVEL_ROUNDS, LEVEL),
            (("operators", len(usable)), ("records", len(rows))),
        )

    def predict(self, op: OpSpec, points: Sequence[Point]) -> np.ndarray:
        """Seconds of each point on one thread, float64 of shape (len(points),); `op` is of known sizes.

        Raises KeyError for a point of an unknown template, or of another version of one.
        """
        if not points:
            return np.zeros(0)
        rows = features(op, self.target, points)
        return np.exp(self._logs(op, rows) + self.session.predict(rows))

    def with_records(self, records: Sequence[Record]) -> CostModel:
        """The same model, knowing `records` beside those of earlier calls; takes a fraction of a second.

        Deviations of the measured times from the prediction are learned from the operators at hand, with little weight
        on how all of an operator's times deviate, as that does not change their order.
        """
        examples = _joined(self.examples, examples_of(records, self.target))
        if not examples:
            return self
        rows = np.concatenate([e.rows for e in examples])
        errors = [np.log(e.seconds) - self._logs(e.op, e.rows) for e in examples]
        middles = [float(np.median(e)) for e in errors]
        centred = [e - m + np.clip(m, -FAR, FAR) / (1 + len(e)) for e, m in zip(errors, middles, strict=True)]
        labels = np.clip(np.concatenate(centred), -FAR, FAR)
        return replace(self, session=grow(rows, labels, SESSION_ROUNDS, SESSION), examples=examples)

    def _logs(self, op: OpSpec, rows: np.ndarray) -> np.ndarray:
        """ln of seconds, but for what the session has taught."""
        logs = np.full(len(rows), np.log(ideal_seconds(op, self.target)))
        if not len(self.ranking.roots):
            estimate = rows[:, _ESTIMATE]
            # A template that tells nothing of its configs names the best first, and so do several together.
            told = not np.isnan(estimate).any()
            return logs + (np.log(estimate) if told else UNTOLD * np.arange(len(rows)))
        return logs + self.level.predict(rows[:1, _OPERATOR_PART])[0] + self.ranking.predict(rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, without a session's lessons, as one compressed file; UsageError if that fails."""
        facts = {
            "format": FORMAT,
            "target": self.target.spec.key,
            "features": list(feature_names(self.target)),
            "trained": dict(self.trained),
        }
        parts = {"ranking": self.ranking, "level": self.level}
        arrays: dict[str, Any] = {
            f"{part}_{name}": a for part, trees in parts.items() for name, a in trees.arrays().items()
        }
        data = io.BytesIO()
        np.savez_compressed(data, facts=np.array(json.dumps(facts)), **arrays)
        place = Path(path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with replace_contents(place) as file:
                file.write(data.getvalue())
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError(f"cannot write the cost model to {str(place)!r}: {reason}.") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str], target: Target) -> CostModel:
        """The model in a file; UsageError if it cannot be read, or was made for other features or another target."""
        facts, arrays = _read(Path(path))
        if facts.get("format") != FORMAT or facts.get("features") != list(feature_names(target)):
            raise UsageError(
                f"the cost model in {str(path)!r} was made by another version of Kompilo.",
                "kompilo train-cost-model makes a new one from your records.",
            )
        made_for, trained = str(facts.get("target")), dict(facts.get("trained", {}))
        if _without_cores(made_for) != _without_cores(target.spec.key):
            raise UsageError(f"the cost model in {str(path)!r} is for {made_for}, expected one for {target.spec.key}.")
        try:
            ranking = Trees.of_arrays(_part("ranking", arrays), len(feature_names(target)))
            level = Trees.of_arrays(_part("level", arrays), _OPERATOR_PART.stop)
        except (KeyError, ValueError) as error:
            raise _unreadable(path, error) from None
        return cls(target, ranking, level, tuple(trained.items()))

    @classmethod
    def pretrained(cls, target: Target) -> CostModel | None:
        """The user's own model for `target`, else the one that comes with Kompilo, else None.

        Times of one thread do not depend on how many cores there are: a model for the same CPU with another number of
        cores will do. One that an earlier version of Kompilo made is passed over.
        """
        for path in model_files(target.spec.key):
            try:
                return cls.load(path, target)
            except UsageError:
                continue
        return None


def ideal_seconds(op: OpSpec, target: Target) -> float:
    """Time of `op` at the peak rate of a core of nominal clock, or of a device at its own."""
    return ideal_cycles(op, target.spec) / float(getattr(target.spec, "clock_hz", NOMINAL_HERTZ))


def model_files(key: str) -> list[Path]:
    """Existing models for the target `key`, best first: the user's before the installed, this number of cores first."""
    from .store import installed_store, user_store

    stores = [s for s in (user_store(), installed_store()) if s is not None]
    found = [p for s in stores for p in sorted(s.folder.glob(f"*/{FILE_NAME}"))]
    same = [p for p in found if _without_cores(p.parent.name) == _without_cores(key)]
    return sorted(same, key=lambda p: p.parent.name != key)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The facts and arrays of a model's file; UsageError if it is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts = json.loads(str(arrays.pop("facts")))
        if not isinstance(facts, dict):
            raise ValueError("no facts")
    except (OSError, ValueError, KeyError, EOFError, AttributeError, BadZipFile, zlib.error) as error:
        raise _unreadable(path, error) from None
    return facts, arrays


def _part(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(f"{name}_"): a for k, a in arrays.items() if k.startswith(f"{name}_")}


def _unreadable(path: str | os.PathLike[str], error: Exception) -> UsageError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UsageError(f"cannot read a cost model from {str(path)!r}: {reason.lower() or 'it is incomplete'}.")


def _without_cores(key: str) -> str:
    return re.sub(r"-\d+c$", "", key)


def _weights(seconds: np.ndarray) -> np.ndarray:
    """How much each candidate of an operator counts in training, given their times."""
    logs = np.log(seconds)
    return np.exp((logs.min() - logs) / NEAR) + LEAST_WEIGHT


def _joined(old: Sequence[Example], new: Sequence[Example]) -> tuple[Example, ...]:
    """Examples of each operator together; of a point measured again the newer time counts."""
    joined: dict[OpSpec, Example] = {e.op: e for e in old}
    for example in new:
        joined[example.op] = joined[example.op].with_news(example) if example.op in joined else example
    return tuple(joined.values())
