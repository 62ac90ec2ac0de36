"""The cache of the zoo: verified files, written once, shared by processes that run at the same time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..compiler.errors import ModelError, UsageError
from ..compiler.knobs import Knobs


def cache_dir() -> Path:
    """$KOMPILO_CACHE, or ~/.cache/kompilo; created on first use. UsageError when it cannot be written."""
    root = Knobs.from_environment().cache
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the model cache {root} cannot be created ({error.strerror}).", "set KOMPILO_CACHE to a writable folder."
        ) from error
    return root


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached(relative: str, make: Callable[[Path], None], sha256: str | None) -> Path:
    """The file `relative` of the cache, made by `make(temporary path)` if it is missing or damaged.

    A lock beside the file lets one process make it while the others wait; the file appears complete or not at all.
    Its sum is taken when it is made and whenever its size or time of change differs from what was noted then.
    `sha256` None means that no sum can be known beforehand (results of training differ between machines in the last
    bits): then the one noted counts. A cache that we cannot write to serves what it holds.

    Raises:
        ModelError: a freshly made file has the wrong sum.
        UsageError: the cache cannot be written and does not hold the file.
    """
    root = cache_dir()
    path = root / relative
    note = path.with_name(path.name + ".note")
    if not os.access(root, os.W_OK):  # part of an image, perhaps; and where nobody writes there is nobody to wait for
        if path.exists() and _intact(path, note, sha256):
            return path
        raise UsageError(
            f"the model cache {root} is read-only and holds no whole {relative}.",
            "set KOMPILO_CACHE to a writable folder.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(path.name + ".lock")):
        if path.exists() and _intact(path, note, sha256):
            return path
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem + ".", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        try:
            make(temporary)
            found = sha256_of(temporary)
            if sha256 not in (None, found):
                raise ModelError(f"{relative}: expected SHA-256 {sha256}, found {found}.", "try again.")
            temporary.chmod(0o644)
            os.replace(temporary, path)
            note.write_text(f"{found} {_stamp(path)}\n")
        finally:
            temporary.unlink(missing_ok=True)
    return path


def _intact(path: Path, note: Path, sha256: str | None) -> bool:
    """Whether the file is the one that `note` tells of, and has the expected sum."""
    noted, _, stamp = (note.read_text() if note.exists() else "").strip().partition(" ")
    expected = sha256 or noted
    if noted == expected and stamp == _stamp(path):
        return True
    if not expected or sha256_of(path) != expected:
        return False
    if os.access(note.parent, os.W_OK):
        note.write_text(f"{expected} {_stamp(path)}\n")
    return True


def _stamp(path: Path) -> str:
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
