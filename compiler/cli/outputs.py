"""The files that verbs write: refused before the work if they cannot be written, and whole or not there at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    import numpy as np


def check_output(path: Path, what: str = "output") -> None:
    """Raises UsageError, naming the file as `what`, if nothing can be written to `path`; to be asked before long work.

    A symbolic link is followed. What this cannot foresee, a full disk for one, shows when the file is written.
    """
    where = f"the {what} {str(path)!r}"
    folder = Path(os.path.realpath(path)).parent
    if path.is_dir():
        raise UsageError(f"{where} is a directory.", "name a file.")
    if not folder.is_dir():
        raise UsageError(f"the directory {str(path.parent)!r} of the {what} does not exist.")
    if path.exists() and not path.is_file():
        raise UsageError(f"{where} is not a regular file.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{where} cannot be written: no permission for its directory.")


def check_html(path: Path | None, what: str) -> None:
    """As `check_output` for a page that will be asked to hold plots; KompiloError without what draws them."""
    if path is not None:
        from ..html_page import check_matplotlib

        check_output(path, what)
        check_matplotlib()


def write_text(path: Path, text: str) -> None:
    """`text` in UTF-8 as the file `path`. Raises ArtifactError if it cannot be written; an old file then stays."""
    from ..artifact.atomic import replace_file

    with replace_file(path) as file:
        file.write(text.encode())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """`arrays` as an .npz file named exactly `path`; errors as for `write_text`."""
    from ..artifact.atomic import replace_file
    from ..peers.base import save_arrays

    with replace_file(path) as file:
        save_arrays(file, arrays)


def copy_file(source: Path, path: Path) -> None:
    """The bytes of `source` as the file `path`; errors as for `write_text`."""
    import shutil

    from ..artifact.atomic import replace_file

    with source.open("rb") as data, replace_file(path) as file:
        shutil.copyfileobj(data, file)
