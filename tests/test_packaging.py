"""The mapped package layout: every folder of the repository that holds code is installed under its import name."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_folder_with_code_is_a_package():
    with (ROOT / "pyproject.toml").open("rb") as file:
        setuptools = tomllib.load(file)["tool"]["setuptools"]
    found = {"kompilo"}
    for package, folder in setuptools["package-dir"].items():
        for marker in (ROOT / folder).rglob("__init__.py"):
            parts = marker.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *parts)))
    assert set(setuptools["packages"]) == found
