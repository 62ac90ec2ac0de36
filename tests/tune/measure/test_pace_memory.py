"""What is remembered of a machine's pace."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from kompilo.compiler.tune.measure import pace_memory
from kompilo.compiler.tune.measure.pace import Reading
from kompilo.compiler.tune.measure.pace_memory import remember, remembered


def test_a_pace_is_remembered_until_the_machine_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert remembered(tmp_path) is None
    remember(tmp_path / "new", Reading(45e-6, 2.8))
    assert remembered(tmp_path / "new") == Reading(45e-6, 2.8)
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr(pace_memory, "_BOOT_ID", boot)
    assert remembered(tmp_path / "new") is None


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"seconds": "x", "ratio": 2, "boot": ""}', '{"seconds": -1.0, "ratio": 2, "boot": "BOOT"}'],
)
def test_a_broken_memory_is_none(tmp_path: Path, text: str) -> None:
    boot = pace_memory._BOOT_ID.read_text().strip()
    (tmp_path / "pace.json").write_text(text.replace("BOOT", boot))
    assert remembered(tmp_path) is None


def test_a_place_that_cannot_be_written_to_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    remember(tmp_path / "file", Reading(45e-6, 2.8))
    assert json.dumps(remembered(tmp_path / "file")) == "null"


def test_a_full_disk_leaves_the_old_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(tmp_path, Reading(45e-6, 2.8))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    remember(tmp_path, Reading(50e-6, 2.9))
    assert remembered(tmp_path) == Reading(45e-6, 2.8)
    assert [p.name for p in tmp_path.iterdir()] == ["pace.json"]
