"""CpuSpec of the local machine and of named presets.

A preset is a CPU core as LLVM names it plus the facts LLVM does not tell: caches and how many full-width FMAs start per
cycle. "native" reads caches and flags from the machine; an x86 flag that the CPU model has but the machine lacks
(switched off by a hypervisor) is switched off in the generated code too.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...compiler.errors import TargetError
from ...compiler.schedule.target_spec import CpuSpec

KIB, MIB = 1024, 1024 * 1024
TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}

# LLVM's feature name -> /proc/cpuinfo's flag, for the features that generated code may contain.
CPUINFO_FLAGS: dict[str, dict[str, str]] = {
    "x86_64": {
        "sse3": "pni",
        "ssse3": "ssse3",
        "sse4.1": "sse4_1",
        "sse4.2": "sse4_2",
        "popcnt": "popcnt",
        "movbe": "movbe",
        "avx": "avx",
        "f16c": "f16c",
        "fma": "fma",
        "avx2": "avx2",
        "bmi": "bmi1",
        "bmi2": "bmi2",
        "lzcnt": "abm",
        "adx": "adx",
        "gfni": "gfni",
        "vaes": "vaes",
        "vpclmulqdq": "vpclmulqdq",
        "avxvnni": "avx_vnni",
        "avx512f": "avx512f",
        "avx512vl": "avx512vl",
        "avx512bw": "avx512bw",
        "avx512dq": "avx512dq",
        "avx512cd": "avx512cd",
        "avx512ifma": "avx512ifma",
        "avx512vbmi": "avx512vbmi",
        "avx512vbmi2": "avx512_vbmi2",
        "avx512bitalg": "avx512_bitalg",
        "avx512vpopcntdq": "avx512_vpopcntdq",
        "avx512vp2intersect": "avx512_vp2intersect",
        "avx512vnni": "avx512_vnni",
        "avx512bf16": "avx512_bf16",
        "avx512fp16": "avx512_fp16",
    },
    "aarch64": {
        "neon": "asimd",
        "lse": "atomics",
        "dotprod": "asimddp",
        "fullfp16": "asimdhp",
        "rdm": "asimdrdm",
        "bf16": "bf16",
        "i8mm": "i8mm",
        "sve": "sve",
    },
}
# LLVM splits 512-bit vectors in two on Intel's cores unless told not to; our kernels are written for whole registers.
FULL_WIDTH = "-prefer-256-bit"


@dataclass(frozen=True)
class Core:
    """Facts of one CPU core. `fma_ports` counts FMAs of the full vector width that start per cycle; caches in bytes,
    L1 and L2 per core, L3 per chip or core complex."""

    mcpu: str
    fma_ports: int
    l1: int
    l2: int
    l3: int
    arch: str = "x86_64"


CORES: dict[str, Core] = {
    "avx2": Core("haswell", 2, 32 * KIB, 256 * KIB, 8 * MIB),
    "haswell": Core("haswell", 2, 32 * KIB, 256 * KIB, 8 * MIB),
    "znver3": Core("znver3", 2, 32 * KIB, 512 * KIB, 32 * MIB),
    # Zen 4 runs a 512-bit FMA as two halves.
    "znver4": Core("znver4", 1, 32 * KIB, 1 * MIB, 32 * MIB),
    "znver5": Core("znver5", 2, 48 * KIB, 1 * MIB, 32 * MIB),
    "skylake-avx512": Core("skylake-avx512", 2, 32 * KIB, 1 * MIB, 24 * MIB),
    "cascadelake": Core("cascadelake", 2, 32 * KIB, 1 * MIB, 32 * MIB),
    "icelake-server": Core("icelake-server", 2, 48 * KIB, 1280 * KIB, 32 * MIB),
    "sapphirerapids": Core("sapphirerapids", 2, 48 * KIB, 2 * MIB, 64 * MIB),
    "x86-64-v2": Core("x86-64-v2", 1, 32 * KIB, 256 * KIB, 8 * MIB),
    "x86-64-v3": Core("x86-64-v3", 2, 32 * KIB, 256 * KIB, 8 * MIB),
    "x86-64-v4": Core("x86-64-v4", 2, 32 * KIB, 1 * MIB, 24 * MIB),
    "aarch64": Core("generic", 2, 32 * KIB, 512 * KIB, 4 * MIB, "aarch64"),
    "neoverse-n1": Core("neoverse-n1", 2, 64 * KIB, 1 * MIB, 32 * MIB, "aarch64"),
    "neoverse-v1": Core("neoverse-v1", 4, 64 * KIB, 1 * MIB, 32 * MIB, "aarch64"),
    "apple-m1": Core("apple-m1", 4, 128 * KIB, 3 * MIB, 8 * MIB, "aarch64"),
}


def preset_names() -> tuple[str, ...]:
    """Names accepted by `cpu_spec`."""
    return ("native", *CORES)


def cpu_spec(preset: str | None = None) -> CpuSpec:
    """The CpuSpec of `preset`: "native" (also None), a key of CORES, either with a suffix such as ",cores=8".

    Without the suffix the number of cores is the number this process may run on. Raises TargetError for an unknown
    preset or option.
    """
    name, *options = (preset or "native").split(",")
    cores = _cores(options) or usable_cores()
    if name in ("native", ""):
        return _native(cores)
    if name not in CORES:
        raise TargetError(f"unknown CPU {name!r}: expected one of {', '.join(preset_names())}.")
    core = CORES[name]
    return _spec(core, cores, _required_flags(core.arch, _llvm_features(core)), ())


def usable_cores() -> int:
    """CPUs this process may be scheduled on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The CPU's flags in Linux' spelling; empty where there is no /proc/cpuinfo."""
    if not cpuinfo.exists():
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo.read_text(), re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def runs_here(spec: CpuSpec) -> bool:
    """Whether this machine has the architecture and, where the system tells, all features of `spec`."""
    flags = machine_flags()
    return spec.triple == TRIPLES.get(_machine()) and (not flags or set(spec.features) <= flags)


def _machine() -> str:
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())


def machine_caches(
    root: Path = Path("/sys/devices/system/cpu/cpu0/cache"),
) -> dict[int, int]:
    """Level -> bytes of the data (or unified) cache of core 0; empty where the system does not tell."""
    caches = {}
    for index in sorted(root.glob("index*")):
        try:
            kind, level, size = ((index / n).read_text().strip() for n in ("type", "level", "size"))
        except OSError:
            continue
        number = re.fullmatch(r"(\d+)([KM]?)", size)
        if kind != "Instruction" and number:
            caches[int(level)] = int(number.group(1)) * {"": 1, "K": KIB, "M": MIB}[number.group(2)]
    return caches


def _cores(options: Iterable[str]) -> int | None:
    cores = None
    for option in options:
        key, _, value = option.partition("=")
        if key.strip() != "cores" or not value.strip().isdigit() or int(value) < 1:
            raise TargetError(f"CPU option {option!r}: expected cores=N with N at least 1.")
        cores = int(value)
    return cores


def _native(cores: int) -> CpuSpec:
    from tvm.target.codegen import llvm_get_system_cpu

    arch = _machine()
    if arch not in TRIPLES:
        raise TargetError(f"no support for this machine's CPU: expected {' or '.join(TRIPLES)}, found {arch}.")
    mcpu = llvm_get_system_cpu()
    known = next((c for c in CORES.values() if c.mcpu == mcpu and c.arch == arch), None)
    generic = CORES["x86-64-v3" if arch == "x86_64" else "aarch64"]
    caches = machine_caches()
    base = known or generic
    core = Core(
        mcpu,
        base.fma_ports,
        caches.get(1, base.l1),
        max(caches.get(2, base.l2), caches.get(1, base.l1)),
        caches.get(3, base.l3),
        arch,
    )
    features = _llvm_features(core)
    flags = machine_flags()
    wanted = _required_flags(arch, features)
    missing = [f for f, flag in CPUINFO_FLAGS[arch].items() if flag in wanted and flags and flag not in flags]
    present = tuple(f for f in wanted if not flags or f in flags)
    return _spec(core, cores, present, tuple(f"-{f}" for f in missing))


def _llvm_features(core: Core) -> frozenset[str]:
    from tvm.target import Target
    from tvm.target.codegen import llvm_get_cpu_features

    target = Target({"kind": "llvm", "mtriple": TRIPLES[core.arch], "mcpu": core.mcpu})
    return frozenset(str(f) for f in llvm_get_cpu_features(target))


def _required_flags(arch: str, features: frozenset[str]) -> tuple[str, ...]:
    return tuple(flag for feature, flag in CPUINFO_FLAGS[arch].items() if feature in features)


def _spec(core: Core, cores: int, flags: Sequence[str], mattr: tuple[str, ...]) -> CpuSpec:
    wide = {"avx512f", "avx512vl", "avx512bw", "avx512dq"} <= set(flags)
    isa, vector_bytes, registers = next(
        row
        for needed, row in (
            (wide, ("avx512", 64, 32)),
            ("avx2" in flags, ("avx2", 32, 16)),
            ("sve" in flags or "asimd" in flags, ("neon", 16, 32)),
            (True, ("sse", 16, 16)),
        )
        if needed
    )
    return CpuSpec(
        kind="cpu",
        key=f"cpu-{core.arch if core.mcpu == 'generic' else core.mcpu}-{isa}-{cores}c",
        cores=cores,
        triple=TRIPLES[core.arch],
        mcpu=core.mcpu,
        mattr=(*mattr, FULL_WIDTH) if wide else mattr,
        vector_bytes=vector_bytes,
        vector_registers=registers,
        fma_ports=core.fma_ports,
        l1_bytes=core.l1,
        l2_bytes=core.l2,
        l3_bytes=core.l3,
        features=tuple(flags),
    )
