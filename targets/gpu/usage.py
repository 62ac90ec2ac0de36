"""What a compiled operator takes of its GPU, from the code object and the launches together."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from ...compiler.device_code import Usage
from ...compiler.launches import DeviceProgram
from .occupancy import occupancy
from .resources import Resources, resources_of_code_object, resources_of_cubin
from .spec import GpuSpec

_READERS: dict[str, Callable[[bytes], dict[str, Resources]]] = {
    "cubin": resources_of_cubin,
    "hsaco": resources_of_code_object,
}


def usage_of(program: DeviceProgram, spec: GpuSpec) -> Usage:
    """Of all launches of `program`; KompiloError if its code is damaged or of an unknown format."""
    reports = _READERS[program.format](program.code)
    used = [(reports[launch.kernel], launch) for launch in program.launches]
    least = min(
        (occupancy(r, spec, prod(launch.block), launch.shared_bytes) for r, launch in used),
        key=lambda found: found.fraction,
    )
    return Usage(
        registers=max(r.registers for r, _ in used),
        spill_bytes=max(r.spills_bytes for r, _ in used),
        shared_bytes=max(r.shared_bytes + launch.shared_bytes for r, launch in used),
        occupancy=least.fraction,
        limit=least.limit,
    )
