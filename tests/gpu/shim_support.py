"""Short kernels for tests of the CUDA shim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu.cuda_shim import Launch, Options, missing, run_cuda_source

needs_shim = pytest.mark.skipif(missing() is not None, reason=f"the CUDA shim cannot build kernels: {missing()}")

_TYPES = {
    "float16": "half",
    "float32": "float",
    "float64": "double",
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned",
    "int64": "long long",
    "uint64": "unsigned long long",
}


def kernel(body: str, arrays: dict[str, np.ndarray]) -> str:
    """A source with one kernel `test` whose parameters are the arrays' names."""
    parameters = ", ".join(f"{_TYPES[str(a.dtype)]}* {name}" for name, a in arrays.items())
    return f'#include <cuda_fp16.h>\nextern "C" __global__ void test({parameters}) {{\n{body}\n}}\n'


def run(body: str, arrays: dict[str, np.ndarray], threads: Any = 32, **more: Any) -> dict[str, np.ndarray]:
    """Runs `body` over the arrays, by name, and returns them as they are then; `more`: of Launch and Options."""
    launch = {key: more.pop(key) for key in ("dynamic_shared", "cluster") if key in more}
    grid = more.pop("grid", 1)
    source = more.pop("head", "") + kernel(body, arrays)
    names = list(arrays)
    results = run_cuda_source(
        source, [Launch("test", grid, threads, **launch)], list(arrays.values()), Options(**more), names
    )
    return dict(zip(names, results, strict=True))


def zeros(shape: Any, dtype: str = "float32") -> np.ndarray:
    """Where a kernel writes."""
    return np.zeros(shape, dtype)
