"""Peak rates, measured; only what must hold on any machine, however busy."""

import pytest

from kompilo.compiler.schedule.target import find_target
from kompilo.targets.cpu import roofline as measured


def test_rates_of_this_machine(monkeypatch):
    monkeypatch.setattr(measured, "SECONDS_PER_KERNEL", 0.02)
    target = find_target("cpu")
    found = target.measure_roofline()
    assert [v.name for v in found.levels] in (["L2", "memory"], ["L2", "L3", "memory"])
    assert found.levels[-1].capacity is None
    # From a core emulated at 50 MHz to one of 10 GHz with four ports.
    assert 1e8 < found.peak / target.spec.lanes("float32") < 1e11
    assert all(1e7 < v.bandwidth < 1e13 for v in found.levels)


@pytest.mark.parametrize("name", ["cpu:aarch64", "cpu:apple-m1"])
def test_code_for_another_machine_is_not_run(name):
    if find_target("cpu").triple == find_target(name).triple:
        pytest.skip("this machine is of that kind")
    assert find_target(name).measure_roofline() is None
