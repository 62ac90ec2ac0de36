"""What this machine is: architecture, CPU model and flags, cores that this process may use."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

from ..artifact.records import TargetCode
from ..errors import ArtifactError

_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}
_MODEL_KEYS = ("model name", "Processor", "cpu model", "uarch")
_CPUINFO = Path("/proc/cpuinfo")
_TOPOLOGY = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def architecture(machine: str | None = None) -> str:
    """The canonical name ("x86_64", "aarch64", ...) of `machine`, or of this machine."""
    name = (machine or platform.machine()).lower()
    return _ARCHITECTURES.get(name, name)


@cache
def cpu_flags() -> frozenset[str]:
    """The CPU's flags in Linux's spelling ("avx2", "avx512f", ...); empty where they cannot be read."""
    fields = _cpuinfo()
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())


@cache
def cpu_name() -> str:
    """The CPU's model as the operating system tells it."""
    fields = _cpuinfo()
    return next((fields[key] for key in _MODEL_KEYS if fields.get(key)), architecture() + " CPU")


def check_target(target: TargetCode) -> None:
    """Raises ArtifactError, naming what is missing, if this machine cannot run the code of `target`."""
    wanted, found = architecture(target.triple.split("-")[0]), architecture()
    if wanted != found:
        raise ArtifactError(
            f"the artifact was built for {target.key} ({wanted}), but this machine is {found} ({cpu_name()}).",
            "compile the model for this machine.",
        )
    missing = [feature for feature in target.cpu_features if feature not in cpu_flags()]
    if missing:
        raise ArtifactError(
            f"the artifact was built for {target.key} and needs the CPU features {', '.join(missing)}, "
            f"which this machine ({cpu_name()}) lacks.",
            "compile the model for this machine, or for a more common target such as cpu:avx2.",
        )


def allowed_cpus() -> list[int]:
    """Numbers of the logical CPUs that this thread may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def default_threads() -> int:
    """Physical cores among the allowed CPUs, at most what the control group's quota of CPU time allows; at least 1."""
    files = {cpu: _TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list" for cpu in allowed_cpus()}
    cores = {_read(file) or str(cpu) for cpu, file in files.items()}
    return max(1, min(len(cores), _quota()))


def _quota() -> int:
    parts = _read(_QUOTA).split()
    if len(parts) == 2 and all(part.isdigit() for part in parts) and int(parts[1]) > 0:
        return -(-int(parts[0]) // int(parts[1]))
    return 2**31


@cache
def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in _read(_CPUINFO).splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
