"""Temporary folders: gone at the end, and those of killed processes gone at the next run."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from kompilo.compiler.errors import KompiloError
from kompilo.compiler.scratch import scratch_folder


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The directory for temporary files in this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def make_old(folder):
    os.utime(folder, (0, 0))


def test_the_folder_goes_with_the_block(temporary):
    def fail():
        with scratch_folder("build") as folder:
            (folder / "part").write_bytes(b"x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_is_removed(temporary):
    code = (
        "import os, signal\n"
        "from kompilo.compiler.scratch import scratch_folder\n"
        "with scratch_folder('build') as folder:\n"
        "    (folder / 'part').write_bytes(b'x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(temporary)}, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = temporary.iterdir()
    with scratch_folder("build"):
        assert left.exists()  # too young to be sure
    make_old(left)
    with scratch_folder("build"):
        assert not left.exists()


def test_folders_in_use_and_of_others_stay(temporary):
    for name in ("kompilo-1000", "kompilo-abcdefgh", "other-build-abcdefgh", "kompilo-build-abcdefgh.txt"):
        (temporary / name).mkdir()
        make_old(temporary / name)
    (temporary / "kompilo-build-linkedto").symlink_to(temporary / "kompilo-1000")
    before = set(temporary.iterdir())
    with scratch_folder("bench") as used:
        make_old(used)
        with scratch_folder("build"):
            assert used.exists()
    assert set(temporary.iterdir()) == before


def test_no_temporary_folder_is_one_sentence(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(KompiloError, match="no temporary folder can be made: no such file or directory"):
        scratch_folder("build").__enter__()
