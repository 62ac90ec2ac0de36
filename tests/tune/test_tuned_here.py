"""A local session measures for this machine alone: its times say nothing of another, whatever code runs on both."""

from __future__ import annotations

import pytest
from operators import cpu

from kompilo.compiler.errors import KompiloError, TargetError
from kompilo.compiler.schedule.target import find_target
from kompilo.compiler.tune.tune import tune
from kompilo.targets.cpu import spec as cpu_spec
from kompilo.targets.cpu import target as cpu_target

CORES = cpu_spec.usable_cores()
OTHERS = [f"cpu:native,cores={CORES + 1}", "cpu:haswell,cores=1000", "cpu:apple-m1,cores=1000"]


@pytest.mark.parametrize("name", OTHERS)
def test_times_taken_here_are_not_filed_under_another_machine(tmp_path, name):
    key, here = find_target(name).spec.key, find_target("cpu").spec.key
    with pytest.raises(TargetError) as raised:
        tune("missing.onnx", target=name, records=tmp_path / "records")
    assert raised.value.message == f"tuning for {key}: expected that CPU, this machine's is {here}."
    assert "--target cpu," in str(raised.value)
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("name", OTHERS)
def test_rates_of_this_machine_are_not_another_one_s(name):
    assert find_target(name).measure_roofline() is None


@pytest.mark.parametrize("name", ["cpu", "cpu:native", f"cpu:native,cores={CORES}"])
def test_this_machine_may_be_named_in_any_way(name):
    find_target(name).check_timed_here()


def test_a_cpu_of_the_same_name_that_lacks_flags(monkeypatch):
    target = cpu_target.CpuTarget(find_target("cpu").spec)
    monkeypatch.setattr(cpu_spec, "machine_flags", lambda: frozenset({"fpu"}))
    monkeypatch.setattr(cpu_target.CpuTarget, "_key_here", lambda self: self.spec.key)
    with pytest.raises(TargetError, match=f"tuning for {target.spec.key}: this machine's CPU lacks features"):
        target.check_timed_here()


def test_a_kind_of_target_of_another_package_knows_itself():
    """By its own key: that a target is not Kompilo's says nothing about where it runs."""

    class Elsewhere(cpu_target.CpuTarget):
        @classmethod
        def from_preset(cls, preset):
            return cls(cpu().spec)

    Elsewhere.from_preset(None).check_timed_here()


def test_nodes_of_a_cluster_measure_for_machines_unlike_this_one(tmp_path):
    with pytest.raises(KompiloError, match=r"missing\.onnx"):  # that is all that is wrong
        tune("missing.onnx", target=OTHERS[0], records=tmp_path, workers="ray:127.0.0.1:9")
