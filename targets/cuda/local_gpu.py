"""The GPU of this machine, asked of NVIDIA's driver itself."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace

from ...compiler.device_code import gpu_words
from ...compiler.errors import TargetError
from ..gpu.spec import GpuSpec
from .presets import cuda_spec, preset_names, spec_of

_DRIVER = "libcuda.so.1"
_NO_DEVICE = 100

# CUdevice_attribute of cuda.h.
_CLOCK_KHZ = 13
_SMS = 16
_MEMORY_CLOCK_KHZ = 36
_BUS_BITS = 37
_L2_BYTES = 38
_MAJOR, _MINOR = 75, 76


def local_spec(load: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> GpuSpec:
    """The facts of the first GPU: those of its preset where its name has one, else what the driver tells.

    Raises TargetError, naming the presets, where there is no driver, no GPU, or one of an unknown architecture.
    """
    try:
        driver = load(_DRIVER)
    except OSError:
        raise _absent(f"NVIDIA's driver ({_DRIVER}) is not installed") from None
    status = driver.cuInit(0)
    if status:
        reason = "NVIDIA's driver finds no GPU" if status == _NO_DEVICE else f"NVIDIA's driver gives error {status}"
        raise _absent(reason)
    device = ctypes.c_int()
    if driver.cuDeviceGet(ctypes.byref(device), 0):
        raise _absent("NVIDIA's driver finds no GPU")
    return _spec(driver, device)


def _spec(driver: ctypes.CDLL, device: ctypes.c_int) -> GpuSpec:
    def attribute(number: int) -> int:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
        return value.value

    text = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(text, len(text), device)
    memory = ctypes.c_size_t()
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    arch = f"sm_{attribute(_MAJOR)}{attribute(_MINOR)}"
    name, sms = text.value.decode("utf-8", "replace"), attribute(_SMS)
    for preset in preset_names():
        known = cuda_spec(preset)
        if preset in gpu_words(name) and (known.arch, known.sms) == (arch, sms):
            return replace(known, memory_bytes=memory.value)
    return spec_of(
        "-".join(gpu_words(name)),
        arch,
        sms,
        attribute(_CLOCK_KHZ) * 1e3,
        # Two transfers per clock.
        2 * attribute(_MEMORY_CLOCK_KHZ) * 1e3 * attribute(_BUS_BITS) / 8,
        memory.value,
        attribute(_L2_BYTES),
    )


def _absent(reason: str) -> TargetError:
    names = ", ".join(f"cuda:{name}" for name in preset_names())
    return TargetError(f"cuda: {reason}.", f"to compile for another machine's GPU name it: one of {names}.")
