"""Installs the misbehaving target as a package of its own would: by an entry point on Python's path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def misbehaving_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the target, known to this process and to those it starts."""
    info = tmp_path / "misbehaving-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: misbehaving\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kompilo.targets]\nmisbehaving = misbehaving:MisbehavingTarget\n")
    for folder in (HERE, tmp_path):
        monkeypatch.syspath_prepend(str(folder))
    old = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(tmp_path), *([old] if old else [])]))
    return "misbehaving"
