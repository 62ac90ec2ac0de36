"""The roofline of a GPU: its maker's rates, and where it is in this machine, rates measured.

Arithmetic by type and matrix unit is what the maker says of it, unless a product of matrices of our own is faster, as
is where no more than the driver's word is known of the GPU. Bandwidth counts what is read and what is written.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from ...device_code import runs_on
from ...errors import KompiloError
from ...runtime.cuda_driver import Context, CudaError
from ...runtime.hip_driver import driver_class
from ...schedule.op_spec import OpSpec, Step, TensorType
from ...schedule.roofline import Level, Roofline
from ...schedule.target import Target, find_target
from .candidate import build_device_kernel, default_point
from .runner import DeviceRun, RunFailure

_SAMPLES = 7


def published(target: Target) -> Roofline:
    """What the GPU's maker says: the peak of each type, and the bandwidth of its memory."""
    spec: Any = target.spec
    memory = (Level("memory", None, spec.bandwidth),)
    return Roofline(spec.peak_flops("float32"), memory, spec.peak, measured=False)


def is_here(target: Target) -> bool:
    """Whether the first GPU of this machine is the one that `target` is for."""
    spec: Any = target.spec
    try:
        version = driver_class(spec.kind)().capability(0)
        return runs_on(spec.arch, version) and find_target(spec.kind).spec.key == spec.key
    except (OSError, CudaError, KompiloError):
        return False


def measured(target: Target) -> Roofline:
    """The same with rates measured on this machine's GPU, in this process: see `roofline_probe`.

    Raises OSError or CudaError: the GPU or its driver does not work.
    """
    spec: Any = target.spec
    driver = driver_class(spec.kind)()
    context = driver.context(0)
    try:
        levels = [Level("memory", None, copy_rate(context, target.probe_bytes))]
        cache = driver.l2_bytes(0)
        if 0 < cache < target.probe_bytes:
            levels.insert(0, Level("L2", cache, copy_rate(context, cache // 4)))
        rates = dict(spec.peak)
        for dtype in ("float16", "float32"):
            if dtype in rates:
                rates[dtype] = max(rates[dtype], _product_rate(context, target, dtype))
        return Roofline(rates["float32"], tuple(levels), tuple(rates.items()))
    finally:
        with suppress(CudaError):
            context.close()


def copy_rate(context: Context, size: int) -> float:
    """Bytes a second, read and written together, of copies of `size` bytes within the GPU: the best of several."""
    spaces = [context.allocate(size) for _ in range(2)]
    start, end = context.event(), context.event()
    best = float("inf")
    for _ in range(_SAMPLES):
        context.mark(start)
        context.copy(spaces[1], spaces[0], size)
        context.mark(end)
        context.synchronize()
        best = min(best, max(context.seconds(start, end), 1e-7))
    for space in spaces:
        context.free(space)
    return 2 * size / best


def _product_rate(context: Context, target: Target, dtype: str) -> float:
    """Operations a second of a product of two square matrices with the template's own config; 0 if it fails."""
    side = target.probe_side
    square = TensorType((side, side), dtype)
    perms = (("lhs_perm", (0, 1)), ("out_perm", (0, 1)), ("rhs_perm", (0, 1)))
    sums = TensorType((side, side), "float32")
    cast = () if dtype == "float32" else (Step("astype", ("anchor",), dtype),)
    op = OpSpec("matmul", (square, square), (False, False), perms, sums, square, cast)
    values = np.random.default_rng(0).standard_normal((side, side), np.float32).astype(dtype)
    try:
        program = build_device_kernel(op, default_point(op, target), target).program
        with DeviceRun(context, program, [values, values], ((side, side), dtype), [], 0) as run:
            return 2 * float(side) ** 3 / min(run.sample(1) for _ in range(_SAMPLES))
    except (CudaError, KompiloError, RunFailure, RuntimeError):  # TVM's errors are of the last kind
        return 0.0
