"""The devices of this machine, as `kompilo devices` lists them: capability, memory, load, and how fast data move."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .core_sets import CoreSet
from .devices import KINDS, Missing, find_device
from .host import allowed_cpus, cpu_flags, cpu_name

_STAT, _MEMINFO = Path("/proc/stat"), Path("/proc/meminfo")
_LOAD_SECONDS = 0.1
_MOST_GPUS = 64
# The widest set of vector instructions that a CPU has, by its flags; the first that is there is named.
_VECTORS = (
    ("avx512_bf16", "AVX-512 with bfloat16"),
    ("avx512_vnni", "AVX-512 with VNNI"),
    ("avx512f", "AVX-512"),
    ("avx2", "AVX2"),
    ("sse4_2", "SSE4.2"),
    ("sve", "SVE"),
    ("asimd", "NEON"),
)


@dataclass(frozen=True)
class DeviceFacts:
    """A device by the name that `kompilo.load` takes; `problem` says why there is none of that kind.

    `memory_bytes` and `free_bytes` are of the whole machine for its cores, None where they are not known; `load` is the
    part of its time that the device worked in the last tenth of a second.
    """

    name: str
    capability: str = ""
    memory_bytes: int | None = None
    free_bytes: int | None = None
    load: float | None = None
    problem: str | None = None


def list_devices() -> list[DeviceFacts]:
    """Every core of this process, all of them as one set, and the GPUs."""
    return [*cpu_devices(allowed_cpus()), *_gpus()]


def cpu_devices(cpus: Sequence[int]) -> list[DeviceFacts]:
    """The cores `cpus` one by one and, where they are several in a row, as one set."""
    loads = core_loads()
    memory = _meminfo()
    total, free = memory.get("MemTotal"), memory.get("MemAvailable")
    capability = f"{cpu_name()}, {vector_set()}"
    sets = [CoreSet((cpu,)) for cpu in cpus]
    if len(cpus) > 1 and list(cpus) == list(range(cpus[0], cpus[-1] + 1)):
        sets.append(CoreSet(tuple(cpus)))
    found = []
    for cores in sets:
        known = [loads[cpu] for cpu in cores.cpus if cpu in loads]
        load = sum(known) / len(known) if known else None
        found.append(DeviceFacts(cores.name, capability, total, free, load))
    return found


def vector_set() -> str:
    """The widest vector instructions that the CPU has."""
    flags = cpu_flags()
    return next((name for flag, name in _VECTORS if flag in flags), "no vectors")


def core_loads(seconds: float = _LOAD_SECONDS) -> dict[int, float]:
    """The part of the next `seconds` that each core works, all processes together; empty where Linux does not tell."""
    before = _busy_and_idle()
    time.sleep(seconds if before else 0.0)
    loads = {}
    for cpu, (busy, idle) in _busy_and_idle().items():
        worked, rested = (now - then for now, then in zip((busy, idle), before.get(cpu, (busy, idle)), strict=True))
        loads[cpu] = worked / (worked + rested) if worked + rested > 0 else 0.0
    return loads


def _busy_and_idle() -> dict[int, tuple[int, int]]:
    """The time that each core worked and rested since the machine started, in the kernel's ticks."""
    try:
        lines = _STAT.read_text().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdecimal():
            ticks = [int(field) for field in fields[:8]]
            idle = ticks[3] + ticks[4]
            found[int(name[3:])] = sum(ticks) - idle, idle
    return found


def _meminfo() -> dict[str, int]:
    """What the kernel tells of the machine's memory, in bytes."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in fields if len(parts) == 3 and parts[2] == "kB"}


def memory_bytes() -> float:
    """The memory of this machine in bytes; infinite where the system does not tell."""
    return float(_meminfo().get("MemTotal", float("inf")))


def _gpus() -> list[DeviceFacts]:
    """The GPUs of each kind that TVM drives; one entry with the reason where there is none."""
    found = []
    for kind in KINDS.values():
        for number in range(_MOST_GPUS):
            try:
                device = find_device(kind, number)
            except Missing as missing:
                if number == 0:
                    found.append(DeviceFacts(kind.name, problem=missing.message))
                break
            found.append(DeviceFacts(f"{kind.name}:{number}", str(device)))
    return found


def machine_key() -> str:
    """What measurements of this machine's links are kept under."""
    words = f"{os.uname().nodename}-{cpu_name()}-{len(allowed_cpus())}"
    return "".join(c if c.isalnum() else "-" for c in words)
