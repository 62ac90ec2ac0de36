"""The roofline of this machine: measured at the first sessions, remembered in the cache folder by target key."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import KompiloError
from ..knobs import Knobs
from ..schedule.roofline import Level, Roofline
from ..schedule.target import Target

SCHEMA = 1
# Whatever else a machine does takes away from its rates (memory's differed by a factor of two between busy and idle
# moments), so the best of several sessions counts.
MEASUREMENTS = 3


def machine_roofline(target: Target, name: str = "cpu", note: Callable[[str], None] | None = None) -> Roofline | None:
    """Peak rates of one core for `target`, or of its device; takes a few seconds the first times. None where its code
    does not run here; of a device that is elsewhere, what its maker says.

    `name` is what `find_target` finds the target by: devices are measured in a process of their own. Where that fails,
    `note` gets a sentence. Rates are kept in <cache>/roofline/<target key>.json. A cache that cannot be read or written
    costs the time again.
    """
    path = Knobs.from_environment().cache / "roofline" / f"{target.spec.key}.json"
    known, times = _read(path)
    if known is not None and times >= MEASUREMENTS:
        return known
    found = _measured(target, name, note or (lambda sentence: None))
    if found is None:
        return published(target) if known is None and target.drives_device else known
    if known is not None and [v.name for v in known.levels] == [v.name for v in found.levels]:
        found = _best(known, found)
    _write(path, found, times + 1)
    return found


def published(target: Target) -> Roofline:
    """What the maker of the target's device says of it."""
    from .device.roofline import published as of_device

    return of_device(target)


def _measured(target: Target, name: str, note: Callable[[str], None]) -> Roofline | None:
    if not target.drives_device:
        return target.measure_roofline()
    from .device.roofline import is_here
    from .device.roofline_probe import measured_apart

    try:
        return measured_apart(name) if is_here(target) else None
    except KompiloError as error:
        note(f"the roofline is of rates known before, as the GPU's could not be measured: {error.message}")
        return None


def _best(a: Roofline, b: Roofline) -> Roofline:
    levels = zip(a.levels, b.levels, strict=True)
    rates = dict(a.peaks)
    return Roofline(
        max(a.peak, b.peak),
        tuple(Level(w.name, w.capacity, max(v.bandwidth, w.bandwidth)) for v, w in levels),
        tuple((dtype, max(rate, rates.get(dtype, 0.0))) for dtype, rate in b.peaks),
    )


def _read(path: Path) -> tuple[Roofline | None, int]:
    """What is remembered, and of how many measurements it is the best."""
    with suppress(OSError, ValueError, KeyError, TypeError, KompiloError):
        data = json.loads(path.read_text())
        if data["schema"] == SCHEMA:
            return Roofline.from_json(data), int(data["measurements"])
    return None, 0


def _write(path: Path, roofline: Roofline, times: int) -> None:
    from ..artifact.atomic import replace_file

    data = {"schema": SCHEMA, "measurements": times, **roofline.to_json()}
    with suppress(OSError, KompiloError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write((json.dumps(data, indent=2) + "\n").encode())
