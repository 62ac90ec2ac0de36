"""The roofline of this machine: measured at first need, then remembered in the cache folder by target key."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from ..errors import KompiloError
from ..knobs import Knobs
from ..schedule.roofline import Level, Roofline
from ..schedule.target import Target

SCHEMA = 1


def machine_roofline(target: Target) -> Roofline | None:
    """Peak rates of one core for `target`; takes a few seconds the first time. None where its code does not run here.

    They are kept in <cache>/roofline/<target key>.json. A cache that cannot be read or written costs the time again.
    """
    path = Knobs.from_environment().cache / "roofline" / f"{target.spec.key}.json"
    known = _read(path)
    if known is None:
        known = target.measure_roofline()
        if known is not None:
            _write(path, known)
    return known


def _read(path: Path) -> Roofline | None:
    with suppress(OSError, ValueError, KeyError, TypeError, KompiloError):
        data = json.loads(path.read_text())
        if data["schema"] == SCHEMA:
            levels = tuple(Level(str(v["name"]), v["bytes"], float(v["bytes_per_s"])) for v in data["levels"])
            return Roofline(float(data["flops_per_s"]), levels)
    return None


def _write(path: Path, roofline: Roofline) -> None:
    from ..artifact.atomic import replace_file

    levels = [{"name": v.name, "bytes": v.capacity, "bytes_per_s": v.bandwidth} for v in roofline.levels]
    data = {"schema": SCHEMA, "flops_per_s": roofline.peak, "levels": levels}
    with suppress(OSError, KompiloError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write((json.dumps(data, indent=2) + "\n").encode())
