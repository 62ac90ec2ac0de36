"""The roofline: the model, and how it is remembered."""

import json
from types import SimpleNamespace

import pytest
from sample_states import ROOFLINE

from kompilo.compiler.errors import TargetError
from kompilo.compiler.schedule.roofline import Level, Roofline
from kompilo.compiler.tune.roofline import machine_roofline


class Machine:
    """A target that counts how often it is measured."""

    def __init__(self, found=ROOFLINE):
        self.spec, self.found, self.times = SimpleNamespace(key="cpu-test"), found, 0
        self.drives_device = False

    def measure_roofline(self):
        self.times += 1
        return self.found


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KOMPILO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_nearest_level_that_holds_the_bytes_counts():
    assert ROOFLINE.least_seconds(150e9, 8) == 1
    assert ROOFLINE.least_seconds(0, 9e5) == 9e5 / 90e9
    assert ROOFLINE.least_seconds(0, 2 << 20) == (2 << 20) / 25e9
    assert ROOFLINE.least_seconds(0, 1e9) == 0.1


def test_rates_are_above_zero():
    with pytest.raises(TargetError, match="above 0"):
        Roofline(0.0, (Level("memory", None, 1.0),))


def test_the_best_of_the_first_sessions_is_kept():
    machine = Machine()
    assert machine_roofline(machine) == ROOFLINE
    fast, slow = Level("L2", 1 << 20, 99e9), Level("memory", None, 1e9)
    machine.found = Roofline(140e9, (fast, ROOFLINE.levels[1], slow))
    best = Roofline(150e9, (fast, *ROOFLINE.levels[1:]))
    assert [machine_roofline(machine) for _ in range(4)] == [best] * 4
    assert machine.times == 3


def test_other_levels_take_the_place_of_the_old():
    machine = Machine()
    machine_roofline(machine)
    machine.found = Roofline(1e9, (Level("memory", None, 1e9),))
    assert machine_roofline(machine) == machine.found


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema": 9}', '{"schema": 1, "measurements": 3, "flops_per_s": 0, "levels": []}']
)
def test_a_broken_note_is_replaced(cache, text):
    (cache / "roofline").mkdir(parents=True)
    path = cache / "roofline" / "cpu-test.json"
    path.write_text(text)
    machine = Machine()
    assert machine_roofline(machine) == ROOFLINE
    assert machine.times == 1
    assert json.loads(path.read_text())["flops_per_s"] == 150e9


def test_a_cache_that_cannot_be_written_costs_only_time(cache):
    cache.write_text("a file")
    assert machine_roofline(Machine()) == ROOFLINE


def test_a_target_of_another_machine_has_none(cache):
    assert machine_roofline(Machine(None)) is None
    assert not cache.exists()
