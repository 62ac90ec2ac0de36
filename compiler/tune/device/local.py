"""Whether candidates for a GPU can be measured on this machine."""

from __future__ import annotations

from typing import Any

from ...device_code import runs_on
from ...errors import TargetError
from ...runtime.cuda_driver import NO_DEVICE, CudaError, Load, cuda_version
from ...runtime.devices import KINDS
from ...runtime.hip_driver import driver_class
from ...schedule.target import Target, find_target

_HINT = "tune with --bundle DIR, and measure on a machine that has it."


def check_local(target: Target, *load: Load) -> None:
    """Raises TargetError, offering a bundle, unless the first GPU of this machine is what `target` is for.

    `load` replaces the loading of the driver's library.
    """
    spec: Any = target.spec
    drivers = driver_class(spec.kind)
    whose = f"{drivers.maker}'s driver"
    try:
        driver = drivers(*load)
        name, version = driver.name(0), driver.capability(0)
    except OSError:
        raise TargetError(f"tuning for {spec.key}: {whose} is not installed on this machine.", _HINT) from None
    except CudaError as error:
        what = "finds no GPU" if error.code == NO_DEVICE else f"does not work ({error})"
        raise TargetError(f"tuning for {spec.key}: {whose} {what} on this machine.", _HINT) from None
    least = next(kind.least_driver for kind in KINDS.values() if kind.name == spec.kind)
    if driver.version < least:
        found, wanted = cuda_version(driver.version), cuda_version(least)
        raise TargetError(
            f"tuning for {spec.key}: this machine's driver is for CUDA {found}, expected one for {wanted} or later.",
            _HINT,
        )
    if not runs_on(spec.arch, version):
        found = f"this machine's GPU ({name}) has the version {version}"
        raise TargetError(f"tuning for {spec.key}: expected a GPU that runs {spec.arch}; {found}.", _HINT)
    here = find_target(spec.kind).spec.key
    if here != spec.key:
        hint = f"tune with --target {spec.kind}, whose records are for this GPU."
        raise TargetError(f"tuning for {spec.key}: expected that GPU, this machine's is {here}.", hint)
