"""The clock that the times of all sessions on a cluster are scaled to, so that they compare with one another.

It is this machine's, where that is of the cluster's kind: its own sessions file their records beside. Otherwise it is
that of the node which answered first in the first session, and is kept.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path

from ..artifact.atomic import replace_contents
from ..errors import KompiloError
from ..knobs import Knobs
from ..schedule.target import find_target
from .measure.pace_memory import remembered


def kept_reference(target: str, key: str) -> float | None:
    """Seconds that the reference kernel takes by that clock, or None if nothing is known yet."""
    with suppress(KompiloError):
        here = find_target(target.partition(":")[0])
        # GPUs are timed by clocks of their own.
        own = remembered(_folder()) if here.spec.key == key and not here.drives_device else None
        if own is not None:
            keep_reference(key, own.seconds)  # after this machine's next start it is not remembered any more
            return own.seconds
    with suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        seconds = float(json.loads(_file(key).read_text())["reference_s"])
        if 0 < seconds < math.inf:
            return seconds
    return None


def keep_reference(key: str, seconds: float) -> None:
    """Keep the clock for later sessions; without a place to write to, nothing is kept."""
    with suppress(OSError):
        _file(key).parent.mkdir(parents=True, exist_ok=True)
        with replace_contents(_file(key)) as file:
            file.write(json.dumps({"reference_s": seconds}).encode())


def _folder() -> Path:
    return Knobs.from_environment().cache / "tune"


def _file(key: str) -> Path:
    return _folder() / "clusters" / f"{key}.json"
