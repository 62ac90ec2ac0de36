"""Temporary folders of Kompilo's, and the removal of those that a killed process left behind."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import KompiloError

_NAME = re.compile(r"kompilo-[a-z]+-\w{8}")
_STALE_SECONDS = 3600.0
_HINT = "TMPDIR names another folder for temporary files."


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A new folder `kompilo-PURPOSE-...` in the temporary directory, removed at the end; `purpose` is a word of a-z.

    Folders of processes that were killed are removed by the way. Raises KompiloError if no folder can be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"kompilo-{purpose}-"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise KompiloError(f"no temporary folder can be made: {reason[0].lower()}{reason[1:]}.", _HINT) from None
    descriptor = os.open(folder, os.O_RDONLY)  # the lock tells others that we live; a kill takes it away
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _remove_stale(folder.parent)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def no_room(error: OSError) -> KompiloError:
    """What to tell of a temporary file that cannot be written."""
    folder, reason = tempfile.gettempdir(), error.strerror or str(error)
    return KompiloError(f"cannot write to the temporary folder {folder!r}: {reason[0].lower()}{reason[1:]}.", _HINT)


def _remove_stale(parent: Path) -> None:
    """Removes our folders below `parent` that nobody has locked, an hour old: a young one may not be locked yet."""
    with suppress(OSError):
        for entry in os.scandir(parent):
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):  # of another user, or gone meanwhile
                    _remove_if_stale(entry)


def _remove_if_stale(entry: os.DirEntry[str]) -> None:
    status = entry.stat(follow_symlinks=False)
    if status.st_uid != os.getuid() or time.time() - status.st_mtime < _STALE_SECONDS:
        return
    descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(entry.path, ignore_errors=True)
    finally:
        os.close(descriptor)
