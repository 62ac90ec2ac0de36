"""Loading: sources, devices, threads, and every reason to refuse."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_programs import FEATURES, affine, affine_result, double, program
from tvm.relax import op

import kompilo
from kompilo import load
from kompilo.compiler import errors
from kompilo.compiler.artifact.artifact import Artifact
from kompilo.compiler.errors import ArtifactError, KompiloError, UsageError
from kompilo.compiler.runtime import host, library, module
from kompilo.compiler.runtime.threads import resolve_threads

X = np.arange(32, dtype=np.float32).reshape(4, 8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("load") / "affine.kpo"
    affine().save(file)
    return file


def with_target(**changes) -> Artifact:
    artifact = affine()
    (target,) = artifact.targets
    changed = dataclasses.replace(target, **changes)
    return Artifact(artifact.inputs, artifact.outputs, (changed,), artifact.weights, {})


def test_from_a_path_bytes_and_an_artifact(path):
    sources = (path, str(path), path.read_bytes(), affine(), Artifact.open(path))
    for source in sources:
        np.testing.assert_array_equal(load(source, threads=1)(X), affine_result(X))


def test_signature_and_description(path):
    model = load(path, threads=2)
    assert (model.inputs, model.outputs) == (affine().inputs, affine().outputs)
    assert model.threads == 2
    assert "x: float32[4, 8]" in repr(model)


def test_weights_are_mapped_not_copied(path):
    model = load(path, threads=1)
    assert model.artifact.is_mapped
    model(X)
    with open("/proc/self/maps") as maps:
        assert any(line.rstrip().endswith(str(path)) for line in maps)


def test_replacing_the_file_does_not_touch_a_loaded_model(path, tmp_path):
    copy = tmp_path / "m.kpo"
    affine().save(copy)
    model = load(copy, threads=1)
    double("float32").save(copy)
    np.testing.assert_array_equal(model(X), affine_result(X))
    np.testing.assert_array_equal(load(copy, threads=1)(X), X + X)
    copy.unlink()
    np.testing.assert_array_equal(model(X), affine_result(X))


def test_loading_different_code_again_and_again():
    """The dynamic linker must not answer with an earlier library (of the same descriptor number)."""
    for _ in range(20):
        one, two = load(affine(), threads=1), load(double("float32"), threads=1)
        np.testing.assert_array_equal(one(X), affine_result(X))
        np.testing.assert_array_equal(two(X), X + X)


def test_unloading_frees_code_and_descriptors():
    def count() -> tuple[int, int]:
        with open("/proc/self/maps") as maps:
            return len(os.listdir("/proc/self/fd")), sum("memfd:kompilo" in line for line in maps)

    load(affine(), threads=1)(X)
    before = count()
    for _ in range(10):
        result = load(affine(), threads=1)(X)
    assert count() == before
    np.testing.assert_array_equal(result, affine_result(X))


def test_without_memory_files_the_code_goes_through_a_temporary_file(monkeypatch, tmp_path):
    def refuse(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = load(affine(), threads=1)
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(model(X), affine_result(X))


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_devices(path, device):
    np.testing.assert_array_equal(load(path, device=device, threads=1)(X), affine_result(X))


def test_an_unknown_device_lists_those_there(path):
    with pytest.raises(UsageError, match=r"device 'gpu': expected auto or one of the artifact's targets, cpu \(cpu-"):
        load(path, device="gpu")


def test_code_for_devices_that_the_runtime_does_not_drive():
    with pytest.raises(ArtifactError, match=r"the artifact has code for fpga \(cpu-.*\) only, expected one of cpu"):
        load(with_target(name="fpga"))


def test_a_manifest_that_names_other_outputs_than_the_code_has():
    artifact = affine()
    wrong = Artifact(artifact.inputs, artifact.outputs * 2, artifact.targets, artifact.weights, {})
    with pytest.raises(ArtifactError, match="gives 1 results, expected z, z"):
        load(wrong, threads=1).run({"x": X})
    both = program(lambda x: (op.add(x, x), op.negative(x)), [("x", (4,), "float32")], [("s", (4,), "float32")] * 3)
    with pytest.raises(ArtifactError, match="gives 2 results, expected 3"):
        load(both, threads=1)(np.zeros(4, np.float32))


def test_the_best_target_that_fits_is_taken():
    artifact = affine()
    (code,) = artifact.targets
    plain = dataclasses.replace(code, name="cpu:plain", key="cpu-plain", cpu_features=())
    future = dataclasses.replace(code, name="cpu:future", key="cpu-future", cpu_features=("avx9", "avx10", "avx11"))
    both = Artifact(artifact.inputs, artifact.outputs, (future, plain, code), artifact.weights, {})
    assert load(both, threads=1).target == (code if FEATURES else plain)
    assert load(both, device="cpu:plain", threads=1).target == plain
    assert load(both, device="cpu-plain", threads=1).target == plain
    with pytest.raises(ArtifactError, match="avx9, avx10, avx11"):
        load(both, device="cpu:future", threads=1)


def test_weights_of_a_target():
    """A target may take some of the artifact's weights, in its own order."""
    artifact = affine()
    first, second = artifact.weights
    (code,) = artifact.targets
    swapped = dataclasses.replace(code, weights=(2, 0))
    mixed = Artifact(artifact.inputs, artifact.outputs, (swapped,), [second, np.zeros(3), first], {})
    np.testing.assert_array_equal(load(mixed, threads=1)(X), affine_result(X))


