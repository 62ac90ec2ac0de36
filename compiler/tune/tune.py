"""`kompilo.tune`: find faster configs for a model's operators and remember them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..driver import check_precision
from ..errors import UsageError
from ..schedule.op_words import op_words
from ..schedule.selection import Selector
from ..schedule.target import Target, find_target
from ..version import VERSION
from .advisors import default_advisors
from .arguments import check_arguments
from .budget import budget_seconds
from .cost_model import CostModel
from .device.local import check_local
from .features import idle_factors
from .library import RecordLibrary
from .measure.pool import MeasurePool
from .ray_cluster import address_of
from .ray_pool import RayPool
from .record import Point, Record
from .reference import supported
from .report import SessionState, TuneReport
from .search import Predictor, Search, TaskSearch
from .session import LEAST_GAIN, Limits, Session
from .store import RecordStore, installed_store, user_store
from .task import Tasks, extract_tasks

if TYPE_CHECKING:
    from ..driver import Model


def tune(
    model: Model,
    target: str = "cpu",
    budget: str | float | None = "5m",
    trials: int | None = None,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    records: str | os.PathLike[str] | None = None,
    seed: int = 0,
    workers: int | str | None = None,
    exhaustive: bool = False,
    progress: Callable[[SessionState], None] | None = None,
    precision: str = "fp32",
) -> TuneReport:
    """Measure candidates for the operators of `model` and record the results; `kompilo.compile` then uses the best.

    What earlier sessions recorded is not measured again, so that a session goes on where another one stopped, and knows
    what that has learnt.

    Args:
        model: path of an ONNX file, its bytes, a ModelProto, or "zoo:NAME".
        target: "cpu" or "cuda", this machine's, where candidates are run; with a cluster also another machine, by its
            preset. For a GPU that is elsewhere see `device.bundle`.
        budget: time for the session, in seconds or as "90s", "5m", "1h30m"; None: no limit.
        trials: most candidates to measure; None: no limit.
        inputs: shapes for some or all inputs, by name. Operators whose sizes are only known at run time are not tuned.
        records: folder of the records; by default the user's (KOMPILO_RECORDS).
        seed: equal seeds and equal measurements lead to equal choices.
        workers: processes that build and run candidates, by default one per core; or "ray", "ray:ADDRESS": the nodes
            of a Ray cluster that have a resource with the name of the target's key.
        exhaustive: measure every config of every operator, as training data for the cost model.
        progress: called with a snapshot after every measurement.
        precision: as for `kompilo.compile`: operators that compute otherwise have records of their own.

    Returns:
        What was found. An interrupt (Ctrl-C) ends the session early, and the report says so.

    Raises:
        ModelError, InputError, TargetError, UsageError: one sentence on what was expected and found.
    """
    check_arguments(target, trials, records, seed, workers, exhaustive, progress)
    if _is_cluster(workers):
        address_of(str(workers))
    seconds = None if budget is None else budget_seconds(budget)
    hardware = find_target(target)
    check_precision(precision, {target: hardware})
    if hardware.writes_projects:
        raise UsageError(
            f"target {target!r}: expected one that kernels are measured for, found hardware of whole models.",
            "kompilo.compiler.tune.designs.tune_design searches its designs, as `kompilo tune` does.",
        )
    if not _is_cluster(workers):
        if hardware.drives_device:
            check_local(hardware)
        else:
            hardware.check_timed_here()
    store = RecordStore(Path(records)) if records is not None else user_store()
    with store.locked(hardware.spec.key):
        pass  # records that cannot be written are told of before anything is measured
    found = extract_tasks(model, hardware, inputs, precision)
    library = RecordLibrary.of([store.folder] if records is not None else None)
    limits = Limits(seconds, trials, 0.0 if exhaustive else LEAST_GAIN)
    with _pool(target, workers) as pool:
        began = time.monotonic()
        known = known_results(found, hardware, library)
        model_of_costs = CostModel.pretrained(hardware) or CostModel(hardware)
        learner = model_of_costs.with_records([r for own in known for r in own])
        search = Search(searches_for(found, hardware, library, known, learner), seed, exhaustive)
        session = Session(search, pool, limits, hardware.spec.key, VERSION, store.append, learner, progress or _silent)
        session.began, session.search_s = began, time.monotonic() - began
        state = session.run()
    notes = (*_unchecked(search), *(pool.notes if isinstance(pool, RayPool) else ()))
    return TuneReport(
        _name(model),
        hardware.spec.key,
        state,
        str(store.folder),
        session.search_s,
        found.unsized,
        notes,
        hardware.drives_device,
    )


def _unchecked(search: Search) -> list[str]:
    lost = [(op_words(t.task.op), t.given_up) for t in search.tasks if t.given_up]
    return [f"not tuned, as no result could be checked: {words}: {reason}" for words, reason in lost]


def _is_cluster(workers: int | str | None) -> bool:
    return isinstance(workers, str) and not workers.isdecimal()


def _pool(target: str, workers: int | str | None) -> MeasurePool | RayPool:
    """Workers of this machine, or nodes of a cluster."""
    if _is_cluster(workers):
        return RayPool(target, address_of(str(workers)))
    return MeasurePool(target, None if workers is None else int(workers))


def known_results(found: Tasks, target: Target, library: RecordLibrary) -> list[list[Record]]:
    """For each task, a record of each of its points that was measured before, with the time that counts.

    What comes with Kompilo was measured on another machine: it tells where to start, but not what need not be measured.
    """
    coming_along = installed_store()
    own = RecordLibrary(tuple(s for s in library.stores if coming_along is None or s.folder != coming_along.folder))
    return [
        [
            replace(k.record, point=point, measurement=k.measurement)
            for point, k in own.tried(t.op, target.spec.key, t.points).items()
        ]
        for t in found.tasks
    ]


def searches_for(
    found: Tasks, target: Target, library: RecordLibrary, known: Sequence[Sequence[Record]], predictor: Predictor
) -> list[TaskSearch]:
    """A search per task, which need not measure what is `known` of it, and starts from what `compile` would take."""
    selector = Selector(target, default_advisors(target, library))
    searches = []
    for task, records in zip(found.tasks, known, strict=True):
        choice = selector.choose(task.op)
        assert choice is not None, "tasks are operators that some template matches"
        start = Point(choice.template.name, choice.template.version, choice.config)
        factors = dict(zip(task.points, idle_factors(task.op, target, task.points), strict=True))
        search = TaskSearch(task, start, {r.point: r.measurement for r in records}, factors)
        search.predict_with(predictor)
        if not supported(task.op):
            search.give_up("the reference does not know it")
        searches.append(search)
    return searches


def _name(model: Model) -> str:
    return os.fspath(model) if isinstance(model, (str, os.PathLike)) else "model in memory"


def _silent(state: SessionState) -> None:
    """Without a listener."""
