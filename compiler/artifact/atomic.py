"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import ArtifactError


@contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A new file, open for writing and reading, that takes the place of `path` when the block ends without an error.

    Any error, a full disk and Ctrl-C included, leaves the old file as it was and nothing else in the folder. A symbolic
    link stays one: what it points to is replaced.

    Raises:
        ArtifactError: the folder is missing or closed to us, the disk is full, or `path` is no regular file.
    """
    try:
        final = Path(os.path.realpath(path))
    except (TypeError, ValueError) as error:  # no path, bytes, or a null byte in it
        raise ArtifactError(f"cannot write {path!r}: {error}.") from None
    try:
        if final.exists() and not stat.S_ISREG(final.stat().st_mode):
            raise ArtifactError(f"cannot write {str(path)!r}: it exists and is not a regular file.")
        with replace_contents(final) as file:
            yield file
    except OSError as error:
        raise ArtifactError(f"cannot write {str(path)!r}: {(error.strerror or str(error)).lower()}.") from None


@contextmanager
def replace_contents(final: Path) -> Iterator[IO[bytes]]:
    """The same for a regular file, or none yet, at `final`, no symbolic link; raises the system's OSError."""
    # Beside the final file, as a rename is atomic only within one file system; os.open honours the umask.
    temporary = final.with_name(f".{final.name[:200]}.{secrets.token_hex(6)}.tmp")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
