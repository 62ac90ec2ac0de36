"""Installs the targets of `shim_target` as a package of its own would: by entry points on Python's path."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def shim_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The targets, for one test."""
    from shim_target import install_shim_targets

    install_shim_targets(tmp_path / "path", monkeypatch)
