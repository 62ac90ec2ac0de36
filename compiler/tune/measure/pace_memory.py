"""Remembers how fast the reference kernel was at best since this machine started.

A session that begins while other programs work on its cores would take their slowness for the usual pace. The machine's
boot id ties the memory to one machine: another one, or a virtual one started elsewhere, begins anew.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FILE = "pace.json"


def remembered(folder: Path) -> float | None:
    """Seconds of the reference kernel at best, or None if nothing is known since the machine started."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        data = json.loads((folder / _FILE).read_text())
        seconds = float(data["seconds"])
        if data["boot"] == _BOOT_ID.read_text().strip() and 0 < seconds < 1:
            return seconds
    return None


def remember(folder: Path, seconds: float) -> None:
    """Keep `seconds` in `folder`; without a place to write to, nothing is kept."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{_FILE}.{os.getpid()}.part"
        part.write_text(json.dumps({"boot": _BOOT_ID.read_text().strip(), "seconds": seconds}))
        part.replace(folder / _FILE)