def test_a_cpu_without_the_features(monkeypatch):
    monkeypatch.setattr(host, "cpu_flags", lambda: frozenset({"sse2", "avx2"}))
    monkeypatch.setattr(host, "cpu_name", lambda: "Old CPU")
    with pytest.raises(ArtifactError) as caught:
        load(with_target(key="cpu-znver4", cpu_features=("avx2", "avx512f", "avx512bw")), threads=1)
    assert caught.value.message == (
        "the artifact was built for cpu-znver4 and needs the CPU features avx512f, avx512bw, "
        "which this machine (Old CPU) lacks."
    )


def test_another_architecture():
    other = "aarch64" if host.architecture() == "x86_64" else "x86_64"
    with pytest.raises(ArtifactError, match=rf"built for cpu-x \({other}\), but this machine is {host.architecture()}"):
        load(with_target(key="cpu-x", triple=f"{other}-linux-gnu"), threads=1)
    assert host.architecture("AMD64") == "x86_64"
    assert host.architecture("arm64") == "aarch64"


@pytest.mark.parametrize("code", [b"", b"\x7fELF", b"no library at all" * 100])
def test_code_that_is_no_library(code):
    with pytest.raises(ArtifactError, match="the artifact's code cannot be loaded") as caught:
        load(with_target(library=code), threads=1)
    assert "\n" not in str(caught.value)


def test_a_library_that_is_no_executable():
    import _ctypes

    with open(_ctypes.__file__, "rb") as file, pytest.raises(ArtifactError, match="no executable of Kompilo's"):
        load(with_target(library=file.read()), threads=1)


def test_an_entry_that_is_not_there():
    with pytest.raises(ArtifactError, match="no function 'other'"):
        load(with_target(entry="other"), threads=1)


def test_wrong_arguments(path, tmp_path):
    with pytest.raises(UsageError, match="expected a path, bytes or an Artifact, found int"):
        load(3)
    for threads in (0, -1, 1.5, True, "2", 10**6):
        with pytest.raises(UsageError, match=r"threads: expected an integer from 1 to 1024 or None"):
            load(path, threads=threads)
    with pytest.raises(ArtifactError, match="no such file or directory"):
        load(tmp_path / "none.kpo")


def test_default_threads_are_the_cores_allowed():
    count = resolve_threads(None)
    assert 1 <= count <= len(os.sched_getaffinity(0))


