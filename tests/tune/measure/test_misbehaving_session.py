"""A whole session among misbehaving candidates ends as one without them."""

from __future__ import annotations

from collections.abc import Sequence

from misbehaving import CODE, NAPS, matmul, point

from kompilo.compiler.tune.measure.pool import MeasurePool
from kompilo.compiler.tune.record import Record
from kompilo.compiler.tune.report import SessionState
from kompilo.compiler.tune.search import InGivenOrder, Search, TaskSearch
from kompilo.compiler.tune.session import NOTHING_LEFT, Limits, Session
from kompilo.compiler.tune.task import Task

BEHAVING = ("long_nap", "good", "nap")
# One of each: segfault, endless loop, 100 GB when built and when run, wrong and nan results, and what harms the worker.
MISBEHAVING = ("segfault", "endless", "huge", "wrong", "nan", "hundred_gigabytes", "kill", "deaf", "intrude", "exit")
OPS = (matmul(), matmul(m=8))


def end_state(target: str, acts: Sequence[str]) -> tuple[SessionState, list[Record]]:
    """A session over every point of two operators; the first act is where it starts."""
    points = tuple(map(point, acts))
    searches = [TaskSearch(Task(op, 1, points), points[0]) for op in OPS]
    for search in searches:
        search.predict_with(InGivenOrder())
    records: list[Record] = []
    with MeasurePool(target, timeout_s=5.0) as pool:
        session = Session(Search(searches, exhaustive=True), pool, Limits(), "key", "test", records.append)
        return session.run(), records


def test_misbehaving_candidates_do_not_change_how_a_session_ends(misbehaving_target: str) -> None:
    mixed = [act for pair in zip(MISBEHAVING, (*BEHAVING, *[None] * len(MISBEHAVING)), strict=False) for act in pair]
    acts = ["long_nap", *(a for a in mixed if a not in (None, "long_nap"))]
    assert set(acts) == {*BEHAVING, *MISBEHAVING}
    alone, clean = end_state(misbehaving_target, BEHAVING)
    among, records = end_state(misbehaving_target, acts)
    assert alone.stopped == among.stopped == NOTHING_LEFT
    for without, with_them in zip(alone.tasks, among.tasks, strict=True):
        assert without.best_point == with_them.best_point == point("good")
        assert with_them.start_point == point("long_nap")
        assert with_them.tried == len(acts)
        assert with_them.failed == len(MISBEHAVING)
    usable = {(r.op, r.point) for r in records if r.measurement.ok}
    assert usable == {(r.op, r.point) for r in clean} == {(op, point(a)) for op in OPS for a in BEHAVING}
    assert all(r.measurement.reason for r in records if not r.measurement.ok)
    for op, act in ((op, act) for op in OPS for act in NAPS):
        times = [r.measurement.seconds for r in records if r.op == op and r.point == point(act)]
        # Where the machine is slow, naps are not, and are corrected all the same.
        assert all(seconds is not None and seconds > NAPS[act] * 0.4e-6 for seconds in times)
    assert set(CODE) & set(MISBEHAVING)
