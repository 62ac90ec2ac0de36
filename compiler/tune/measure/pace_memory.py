"""Remembers the usual pace of this machine, for as long as it runs.

So the times of all its sessions compare, and a session that begins while other programs work on the cores does not take
their slowness for usual. The boot id ties the memory to one machine: another one, or a virtual one started elsewhere,
begins anew.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ...artifact.atomic import replace_contents
from .pace import Reading

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FILE = "pace.json"


def remembered(folder: Path) -> Reading | None:
    """The usual reading, or None if nothing is known since the machine started."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        data = json.loads((folder / _FILE).read_text())
        reading = Reading(float(data["seconds"]), float(data["ratio"]))
        if data["boot"] == _BOOT_ID.read_text().strip() and 0 < reading.seconds < 1 and 0 < reading.ratio < math.inf:
            return reading
    return None


def remember(folder: Path, usual: Reading) -> None:
    """Keep `usual` in `folder`; without a place to write to, nothing is kept."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        data = json.dumps({"boot": _BOOT_ID.read_text().strip(), **asdict(usual)})
        with replace_contents(folder / _FILE) as file:
            file.write(data.encode())
