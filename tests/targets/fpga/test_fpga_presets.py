"""Facts of FPGAs: sizes against what follows from others, names, records that refuse nonsense."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kompilo.compiler.errors import TargetError
from kompilo.targets.fpga.presets import BOARDS, fpga_spec, preset_names
from kompilo.targets.fpga.spec import RESOURCES

# Megabits of block RAM and UltraRAM as the makers print them.
MEGABITS = {"u280": (70.9, 270.0), "v80": (132, 541), "zcu104": (11.0, 27.0), "kv260": (5.1, 18.0), "vhk158": (89, 366)}


@pytest.mark.parametrize("name", BOARDS)
def test_counts_are_possible(name):
    spec = fpga_spec(name)
    assert spec.key == f"fpga-{name}"
    assert spec.dsps % spec.slrs == 0 or spec.slrs == 1 or spec.family == "versal"
    assert all(0 <= spec.budget(r) < spec.total(r) or spec.total(r) == 0 for r in RESOURCES)
    for memory in spec.memories:
        # One pseudo-channel or DIMM gives 6 to 30 GB/s.
        assert 6e9 < memory.bandwidth / memory.channels < 30e9


@pytest.mark.parametrize("name", MEGABITS)
def test_memories_agree_with_published_megabits(name):
    spec, (block, ultra) = fpga_spec(name), MEGABITS[name]
    assert spec.bram18 * 18 / 1024 == pytest.approx(block, rel=0.01)
    assert spec.uram * 288 / 1024 == pytest.approx(ultra, rel=0.01)


def test_names():
    assert fpga_spec("fpga:U280") is fpga_spec("u280")
    assert fpga_spec("zu7ev") is fpga_spec("zcu104")
    assert len(preset_names()) == 10
    with pytest.raises(TargetError, match=r"unknown target 'fpga:u200': expected one of u250, u280, .*kv260"):
        fpga_spec("u200")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "spartan"}, "expected a family of ultrascale"),
        ({"dsps": 0}, "expected counts of resources above 0"),
        ({"usable": (("dsp", 0.8),)}, r"expected shares in \(0, 1\]"),
        ({"clock_hz": 0.0}, "expected a clock above 0"),
    ],
)
def test_nonsense_is_refused(change, message):
    with pytest.raises(TargetError, match=message):
        replace(fpga_spec("u280"), **change)


def test_peak_rate():
    assert fpga_spec("u280").int8_macs_per_second() == pytest.approx(9024 * 2 * 300e6)
