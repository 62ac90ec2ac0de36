"""AMD GPUs by name, with what AMD has published of them.

Sizes per compute unit: the ISA guides of CDNA2, CDNA3 and RDNA3, and LLVM's AMDGPU backend (registers are those of all
SIMDs of a compute unit; on CDNA they hold accumulators too). Sizes, clocks and rates of GPUs (dense, peak clock):
- mi210, mi250x: CDNA2 whitepaper (2021) and datasheets. An MI250X is two devices; these are the facts of one.
- mi300x: CDNA3 whitepaper (2023) and datasheet.
- rx7900: RDNA3 instruction set guide and the product page of RX 7900 XTX; rates are those of dual issue (float32) and
  of WMMA.
The rate of float32 is that of the matrix units where they do float32. CDNA3's multiply tfloat32 too (XF32), which no
template asks for, and which is therefore not among their types here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...compiler.errors import TargetError
from ..gpu.spec import GpuSpec, named_spec

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


def _tera(**rates: float) -> tuple[tuple[str, float], ...]:
    return tuple((dtype, rate * 1e12) for dtype, rate in rates.items())


_MI210 = GpuSpec(
    kind="rocm",
    key="rocm-mi210",
    cores=104,
    arch="gfx90a",
    warp=64,
    registers=4 * 512 * 64,
    registers_per_thread=512,
    register_unit=8,
    shared_bytes=64 * _KIB,
    shared_bytes_per_sm=64 * _KIB,
    threads_per_block=1024,
    threads_per_sm=4 * 8 * 64,
    blocks_per_sm=4 * 8,
    clock_hz=1.7e9,
    bandwidth=1638.4e9,
    memory_bytes=64 * _GIB,
    l2_bytes=8 * _MIB,
    peak=_tera(float32=45.3, float64=45.3, float16=181, bfloat16=181, int8=181),
    matrix="mfma",
    matrix_dtypes=("float32", "float16", "bfloat16", "int8"),
    writes_out_loops=True,
)

_GPUS = {
    "mi210": _MI210,
    "mi250x": replace(
        _MI210,
        key="rocm-mi250x",
        cores=110,
        peak=_tera(float32=47.9, float64=47.9, float16=191.5, bfloat16=191.5, int8=191.5),
    ),
    "mi300x": replace(
        _MI210,
        key="rocm-mi300x",
        cores=304,
        arch="gfx942",
        clock_hz=2.1e9,
        bandwidth=5300e9,
        memory_bytes=192 * _GIB,
        l2_bytes=256 * _MIB,  # Infinity Cache, the last level before memory; each of eight dies has 4 MiB of L2
        peak=_tera(float32=163.4, float64=163.4, float16=1307.4, bfloat16=1307.4, int8=2614.9),
        matrix="mfma_cdna3",
    ),
    "rx7900": GpuSpec(
        kind="rocm",
        key="rocm-rx7900",
        cores=96,
        arch="gfx1100",
        warp=32,
        registers=2 * 1536 * 32,
        registers_per_thread=256,
        register_unit=24,
        shared_bytes=64 * _KIB,
        shared_bytes_per_sm=64 * _KIB,
        threads_per_block=1024,
        threads_per_sm=2 * 16 * 32,
        blocks_per_sm=2 * 16,
        clock_hz=2.5e9,
        bandwidth=960e9,
        memory_bytes=24 * _GIB,
        l2_bytes=96 * _MIB,  # Infinity Cache; L2 is 6 MiB
        peak=_tera(float32=61.4, float16=122.8, bfloat16=122.8, int8=122.8),
        matrix="rdna_wmma",
        matrix_dtypes=("float16", "bfloat16", "int8"),
        writes_out_loops=True,
    ),
}

# An architecture stands for one of its GPUs: code for it runs on all of them.
_STANDS_FOR = {"gfx90a": "mi210", "gfx942": "mi300x", "gfx1100": "rx7900"}

# One folder for each processor that the kernel driver knows; GPUs have a version there: 90402 is gfx942.
_TOPOLOGY = Path("/sys/class/kfd/kfd/topology/nodes")


def preset_names() -> Sequence[str]:
    """Names accepted by `rocm_spec`: architectures, then GPUs."""
    return (*_STANDS_FOR, *_GPUS)


def rocm_spec(preset: str | None) -> GpuSpec:
    """Facts of the GPU called `preset` ("mi300x"), of one of an architecture ("gfx942"), or of the local one (None).

    Raises TargetError where the name is unknown, or no GPU is there.
    """
    if preset is None:
        return local_spec()
    return named_spec("rocm", preset, _GPUS, _STANDS_FOR)


def local_spec(topology: Path = _TOPOLOGY) -> GpuSpec:
    """The facts of this machine's first GPU: the preset of its architecture that is most like it in size.

    Raises TargetError, naming the presets, where there is none, or one of an unknown architecture.
    """
    for node in sorted(topology.glob("*/properties"), key=lambda path: (len(path.parent.name), path.parent.name)):
        facts = _properties(node)
        version = facts.get("gfx_target_version", 0)
        if version:
            return _like(_arch(version), facts.get("simd_count", 0) // max(1, facts.get("simd_per_cu", 1)))
    raise TargetError("rocm: no AMD GPU is known to the kernel driver (amdgpu) of this machine.", _hint())


def _like(arch: str, units: int) -> GpuSpec:
    same = [spec for spec in _GPUS.values() if spec.arch == arch]
    if not same:
        known = ", ".join(_STANDS_FOR)
        raise TargetError(f"rocm: this machine's GPU is {arch}: expected one of {known}.", _hint())
    nearest = min(same, key=lambda spec: abs(spec.cores - units))
    if units in (0, nearest.cores):
        return nearest
    return replace(nearest, key=f"rocm-{arch}-{units}cu", cores=units)


def _properties(path: Path) -> dict[str, int]:
    """Lines of a name and a number; a file that cannot be read tells nothing."""
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def _arch(version: int) -> str:
    """gfx942 of 90402: two digits each for minor version and stepping, which are hexadecimal in the name."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def _hint() -> str:
    names = ", ".join(f"rocm:{name}" for name in preset_names())
    return f"to compile for another machine's GPU name it: one of {names}."
