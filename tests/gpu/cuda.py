"""Runs scheduled TIR for CUDA on the CPU: TVM's CUDA C++ through cuda_shim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import tirx

from .cuda_shim import Array, Launch, Options, TensorMap, run_cuda_source
from .device_code import DeviceLaunch, HostWalk, MapSlot, Pointer, lower

_SWIZZLES = (None, "32B", "64B", "128B")


def run_cuda(
    mod: tvm.IRModule | tirx.PrimFunc,
    args: Sequence[np.ndarray],
    arch: str = "sm_80",
    function: str | None = None,
    options: Options | None = None,
    pipeline: str | None = None,
) -> list[np.ndarray]:
    """Runs `function` of `mod` (its only one by default) over `args`; returns the arrays as they are afterwards.

    The code is what TVM generates for `arch`, by the lowering named `pipeline`. Errors: those of run_cuda_source.
    """
    options = options or Options()
    limits = {"max_threads_per_block": 1024, "max_shared_memory_per_block": options.shared_limit}
    target = tvm.target.Target({"kind": "cuda", "arch": arch, "thread_warp_size": 32, **limits}, host="llvm")
    program = lower(mod, target, function, pipeline)
    walk = HostWalk(program.host, args)
    launches = [_launch(launch) for launch in walk.launches]
    return run_cuda_source(program.source, launches, [*args, *walk.scratch], options)


def _launch(launch: DeviceLaunch) -> Launch:
    arguments = [_argument(a) for a in launch.arguments]
    return Launch(launch.kernel, launch.grid, launch.block, arguments, launch.dynamic_shared, launch.cluster)


def _argument(value: Any) -> Array | TensorMap | int | float:
    if isinstance(value, Pointer):
        return Array(value.index, value.offset)
    return _tensor_map(value) if isinstance(value, MapSlot) else value


def _tensor_map(slot: MapSlot) -> TensorMap:
    """From cuTensorMapEncodeTiled: dtype, rank, address, sizes, strides, box, steps, interleave, swizzle, L2, fill."""
    dtype, rank, pointer, *numbers = slot.encoded
    ends = (rank, 2 * rank - 1, 3 * rank - 1, 4 * rank - 1)
    sizes, strides, box, steps = (tuple(numbers[a:b]) for a, b in zip((0, *ends), ends, strict=False))
    interleave, swizzle, _, fill = numbers[ends[-1] :]
    if interleave:
        raise ValueError("interleaved tensor maps are not known here")
    return TensorMap(
        pointer.index, str(dtype), sizes, strides, box, _SWIZZLES[swizzle], steps, pointer.offset, bool(fill)
    )
