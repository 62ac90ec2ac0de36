"""The CPU's facts: presets, this machine, and caches and flags read from files."""

import platform

import pytest

from kompilo.compiler.errors import TargetError
from kompilo.targets.cpu.spec import (
    cpu_spec,
    machine_caches,
    machine_flags,
    preset_names,
)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_consistent(name):
    spec = cpu_spec(name)
    assert spec.kind == "cpu"
    assert spec.key.startswith("cpu-")
    assert spec.lanes("float32") * 4 == spec.vector_bytes
    assert ("avx512f" in spec.features) == (spec.vector_bytes == 64)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("avx2", {"avx2", "fma", "f16c"}),
        ("znver4", {"avx512f", "avx512vl", "avx512bw", "avx512_bf16", "avx512_vnni"}),
        ("skylake-avx512", {"avx512f", "avx512dq", "avx512cd"}),
        ("aarch64", {"asimd"}),
    ],
)
def test_required_flags_are_spelled_as_in_cpuinfo(name, flags):
    assert flags <= set(cpu_spec(name).features)


def test_native_needs_only_what_this_machine_has():
    spec = cpu_spec(None)
    flags = machine_flags()
    assert spec.triple.startswith(platform.machine())
    assert not flags or set(spec.features) <= flags


def test_a_flag_switched_off_by_the_hypervisor_is_not_used(monkeypatch):
    present = machine_flags() - {"fma", "avx512f"}
    monkeypatch.setattr("kompilo.targets.cpu.spec.machine_flags", lambda: present)
    spec = cpu_spec("native")
    assert set(spec.features) <= present
    if platform.machine() == "x86_64":
        assert "-fma" in spec.mattr
        assert spec.vector_bytes <= 32


def test_number_of_cores_can_be_given():
    assert cpu_spec("znver4,cores=8").cores == 8
    assert cpu_spec("znver4,cores=8").key == "cpu-znver4-avx512-8c"


@pytest.mark.parametrize("preset", ["pentium", "znver4,threads=2", "native,cores=0", "native,cores=x"])
def test_unknown_presets_are_refused(preset):
    with pytest.raises(TargetError, match="expected"):
        cpu_spec(preset)


def test_caches_and_flags_are_read_from_files(tmp_path):
    for index, (level, kind, size) in enumerate([(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2M")]):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{value}\n")
    assert machine_caches(tmp_path) == {1: 48 * 1024, 2: 2 * 1024 * 1024}
    assert machine_caches(tmp_path / "nowhere") == {}
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\n\n")
    assert machine_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "fma"}
    assert machine_flags(tmp_path / "nothing") == frozenset()
