"""Lays the package out as it is imported, in build/view/kompilo, by links to the folders of the repository.

The installed package maps `kompilo.compiler` to `compiler/` and so on; mypy and import-linter look for packages by
folder and do not know that mapping. Reads it from pyproject.toml, so it stays true.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VIEW = ROOT / "build" / "view"


def main() -> None:
    """Builds the view anew."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        folders = tomllib.load(file)["tool"]["setuptools"]["package-dir"]
    shutil.rmtree(VIEW, ignore_errors=True)
    top = VIEW / "kompilo"
    top.mkdir(parents=True)
    for source in (ROOT / folders["kompilo"]).glob("*.py*"):
        (top / source.name).symlink_to(source)
    for package, folder in folders.items():
        if package != "kompilo":
            (top / package.removeprefix("kompilo.")).symlink_to(ROOT / folder)


if __name__ == "__main__":
    main()
