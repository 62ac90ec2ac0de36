"""NVIDIA GPUs by name, with what NVIDIA has published of them.

Sizes per SM: table "Technical Specifications per Compute Capability" of the CUDA C++ Programming Guide 13.0. Sizes,
clocks and rates of GPUs (dense, accumulating in float32, at the boost clock):
- t4: Turing whitepaper WP-09183 and the T4 datasheet (2019).
- a100: A100 Tensor Core GPU Architecture whitepaper V1.0, and the A100 80 GB SXM datasheet (memory).
- a10, rtx3090: A10 datasheet (2021); GA102 whitepaper V2.1, whose consumer GPUs accumulate in float32 at half rate.
- l4, rtx4090: L4 datasheet (2023); Ada GPU Architecture whitepaper V2.02, likewise.
- h100 (SXM5), h200: H100 Tensor Core GPU Architecture whitepaper V1.04, H200 datasheet; the second-level cache of h200
  is what its driver reports. Matrix rates are given at 1.83 GHz, the rate of float32 at 1.98 GHz.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ...compiler.errors import TargetError
from ..gpu.spec import GpuSpec, named_spec

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True)
class Architecture:
    """What all GPUs of one architecture share.

    `flops` are operations per SM and clock by dtype, for GPUs that accumulate in float32 at full rate; `matrix_dtypes`
    are those of matrix units.
    """

    name: str
    shared_bytes: int
    shared_bytes_per_sm: int
    threads_per_sm: int
    blocks_per_sm: int
    matrix: str
    matrix_dtypes: tuple[str, ...]
    flops: Mapping[str, int]
    async_copy: bool = True
    tma: bool = False


_FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
_AMPERE = ("float16", "bfloat16", "tfloat32", "int8")


def _rates(float32: int, float64: int, float16: int, **others: int) -> Mapping[str, int]:
    return MappingProxyType({"float32": float32, "float64": float64, "float16": float16, **others})


_LATER = {"bfloat16": 1, "tfloat32": 0.5, "int8": 2}  # times the rate of float16


def _ampere_rates(float32: int, float64: int, float16: int, float8: bool = False) -> Mapping[str, int]:
    others = {dtype: int(times * float16) for dtype, times in _LATER.items()}
    others |= dict.fromkeys(_FLOAT8, 2 * float16) if float8 else {}
    return _rates(float32, float64, float16, **others)


ARCHITECTURES = {
    a.name: a
    for a in (
        Architecture("sm_75", 64 * _KIB, 64 * _KIB, 1024, 16, "wmma", ("float16", "int8"),
                     _rates(128, 4, 1024, int8=2048), async_copy=False),
        Architecture("sm_80", 163 * _KIB, 164 * _KIB, 2048, 32, "mma", _AMPERE, _ampere_rates(128, 64, 2048)),
        Architecture("sm_86", 99 * _KIB, 100 * _KIB, 1536, 16, "mma", _AMPERE, _ampere_rates(256, 4, 1024)),
        Architecture("sm_89", 99 * _KIB, 100 * _KIB, 1536, 24, "mma", (*_AMPERE, *_FLOAT8),
                     _ampere_rates(256, 4, 1024, float8=True)),
        Architecture("sm_90", 227 * _KIB, 228 * _KIB, 2048, 32, "wgmma", (*_AMPERE, *_FLOAT8),
                     _ampere_rates(256, 128, 4096, float8=True), tma=True),
    )
}  # fmt: skip


def spec_of(
    name: str,
    arch: str,
    sms: int,
    clock_hz: float,
    bandwidth: float,
    memory_bytes: int,
    l2_bytes: int,
    peak: Mapping[str, float] | None = None,
) -> GpuSpec:
    """The facts of one GPU; `peak` (FLOP/s) overrules what architecture, SMs and clock say.

    Raises TargetError for an architecture that is not in ARCHITECTURES.
    """
    if arch not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise TargetError(f"cuda: architecture {arch!r} of {name} is not supported: expected one of {known}.")
    family = ARCHITECTURES[arch]
    rates = {dtype: flops * sms * clock_hz for dtype, flops in family.flops.items()} | dict(peak or {})
    return GpuSpec(
        kind="cuda",
        key=f"cuda-{name}",
        cores=sms,
        arch=arch,
        warp=32,
        registers=65536,
        registers_per_thread=255,
        register_unit=8,
        shared_bytes=family.shared_bytes,
        shared_bytes_per_sm=family.shared_bytes_per_sm,
        threads_per_block=1024,
        threads_per_sm=family.threads_per_sm,
        blocks_per_sm=family.blocks_per_sm,
        clock_hz=clock_hz,
        bandwidth=bandwidth,
        memory_bytes=memory_bytes,
        l2_bytes=l2_bytes,
        peak=tuple(rates.items()),
        matrix=family.matrix,
        matrix_dtypes=family.matrix_dtypes,
        async_copy=family.async_copy,
        tma=family.tma,
    )


def _tera(**rates: float) -> dict[str, float]:
    return {dtype: rate * 1e12 for dtype, rate in rates.items()}


_HOPPER = _tera(float32=66.9, float64=33.5, float16=989.4, bfloat16=989.4, tfloat32=494.7, int8=1978.9) | dict.fromkeys(
    _FLOAT8, 1978.9e12
)

_GPUS = {
    "t4": spec_of("t4", "sm_75", 40, 1.590e9, 320e9, 16 * _GIB, 4 * _MIB, _tera(float32=8.1, float16=65, int8=130)),
    "a100": spec_of(
        "a100", "sm_80", 108, 1.410e9, 2039e9, 80 * _GIB, 40 * _MIB,
        _tera(float32=19.5, float64=9.7, float16=312, bfloat16=312, tfloat32=156, int8=624),
    ),
    "a10": spec_of(
        "a10", "sm_86", 72, 1.695e9, 600e9, 24 * _GIB, 6 * _MIB,
        _tera(float32=31.2, float16=125, bfloat16=125, tfloat32=62.5, int8=250),
    ),
    "rtx3090": spec_of(
        "rtx3090", "sm_86", 82, 1.695e9, 936e9, 24 * _GIB, 6 * _MIB,
        _tera(float32=35.6, float16=71, bfloat16=71, tfloat32=35.6, int8=284),
    ),
    "l4": spec_of(
        "l4", "sm_89", 58, 2.040e9, 300e9, 24 * _GIB, 48 * _MIB,
        _tera(float32=30.3, float16=121, bfloat16=121, tfloat32=60.5, int8=242.5)
        | dict.fromkeys(_FLOAT8, 242.5e12),
    ),
    "rtx4090": spec_of(
        "rtx4090", "sm_89", 128, 2.520e9, 1008e9, 24 * _GIB, 72 * _MIB,
        _tera(float32=82.6, float16=165.2, bfloat16=165.2, tfloat32=82.6, int8=660.6)
        | dict.fromkeys(_FLOAT8, 330.3e12),
    ),
    "h100": spec_of("h100", "sm_90", 132, 1.980e9, 3350e9, 80 * _GIB, 50 * _MIB, _HOPPER),
    "h200": spec_of("h200", "sm_90", 132, 1.980e9, 4800e9, 141 * 10**9, 60 * _MIB, _HOPPER),
}  # fmt: skip

# An architecture stands for one of its GPUs: code for it runs on all of them.
_STANDS_FOR = {"sm_75": "t4", "sm_80": "a100", "sm_86": "a10", "sm_89": "l4", "sm_90": "h100"}


def preset_names() -> Sequence[str]:
    """Names accepted by `cuda_spec`: architectures, then GPUs."""
    return (*_STANDS_FOR, *_GPUS)


def cuda_spec(preset: str | None) -> GpuSpec:
    """The facts of the GPU called `preset` ("a100"), of one of an architecture ("sm_80"), or of the local one (None).

    Raises TargetError where the name is unknown, or no GPU is there.
    """
    if preset is None:
        from .local_gpu import local_spec

        return local_spec()
    return named_spec("cuda", preset, _GPUS, _STANDS_FOR)
