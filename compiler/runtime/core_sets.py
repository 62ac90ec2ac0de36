"""Sets of CPU cores as devices: "cpu:0", "cpu:0-1", and "cpu:1=cpu:avx2" for the code of one target on them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError
from .host import allowed_cpus

_NAME = re.compile(r"cpu:(\d+)(?:-(\d+))?(?:=(.+))?")
_EXPECTED = "cpu:N or cpu:N-M, with =TARGET behind it for the code of one target"


@dataclass(frozen=True)
class CoreSet:
    """Logical CPUs, ascending, and the name or key of the target whose code runs there (None: the best that fits)."""

    cpus: tuple[int, ...]
    target: str | None = None

    @property
    def name(self) -> str:
        """ "cpu:0" or "cpu:0-1"."""
        first, last = self.cpus[0], self.cpus[-1]
        return f"cpu:{first}" if first == last else f"cpu:{first}-{last}"

    def __str__(self) -> str:
        return self.name if self.target is None else f"{self.name}={self.target}"


def parse_core_set(text: str) -> CoreSet | None:
    """The cores that a device's name asks for; None if it is no name of cores ("cpu", "cpu:avx2", "cuda:0").

    Raises:
        UsageError: cores that this process may not use, or in the wrong order.
    """
    found = _NAME.fullmatch(text)
    if found is None:
        return None
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise UsageError(f"device {text!r}: expected the lower core first, found {first}-{last}.")
    allowed = allowed_cpus()
    missing = [cpu for cpu in range(first, last + 1) if cpu not in allowed]
    if missing:
        known = ", ".join(map(str, allowed))
        raise UsageError(f"device {text!r}: expected cores among those this process may use, {known}, found {missing}.")
    return CoreSet(tuple(range(first, last + 1)), found[3])


def core_sets(devices: str | Sequence[str]) -> tuple[CoreSet, ...]:
    """The core sets of a list of devices: names, or one text with commas between them.

    Raises:
        UsageError: an empty list, something that is no core set, or a core in two of them.
    """
    names = devices.split(",") if isinstance(devices, str) else list(devices)
    if not names:
        raise UsageError(f"devices: expected at least one of {_EXPECTED}, found none.")
    sets = []
    for name in names:
        cores = parse_core_set(name.strip()) if isinstance(name, str) else None
        if cores is None:
            raise UsageError(f"devices: expected {_EXPECTED}, found {name!r}.")
        sets.append(cores)
    seen: dict[int, CoreSet] = {}
    for cores in sets:
        for cpu in cores.cpus:
            other = seen.setdefault(cpu, cores)
            if other is not cores:
                raise UsageError(f"devices: expected each core once, found core {cpu} in {other} and in {cores}.")
    return tuple(sets)