def test_threads_of_the_environment_and_of_numpy(monkeypatch, path):
    monkeypatch.setenv("KOMPILO_THREADS", "3")
    assert load(path).threads == 3
    assert load(path, threads=np.int64(2)).threads == 2
    monkeypatch.setenv("KOMPILO_THREADS", "many")
    with pytest.raises(UsageError, match="KOMPILO_THREADS: expected a whole number of at least 1, found 'many'"):
        load(path)


def test_a_quota_of_cpu_time_limits_the_threads(monkeypatch, tmp_path):
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(host, "_QUOTA", quota)
    monkeypatch.setattr(host, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(host, "allowed_cpus", lambda: [0, 1, 4, 5])
    assert host.default_threads() == 4
    quota.write_text("150000 100000\n")
    assert host.default_threads() == 2
    quota.write_text("max 100000\n")
    assert host.default_threads() == 4
    for cpu, core in ((0, "0-1"), (1, "0-1"), (4, "4-5"), (5, "4-5")):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(core + "\n")
    assert host.default_threads() == 2


def test_the_runtime_library_is_found_without_importing_tvm(monkeypatch, tmp_path):
    monkeypatch.delenv(library.RUNTIME_VARIABLE, raising=False)
    assert library.find_runtime().name == "libtvm_runtime.so"
    monkeypatch.setenv(library.RUNTIME_VARIABLE, str(library.find_runtime()))
    assert library.find_runtime().is_file()
    monkeypatch.setenv(library.RUNTIME_VARIABLE, str(tmp_path / "none.so"))
    with pytest.raises(KompiloError, match="which is not a file"):
        library.find_runtime()
    monkeypatch.delenv(library.RUNTIME_VARIABLE)
    monkeypatch.setattr(library, "_places", lambda: [tmp_path])
    with pytest.raises(KompiloError, match=r"libtvm_runtime.so was not found in .*Hint: install apache-tvm"):
        library.find_runtime()


def test_importing_and_loading_leaves_the_compiler_alone(path):
    script = (
        "import sys, kompilo\n"
        f"kompilo.load({str(path)!r})\n"
        "print(sorted({'tvm', 'onnx', 'typer', 'rich', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("order", ["import tvm; load()", "load(); import tvm", "load(); import tvm; load()"])
def test_the_runtime_library_is_loaded_once(path, order):
    script = (
        "import numpy as np, kompilo\n"
        f"def load(): assert kompilo.load({str(path)!r}, threads=2)(np.zeros((4, 8), 'f4')).shape == (4, 8)\n"
        f"{order}\n"
        "copies = {line.split()[-1] for line in open('/proc/self/maps') if 'libtvm_runtime.so' in line}\n"
        "assert len(copies) == 1, copies"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_damaged_file_is_refused_by_load(path):
    data = bytearray(path.read_bytes())
    data[bytes(data).index(affine().weights[1].tobytes()) + 9] ^= 4
    with pytest.raises(ArtifactError, match=r"'weights.bin' is damaged"):
        load(bytes(data), threads=1)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_refused_or_harmless(path, data):
    damaged = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    for _ in range(data.draw(st.integers(0, 3)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        model = load(bytes(damaged), threads=1)
    except ArtifactError:
        return
    np.testing.assert_array_equal(model(X), affine_result(X))


def test_public_names():
    assert kompilo.load is load
    assert module.load is load
    assert set(kompilo.errors.__all__) == {name for name in vars(errors) if name.endswith("Error")}
    from kompilo.errors import ArtifactError as public

    assert public is ArtifactError


def test_an_error_in_the_virtual_machine_is_one_sentence():
    """The signature promises more than the code keeps; the model goes on working."""
    artifact = affine()
    loose = (dataclasses.replace(artifact.inputs[0], shape=("A", "B")),)
    model = load(Artifact(loose, artifact.outputs, artifact.targets, artifact.weights, {}), threads=1)
    for _ in range(3):
        with pytest.raises(KompiloError, match="do not fit the model|cannot run on these inputs") as caught:
            model(X[:3])
        assert "\n" not in str(caught.value)
        np.testing.assert_array_equal(model(X), affine_result(X))
