"""Training data for the cost model, and how well a model does on models that were left out of its training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..artifact.atomic import replace_contents
from ..errors import KompiloError
from ..schedule.target import Target
from .advisors import preferred
from .cost_model import CostModel
from .evidence import Found, combine, join
from .examples import Example, example_of
from .features import idle_factors
from .library import RecordLibrary
from .offered import NONSENSE, Offered
from .record import Holds, Point, Record
from .record_file import record_file
from .task import extract_tasks

# How many of the ranking's first points are measured in the figure `best_of_8`.
FIRST = 8
OTHERS = "(other operators)"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Score:
    """How good choices are on some operators: best known time / time of the choice, so that 1 is perfect.

    Each figure is (geometric mean, worst operator): of the model's first choice, of the best among its first 8, and of
    the templates' own default.
    """

    model: str
    operators: int
    points: int
    first: tuple[float, float]
    best_of_8: tuple[float, float]
    default: tuple[float, float]


def training_examples(library: RecordLibrary, target: Target) -> list[Example]:
    """An example of each operator that the stores of `library` have usable records of, in their order of precedence."""
    holds = Offered(target)
    key = target.spec.key
    places = [files for store in library.stores for files in store.places(key)]
    by_place = [_by_operator([r for f in files for r in record_file(f, key).all()], holds) for files in places]
    examples = []
    for op in dict.fromkeys(op for place in by_place for op in place):
        found = [place[op] for place in by_place if op in place]
        with suppress(*NONSENSE):
            example = example_of(found[0][0].record.op, join(combine(f) for f in found), target)
            examples += [example] if example is not None else []
    return examples


def _by_operator(records: Iterable[Record], holds: Holds) -> dict[str, list[Found]]:
    grouped: dict[str, list[Found]] = {}
    for record in records:
        if record.op.is_static and holds(record):
            grouped.setdefault(str(record.op), []).append(Found(record, ""))
    return grouped


def leave_one_model_out(
    examples: Sequence[Example],
    models: Mapping[str, Iterable[str]],
    target: Target,
    progress: Progress = lambda stage, done, total: None,
) -> list[Score]:
    """A score for each of `models` (name -> texts of its operators), by a cost model that saw none of its operators.

    Operators of no model form a group of their own. The last score is of all operators together; an operator of several
    models counts with each.
    """
    grouped = {name: set(texts) for name, texts in models.items()}
    known = set().union(*grouped.values()) if grouped else set()
    grouped[OTHERS] = {str(e.op) for e in examples} - known
    usable = [e for e in examples if len(e.points) > 1]
    texts = [str(e.op) for e in usable]
    scores, everything = [], []
    for k, (name, own) in enumerate(grouped.items()):
        held = [e for e, text in zip(usable, texts, strict=True) if text in own]
        rest = [e for e, text in zip(usable, texts, strict=True) if text not in own]
        if not held or not rest:
            continue
        progress(f"leaving out {name}", k, len(grouped))
        learned = CostModel.of_examples(rest, target)
        qualities = [quality(e, learned) for e in held]
        scores.append(_score(name, held, qualities))
        everything += list(zip(held, qualities, strict=True))
    if everything:
        held_all, qualities_all = zip(*everything, strict=True)
        scores.append(_score("all", held_all, qualities_all))
    return scores


def quality(example: Example, model: CostModel) -> tuple[float, float, float]:
    """Best time / time: of what the model chooses, of the best of the first 8 of its ranking, and of the default (NaN
    if that was never measured). Times are those that `compile` goes by: what a config is worth on all cores."""
    factors = idle_factors(example.op, model.target, example.points)
    times = model.predict(example.op, example.points) * factors
    seconds = example.seconds * factors
    default = default_place(example, model.target)
    return (
        seconds.min() / seconds[preferred(times, default)],
        seconds.min() / seconds[np.argsort(times, kind="stable")[:FIRST]].min(),
        np.nan if default is None else seconds.min() / seconds[default],
    )


def default_place(example: Example, target: Target) -> int | None:
    """Which of the example's points is taken when nothing is known, or None if it was not measured."""
    for template in target.templates:
        space = template.match(example.op, target.spec)
        if space is not None:
            default = Point(template.name, template.version, space.default)
            return example.points.index(default) if default in example.points else None
    return None


def _score(name: str, held: Sequence[Example], qualities: Sequence[tuple[float, float, float]]) -> Score:
    columns = [[q for q in column if np.isfinite(q)] for column in zip(*qualities, strict=True)]
    figures = [(float(np.exp(np.mean(np.log(c)))), float(min(c))) if c else (np.nan, np.nan) for c in columns]
    return Score(name, len(held), sum(len(e.points) for e in held), *figures)


def operators_of_zoo(
    target: Target, cache: Path, progress: Progress = lambda stage, done, total: None
) -> dict[str, list[str]]:
    """The texts of the operators of each model of the zoo, with its typical input shapes, for `target`.

    Finding them compiles each model halfway: they are kept in `cache` for as long as the compiler's code is the same.
    Models that cannot be had (no network) are left out.
    """
    from ..model_source import zoo

    file = cache / f"operators-{_fingerprint(target)}.json"
    try:
        found: dict[str, list[str]] = json.loads(file.read_text())
    except (OSError, ValueError):
        found = {}
    names = zoo().names()
    for k, name in enumerate(names):
        if name in found:
            continue
        progress(f"operators of {name}", k, len(names))
        try:
            tasks = extract_tasks(f"zoo:{name}", target, dict(zoo().find(name).shapes)).tasks
        except KompiloError:
            continue
        found[name] = [str(task.op) for task in tasks]
        _keep(file, found)
    return found


def _keep(file: Path, found: Mapping[str, list[str]]) -> None:
    """Write the cache; without one (a read-only home) the operators are found anew each time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replace_contents(file) as new:
            new.write(json.dumps(found).encode())
    except OSError:
        return


def _fingerprint(target: Target) -> str:
    """Changes with the target and with any source file that decides which operators a model is made of."""
    from importlib.util import find_spec

    digest = hashlib.sha256(target.spec.key.encode())
    for package in ("kompilo.compiler", "kompilo.targets", "kompilo.models"):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for file in sorted(Path(folder).rglob("*.py")):
                if "tune" not in file.parts and "cli" not in file.parts:
                    digest.update(f"{file.relative_to(folder)}".encode())
                    digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
