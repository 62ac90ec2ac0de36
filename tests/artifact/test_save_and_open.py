"""A saved artifact opens as what was saved, whole files only, in the format that is documented."""

import errno
import json
import os
import resource
import stat
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from sample_artifact import sample_artifact

from kompilo.compiler.artifact.artifact import Artifact, MemoryPlan, TargetCode, read_artifact
from kompilo.compiler.errors import ArtifactError
from kompilo.compiler.tensor_spec import TensorSpec


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "model.kpo"
    sample_artifact().save(file)
    return file


def assert_same(found: Artifact, wanted: Artifact) -> None:
    assert (found.inputs, found.outputs) == (wanted.inputs, wanted.outputs)
    assert (found.targets, found.provenance) == (wanted.targets, wanted.provenance)
    assert len(found.weights) == len(wanted.weights)
    for a, b in zip(found.weights, wanted.weights, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


def test_round_trip(path):
    artifact = Artifact.open(path)
    assert_same(artifact, sample_artifact())
    artifact.check()
    assert artifact.is_mapped
    assert not sample_artifact().is_mapped


def test_open_from_bytes(path):
    artifact, check = read_artifact(path.read_bytes())
    check()
    assert_same(artifact, sample_artifact())


def test_equal_artifacts_are_equal_files(path, tmp_path):
    Artifact.open(path).save(tmp_path / "again.kpo")
    assert (tmp_path / "again.kpo").read_bytes() == path.read_bytes()


def test_saving_over_the_file_it_is_mapped_from(path):
    artifact = Artifact.open(path)
    artifact.save(path)
    assert_same(artifact, sample_artifact())
    assert_same(Artifact.open(path), sample_artifact())


def test_format_is_a_zip_of_stored_aligned_members(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == ["manifest.json", "code/cpu-wide/lib.so", "code/cpu-narrow/lib.so", "weights.bin"]
        manifest = json.loads(archive.read("manifest.json"))
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
    assert (manifest["format"], manifest["version"]) == ("kompilo", 1)
    assert manifest["targets"][0]["cpu_features"] == ["avx2", "avx512f"]
    for weight in Artifact.open(path).weights:
        assert weight.size == 0 or weight.ctypes.data % 64 == 0


def test_weights_in_any_layout_and_byte_order(tmp_path):
    artifact = sample_artifact()
    wanted = np.arange(12, dtype=np.int32).reshape(3, 4)
    artifact.weights = [np.asfortranarray(wanted), wanted.astype(">i4"), np.repeat(wanted, 2, axis=1)[:, ::2], wanted]
    artifact.save(tmp_path / "m.kpo")
    for found in Artifact.open(tmp_path / "m.kpo").weights:
        np.testing.assert_array_equal(found, wanted)
        assert found.flags.c_contiguous
        assert found.dtype.isnative


def test_no_weights_and_no_inputs(tmp_path):
    code = TargetCode("cpu", "cpu-x", "x86_64-linux-gnu", b"\x7fELF")
    Artifact((), (TensorSpec("y", (), "bool"),), (code,), [], {}).save(tmp_path / "m.kpo")
    artifact = Artifact.open(tmp_path / "m.kpo")
    assert (artifact.inputs, artifact.weights, artifact.targets) == ((), [], (code,))


def test_provenance_of_values_that_json_has_no_word_for(tmp_path):
    artifact = sample_artifact()
    artifact.provenance = {"path": tmp_path, "score": float("nan"), "shape": (1, 2)}
    artifact.save(tmp_path / "m.kpo")
    found = Artifact.open(tmp_path / "m.kpo").provenance
    assert found == {"path": str(tmp_path), "score": "nan", "shape": [1, 2]}


def test_memory_plan_sums():
    plan = MemoryPlan((100, 300, 200))
    assert (plan.total_bytes, plan.largest_bytes) == (600, 300)
    assert (MemoryPlan().total_bytes, MemoryPlan().largest_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: setattr(a, "targets", ()), "at least one target"),
        (lambda a: setattr(a, "targets", a.targets + a.targets[:1]), "each target once"),
        (lambda a: setattr(a, "inputs", a.inputs + a.inputs[:1]), "distinct input names"),
        (lambda a: setattr(a, "outputs", (TensorSpec("y", (), "string"),)), "dtype 'string' is unknown"),
        (lambda a: setattr(a, "weights", [np.array(["text"])]), "weight 0: expected one of bool"),
        (lambda a: setattr(a, "weights", []), "expected weight numbers below 0"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path, change, message):
    artifact = sample_artifact()
    change(artifact)
    with pytest.raises(ArtifactError, match=message):
        artifact.save(tmp_path / "m.kpo")
    assert list(tmp_path.iterdir()) == []


def test_new_files_get_the_usual_permissions(path):
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_symbolic_link_stays_one(path, tmp_path):
    link = tmp_path / "link.kpo"
    link.symlink_to(path)
    before = path.stat().st_ino
    sample_artifact().save(link)
    assert link.is_symlink()
    assert path.stat().st_ino != before


@pytest.mark.parametrize("place", ["missing/m.kpo", ".", "file.txt/m.kpo", "nul\0.kpo", "x" * 300])
def test_places_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        sample_artifact().save(f"{tmp_path}/{place}")
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("place", [None, 3])
def test_what_is_no_path(place):
    with pytest.raises(ArtifactError, match=f"cannot write {place}: expected str, bytes or os.PathLike object"):
        sample_artifact().save(place)
    with pytest.raises(ArtifactError, match=f"cannot open {place}: expected str, bytes or os.PathLike object"):
        Artifact.open(place)


def test_many_writers_of_one_file(path):
    """Whoever comes last wins, and every reader meanwhile sees one whole artifact."""
    script = (
        "import sys; from kompilo.compiler.artifact.artifact import Artifact\n"
        f"artifact = Artifact.open({str(path)!r}); artifact.provenance = {{'writer': sys.argv[1]}}\n"
        f"for _ in range(30): artifact.save({str(path)!r})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(k)]) for k in range(3)]
    while any(writer.poll() is None for writer in writers):
        Artifact.open(path).check()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert Artifact.open(path).provenance["writer"] in "012"
    assert list(path.parent.iterdir()) == [path]


def test_a_device_is_not_replaced():
    with pytest.raises(ArtifactError, match="'/dev/null': it exists and is not a regular file"):
        sample_artifact().save("/dev/null")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_save_leaves_the_old_file_and_nothing_else(path, monkeypatch, error):
    old = path.read_bytes()

    def stop(descriptor):
        raise error

    monkeypatch.setattr(os, "fsync", stop)
    changed = sample_artifact()
    changed.provenance = {"new": True}
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ArtifactError):
        changed.save(path)
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(path):
    """The limit on a file's size stands in for the end of the disk."""
    script = (
        "import resource, sys; from kompilo.compiler.artifact.artifact import Artifact;"
        "from kompilo.compiler.errors import ArtifactError;"
        f"artifact = Artifact.open({str(path)!r});"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (512, {resource.RLIM_INFINITY}))\n"
        f"try: artifact.save({str(path)!r})\n"
        "except ArtifactError as error: print(error)"
    )
    old = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout
    assert "file too large" in done.stdout
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]
