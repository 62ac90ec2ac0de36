"""Other libraries that compute the same, as far as they are installed: torch, or cuBLAS by its own interface."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

# Makes, for an operator with its operands, a function that returns the seconds of one execution.
Rival = Callable[[Any, Sequence[np.ndarray]], Callable[[], float]]
# Which kinds of operators each knows.
KINDS = {"torch": ("matmul", "attention"), "cuBLAS": ("matmul",)}
_CUBLAS = ("libcublas.so.13", "libcublas.so.12", "libcublas.so")
_WHEELS = ("nvidia/cu13/lib", "nvidia/cublas/lib")
# cublas_api.h and library_types.h.
_NO_TRANSPOSE, _HALF, _COMPUTE_FLOAT32, _DEFAULT_ALGORITHM = 0, 2, 68, -1


def find(context: Any, kind: str, device: int, sample_s: float) -> dict[str, Rival]:
    """The rivals by name on GPU number `device`; cuBLAS itself only where torch, which calls it, is missing.

    `context` is Kompilo's on the same GPU, `kind` its target's ("cuda", "rocm"): cuBLAS is for the first. Their
    functions execute as often as takes `sample_s` and return the mean.
    """
    torch = torch_on(device)
    if torch is not None:
        return {"torch": lambda op, arrays: _torch(torch, op, arrays, sample_s)}
    library = _cublas() if kind == "cuda" else None
    return {} if library is None else {"cuBLAS": lambda op, arrays: _gemm(library, context, op, arrays, sample_s)}


def torch_on(device: int) -> Any:
    """torch, with GPU number `device` as the one that "cuda" means in this process; None without a torch for GPUs."""
    with suppress(ImportError):
        torch = importlib.import_module("torch")
        if torch.cuda.is_available():
            torch.cuda.set_device(device)
            return torch
    return None


def versions() -> str:
    """Names and versions of what times are compared with; empty if there is nothing."""
    with suppress(ImportError):
        torch = importlib.import_module("torch")
        return f"torch {torch.__version__}"
    library = _cublas()
    if library is None:
        return ""
    number = ctypes.c_int()
    library.cublasGetProperty(0, ctypes.byref(number))
    return f"cuBLAS {number.value}"


def _torch(torch: Any, op: Any, arrays: Sequence[np.ndarray], sample_s: float) -> Callable[[], float]:
    tensors = [torch.from_numpy(a).cuda() for a in arrays]
    if op.kind == "matmul":
        left, right = (t.permute(*op.ints(p)) for t, p in zip(tensors, ("lhs_perm", "rhs_perm"), strict=True))
        return seconds_in_torch(torch, lambda: torch.matmul(left, right), sample_s)
    attention = torch.nn.functional.scaled_dot_product_attention
    # Keys may be named in the order in which they are multiplied, the last two axes exchanged.
    q, k, v = (t.permute(*op.ints(p)) for t, p in zip(tensors, ("q_perm", "k_perm", "v_perm"), strict=True))
    return seconds_in_torch(torch, lambda: attention(q, k, v, is_causal=bool(op.attr("causal"))), sample_s)


def seconds_in_torch(torch: Any, work: Callable[[], Any], sample_s: float) -> Callable[[], float]:
    """A function that does `work` several times and returns the seconds of one, by CUDA's events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def once(repeat: int) -> float:
        start.record()
        for _ in range(repeat):
            work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3 / repeat

    with torch.no_grad():
        for _ in range(3):
            work()
        torch.cuda.synchronize()
        repeat = max(1, min(200, int(sample_s / max(once(2), 1e-7))))

    def sample() -> float:
        with torch.no_grad():
            return once(repeat)

    return sample


def _cublas() -> Any:
    folders = [Path(np.__file__).resolve().parents[1] / folder for folder in _WHEELS]
    for name in _CUBLAS:
        for path in (name, *(str(folder / name) for folder in folders)):
            with suppress(OSError):
                return ctypes.CDLL(path)
    return None


def _gemm(library: Any, context: Any, op: Any, arrays: Sequence[np.ndarray], sample_s: float) -> Callable[[], float]:
    """float16 by cublasGemmEx with sums in float32; it counts columns first, so the operands change places."""
    from timed import clocked

    (m, k), n = arrays[0].shape, arrays[1].shape[1]
    addresses = [context.allocate(a.nbytes) for a in arrays] + [context.allocate(2 * m * n)]
    for address, array in zip(addresses, arrays, strict=False):
        context.upload(address, np.ascontiguousarray(array))
    handle = ctypes.c_void_p()
    _call(library.cublasCreate_v2, ctypes.byref(handle))
    _call(library.cublasSetStream_v2, handle, context.stream)
    one, zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
    left, right, result = (ctypes.c_void_p(a) for a in addresses)

    def work() -> None:
        _call(
            library.cublasGemmEx, handle, _NO_TRANSPOSE, _NO_TRANSPOSE, n, m, k, ctypes.byref(one), right, _HALF, n,
            left, _HALF, k, ctypes.byref(zero), result, _HALF, n, _COMPUTE_FLOAT32, _DEFAULT_ALGORITHM,
        )  # fmt: skip

    return clocked(context, work, sample_s)


def _call(function: Any, *arguments: Any) -> None:
    status = function(*arguments)
    if status:
        raise RuntimeError(f"{function.__name__} gives error {status}")
