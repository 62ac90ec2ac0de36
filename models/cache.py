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


def cache_dir() -> Path:
    """$KOMPILO_CACHE, or ~/.cache/kompilo; created on first use. UsageError when it cannot be written."""
    root = Path(os.environ.get("KOMPILO_CACHE") or Path.home() / ".cache" / "kompilo").expanduser()
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


def check_sha256(path: Path, expected: str, what: str) -> None:
    """ModelError unless the file at `path` has the SHA-256 `expected`; the file is then removed."""
    found = sha256_of(path)
    if found != expected:
        path.unlink(missing_ok=True)
        raise ModelError(f"{what}: expected SHA-256 {expected}, found {found}.", "the file was removed; try again.")


def cached(relative: str, make: Callable[[Path], None], sha256: str | None) -> Path:
    """The file `relative` of the cache, made by `make(temporary path)` if it is missing or damaged.

    A lock beside the file lets one process make it while the others wait; the file appears complete or not at all.
    With `sha256` None (results of training, which differ between machines in the last bits) the file is verified
    against the sum that was written down when it was made. ModelError when a freshly made file has the wrong sum.
    """
    path = cache_dir() / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    recorded = path.with_name(path.name + ".sha256")
    with _locked(path.with_name(path.name + ".lock")):
        expected = sha256 or (recorded.read_text().strip() if recorded.exists() else None)
        if path.exists() and expected is not None and sha256_of(path) == expected:
            return path
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem + ".", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        try:
            make(temporary)
            if sha256 is None:
                recorded.write_text(sha256_of(temporary) + "\n")
            else:
                check_sha256(temporary, sha256, relative)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
