"""What the records choose, and where they must not be used."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from kompilo.compiler.errors import UsageError
from kompilo.compiler.schedule.template import Config
from kompilo.compiler.tune.advisors import (
    FailureAdvisor,
    ModelAdvisor,
    RecordAdvisor,
    default_advisors,
    preferred,
)
from kompilo.compiler.tune.library import RecordLibrary
from kompilo.compiler.tune.record import Point
from kompilo.compiler.tune.store import RecordStore, installed_store
from kompilo.compiler.tune.upkeep import take_over, write_out

from record_support import KEY, FakeTarget, FakeTemplate, chosen, matmul, point, record


@pytest.fixture
def store(tmp_path) -> RecordStore:
    (tmp_path / "mine").mkdir()
    return RecordStore(tmp_path / "mine", "mine")


def choose(store: RecordStore, target: FakeTarget | None = None, op=None) -> tuple[int, str]:
    return chosen(default_advisors(target or FakeTarget(), store.folder), target, op)


def test_the_fastest_record_is_chosen_and_named(store):
    store.extend([record(1, 3e-3), record(3, 1.234e-3, day=22), record(2, 2e-3), record(4, None)])
    assert choose(store) == (3, "record of 2026-11-22: 1.23 ms, 4 tried")


@pytest.mark.parametrize(
    "made",
    [
        record(3, op=matmul(9)),
        record(3, target="cpu-other-2c"),
        record(3, point=point(3, version=2)),
        record(3, point=point(3, template="gone")),
        record(99),
        record(3, point=Point("tiled", 1, Config.of(tile=3))),
        record(3, point=Point("tiled", 1, Config.of(tile=3, order="ij", more=1))),
        record(3, point=Point("tiled", 1, Config.of(tile="3", order="ij"))),
        *(record(3, None, status=s) for s in ("build_failed", "crashed", "timed_out", "wrong_result", "run_failed")),
    ],
)
def test_a_record_is_not_used_where_it_does_not_hold(store, made):
    store.append(made)
    assert choose(store) == (1, "default")


def test_records_of_an_older_template_count_for_nothing(store):
    store.append(record(3))
    target = FakeTarget(templates=(FakeTemplate(version=2),))
    assert choose(store, target) == (1, "default")
    store.append(record(2, 9.0, point=point(2, version=2)))
    assert choose(store, target)[0] == 2


def test_a_record_in_the_folder_of_another_target_is_not_used(store):
    store.append(record(3, target="cpu-other-2c"))
    (store.folder / "cpu-other-2c").rename(store.folder / KEY)
    assert choose(store) == (1, "default")


def test_an_operator_of_unknown_size_has_no_records(store):
    store.append(record(3, op=matmul("N")))
    assert choose(store, op=matmul("N")) == (1, "default")


def test_the_order_of_knobs_is_no_matter(store):
    store.append(record(3, point=Point("tiled", 1, Config.of(order="ij", tile=3))))
    assert choose(store)[0] == 3


def test_a_second_template_may_win(store):
    target = FakeTarget(templates=(FakeTemplate(), FakeTemplate("blocked", 4)))
    store.extend([record(1, 2e-3), record(2, 1e-3, point=point(2, "blocked", 4))])
    assert choose(store, target)[0] == 2


@pytest.mark.parametrize(("one_core", "tile"), [(True, 2), (False, 1)])
def test_idle_cores_count_where_times_are_of_one_core(store, one_core, tile):
    """Tile 1 is the fastest on one core, and leaves the other without work."""
    target = FakeTarget(templates=(FakeTemplate(imbalance=(2.0, 1.0, 1.0, 1.0)),), timed_on_one_core=one_core)
    store.extend([record(1, 1.0e-3), record(2, 1.2e-3), record(3, 1.3e-3)])
    assert choose(store, target)[0] == tile
    records = RecordAdvisor(RecordLibrary(()), target)
    model = SimpleNamespace(predict=lambda op, points: np.array([1.0, 1.2, 1.3, 1.4]))
    assert chosen([ModelAdvisor(lambda: model, records)], target)[0] == tile


def test_the_newest_measurement_says_whether_a_point_works(store):
    store.extend([record(3, 1e-3, day=1), record(2, 2e-3, day=1), record(3, None, day=2)])
    assert choose(store)[0] == 2
    store.append(record(3, 1e-3, day=3))
    assert choose(store)[0] == 3


def test_a_wrong_result_rules_a_point_out_for_good(store):
    store.extend([record(3, None, day=1, status="wrong_result"), record(3, 1e-3, day=2), record(2, 2e-3)])
    assert choose(store)[0] == 2


def test_the_time_of_a_point_is_the_median_of_the_newest_five(store):
    store.extend(record(3, seconds, day) for day, seconds in enumerate([1e-6, 4e-3, 9.0, 3e-3, 5e-3, 1e-6], 1))
    assert choose(store) == (3, "record of 2026-11-02: 4 ms, 1 tried")


def test_cold_times_come_before_warm_ones(store):
    store.extend([record(3, 1e-3, cache="warm"), record(2, 2e-3), record(1, 3e-3), record(1, 1e-6, cache="warm")])
    assert choose(store)[0] == 2


def test_times_of_another_place_are_scaled_to_those_of_the_first(store, tmp_path, monkeypatch):
    """There, everything takes a tenth of the time; here, tile 2 was measured, and tile 3 would be half as fast."""
    store.extend([record(1, 10e-3), record(2, 8e-3)])
    monkeypatch.setenv("KOMPILO_RECORDS", str(tmp_path / "user"))
    other = RecordStore(tmp_path / "user")
    other.extend([record(1, 1e-3), record(3, 1.6e-3)])
    assert choose(store)[0] == 2
    other.append(record(4, 0.7e-3))
    assert choose(store) == (4, "record of 2026-11-01: 7 ms, 4 tried")


CLOCK = 1.3  # how much longer all takes on the machine that records were imported from


def test_imported_times_are_scaled_to_those_measured_here(store, tmp_path):
    """There, tile 3 takes longer than tile 2 does here; here it would be the faster."""
    store.extend([record(1, 10e-3), record(2, 8e-3)])
    other = RecordStore(tmp_path / "other")
    other.extend([record(1, 10e-3 * CLOCK, day=2), record(2, 8e-3 * CLOCK, day=2), record(3, 7e-3 * CLOCK, day=2)])
    assert take_over(store, [other.folder]).added == 3
    known = RecordLibrary((store,)).known(matmul(), KEY)
    assert {p.config.int("tile"): k.seconds for p, k in known.items()} == pytest.approx({1: 10e-3, 2: 8e-3, 3: 7e-3})
    assert choose(store) == (3, "record of 2026-11-02: 7 ms, 3 tried")


def test_one_s_own_measurements_come_before_imported_ones(store, tmp_path):
    """What works, and how fast, though the imported ones are newer; a wrong result counts wherever it was seen."""
    store.extend([record(1, None), record(2, 2e-3), record(3, 1e-3)])
    other = RecordStore(tmp_path / "other")
    other.extend([record(1, 1e-6, day=2), record(2, 1e-6, day=2), record(3, None, day=2, status="wrong_result")])
    take_over(store, [other.folder])
    assert choose(store) == (2, "record of 2026-11-01: 2 ms, 3 tried")


def test_a_packed_file_of_imported_records_is_imported_too(store, tmp_path):
    store.append(record(1, 1e-3))
    write_out(store, [KEY], store.folder / KEY / "imported.jsonl.gz")
    assert [[path.name for path in place] for place in store.places(KEY)] == [["tuned.jsonl"], ["imported.jsonl.gz"]]


def test_what_fails_here_is_not_chosen_because_it_works_elsewhere(store, tmp_path, monkeypatch):
    store.append(record(3, None))
    monkeypatch.setenv("KOMPILO_RECORDS", str(tmp_path / "user"))
    RecordStore(tmp_path / "user").extend([record(3, 1e-3), record(2, 2e-3)])
    assert choose(store)[0] == 2
    RecordStore(tmp_path / "user").append(record(2, None, status="wrong_result", day=2))
    store.append(record(2, 2e-3, day=3))
    assert choose(store)[0] == 1


def test_a_default_that_fails_is_not_taken(store):
    store.extend([record(1, None), record(2, None, status="wrong_result")])
    assert choose(store) == (3, "first that works; default: crashed")
    store.extend([record(3, None), record(4, None)])
    assert choose(store) == (1, "default")


class Model:
    """Thinks that the time falls with the tile."""

    def predict(self, op, points):
        return np.array([1 / p.config.int("tile") for p in points])


def test_the_model_is_asked_where_no_record_is_and_never_about_failures(store):
    library = RecordLibrary((store,))

    def advisors():
        records = RecordAdvisor(library, FakeTarget())
        return [records, ModelAdvisor(Model, records), FailureAdvisor(records)]

    assert chosen(advisors()) == (4, "cost model")
    store.append(record(4, None))
    assert chosen(advisors()) == (3, "cost model")
    assert chosen(advisors(), op=matmul("N")) == (1, "default")
    store.append(record(2))
    assert chosen(advisors())[0] == 2


@pytest.mark.parametrize(
    ("times", "default", "place"),
    [([1.0, 0.98, 2.0], 0, 0), ([1.0, 0.9, 2.0], 0, 1), ([1.0, 0.98, 2.0], None, 1), ([3.0, 1.0, 1.02], 2, 2)],
)
def test_the_default_stays_unless_something_better_is_promised(times, default, place):
    assert preferred(np.array(times), default) == place


def test_without_a_model_the_default_is_taken(store):
    records = RecordAdvisor(RecordLibrary((store,)), FakeTarget())
    asked = []
    advisor = ModelAdvisor(lambda: asked.append(1), records)
    assert [chosen([advisor]), chosen([advisor])] == [(1, "default")] * 2
    assert asked == [1]


def test_a_template_that_the_model_does_not_know(store):
    class Narrow:
        def predict(self, op, points):
            raise KeyError("tiled")

    advisor = ModelAdvisor(Narrow, RecordAdvisor(RecordLibrary((store,)), FakeTarget()))
    assert chosen([advisor]) == (1, "default")


def test_broken_records_never_stop_a_compilation(store):
    store.append(record(3))
    file = store.files(KEY)[0]
    line = file.read_bytes()
    for content in (line[:-20], line + line[:50], b"\x00" * 99 + b"\n" + line, b""):
        file.write_bytes(content)
        assert choose(store)[0] in (1, 3)


@pytest.mark.parametrize("records", [3, ["a", 4], {"a": 1}, b"x"])
def test_arguments_that_are_no_folders(records):
    with pytest.raises(UsageError, match="records: expected a folder or a list of folders, found"):
        RecordLibrary.of(records)


def test_places_in_their_order(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("a", "b", "user")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setenv("KOMPILO_RECORDS", str(folders[2]))
    library = RecordLibrary.of([folders[1], str(folders[0]), folders[1]])
    assert [s.label for s in library.stores] == ["b", "a", "user", "installed"]
    assert [s.label for s in RecordLibrary.of(folders[2]).stores] == ["user", "installed"]
    assert RecordLibrary.of(False).stores == ()
    assert RecordLibrary.of(None).stores[-1] == installed_store()


def test_eighteen_thousand_records_are_searched_at_once(store):
    """A tenth of a second on a quiet machine; a generous bound, as it may be busy."""
    made = [record(k % 4 + 1, 1e-3 * (k + 1), op=matmul(k)) for k in range(1, 301)]
    store.extend(replace(r, created=f"2026-11-01T10:{m:02}:00Z") for r in made for m in range(60))
    target, began = FakeTarget(), time.process_time()
    advisors = default_advisors(target, store.folder)
    for k in range(295, 301):
        assert chosen(advisors, op=matmul(k))[0] == k % 4 + 1
    assert time.process_time() - began < 2
