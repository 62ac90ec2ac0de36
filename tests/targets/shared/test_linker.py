"""Every linker found on this machine links a library that loads and runs; a missing one is a clear error."""

import numpy as np
import pytest
import tvm
from tvm import te

from kompilo.compiler.errors import KompiloError, TargetError
from kompilo.targets.cpu.target import CpuTarget
from kompilo.targets.shared import linker

ARCH = CpuTarget.from_preset(None).spec.triple.partition("-")[0]
LINKERS = linker.find_linkers(ARCH)


@pytest.fixture(scope="module")
def executable() -> tvm.runtime.Executable:
    x = te.placeholder((64,), name="x")
    # tirx.cos is a call into libm.
    y = te.compute((64,), lambda i: tvm.tirx.cos(x[i]), name="y")
    return tvm.compile(te.create_prim_func([x, y]), CpuTarget.from_preset(None).tvm_target())


@pytest.mark.parametrize("found", LINKERS, ids=lambda found: found.name)
def test_linked_library_runs(found, executable, tmp_path, monkeypatch):
    monkeypatch.setattr(linker, "find_linkers", lambda arch: [found])
    path = tmp_path / "kernel.so"
    CpuTarget.from_preset(None).export(executable, path)
    x = np.linspace(0, 1, 64, dtype="f4")
    y = tvm.runtime.tensor(np.zeros_like(x))
    tvm.runtime.load_module(str(path))["main"](tvm.runtime.tensor(x), y)
    np.testing.assert_allclose(y.numpy(), np.cos(x), rtol=1e-6)


def test_a_failing_linker_is_passed_over(executable, tmp_path, monkeypatch):
    broken = linker.Linker("broken", ("/bin/false",))
    absent = linker.Linker("absent", ("/nowhere/ld",))
    monkeypatch.setattr(linker, "find_linkers", lambda arch: [absent, broken, *LINKERS])
    CpuTarget.from_preset(None).export(executable, tmp_path / "kernel.so")
    assert (tmp_path / "kernel.so").exists()
    monkeypatch.setattr(linker, "find_linkers", lambda arch: [broken])
    with pytest.raises(TargetError, match="broken"):
        CpuTarget.from_preset(None).export(executable, tmp_path / "other.so")


def test_no_linker_is_one_sentence_with_a_hint(executable, tmp_path, monkeypatch):
    monkeypatch.setattr(linker.shutil, "which", lambda program: None)
    monkeypatch.setattr(linker.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match="apt install binutils, or pip install ziglang"):
        CpuTarget.from_preset(None).export(executable, tmp_path / "kernel.so")


def test_cross_linkers_are_looked_for_by_their_own_name(monkeypatch):
    monkeypatch.setattr(linker.shutil, "which", lambda program: f"/usr/bin/{program}")
    other = "aarch64" if ARCH == "x86_64" else "x86_64"
    commands = [found.command[0] for found in linker.find_linkers(other)]
    assert f"/usr/bin/{other}-linux-gnu-gcc" in commands
    assert "/usr/bin/ld.lld" in commands
    assert "/usr/bin/ld" not in commands


@pytest.mark.parametrize(("arch", "package"), [("aarch64", "binutils-aarch64-linux-gnu"), ("x86_64", "binutils,")])
def test_the_hint_names_the_package_for_the_other_architecture(arch, package, monkeypatch, tmp_path):
    monkeypatch.setattr(linker.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(linker, "find_linkers", lambda arch: [])
    with pytest.raises(TargetError) as raised:
        linker.link_shared(str(tmp_path / "lib.so"), [], arch)
    assert package in raised.value.hint


def test_a_linker_without_room_is_told_as_such(tmp_path, monkeypatch):
    full = linker.Linker("full", ("/bin/sh", "-c", "echo 'final link failed: No space left on device' >&2; exit 1"))
    monkeypatch.setattr(linker, "find_linkers", lambda arch: [full])
    with pytest.raises(KompiloError, match="cannot write to the temporary folder .*: no space left on device"):
        linker.link_shared(str(tmp_path / "lib.so"), [], ARCH)
