"""CUDA C++ from TVM's code generator, and nothing beyond it.

Where NVIDIA's driver is installed, TVM's generator hands its source to a compiler of its own choice at once, which then
has to be there: the callback `tvm_callback_cuda_compile`. Without a driver it stops at the source. Here it always does.
"""

from __future__ import annotations

import functools
import re
import threading
from typing import Any

import tvm
import tvm_ffi

_CALLBACK = "tvm_callback_cuda_compile"
# Threads of a block, which are said together with how many blocks an SM must hold: one. Unless told, NVIDIA's assembler
# spills a few registers where one more block runs for that.
_BOUNDS = re.compile(r"\b__launch_bounds__\((\d+)\)")
_TENSOR_MAP = "CUtensorMap"
_generating = threading.local()


def generate(mod: tvm.ir.IRModule, target: tvm.target.Target) -> str:
    """The source of the lowered kernels of `mod`. Works in several threads at once."""
    _stop_at_the_source()
    _generating.here = True
    try:
        generated = tvm.get_global_func("target.build.cuda")(mod, target)
    finally:
        _generating.here = False
    source = _BOUNDS.sub(r"__launch_bounds__(\1, 1)", str(generated.inspect_source("cuda")))
    # TVM includes it for nvcc only.
    return f"#include <cuda.h>\n{source}" if _TENSOR_MAP in source else source


@functools.cache
def _stop_at_the_source() -> None:
    """Put a callback in the place of TVM's that does nothing for `generate`, and for all others what TVM's does."""
    known = tvm.get_global_func(_CALLBACK, allow_missing=True)

    def compile_unless_generating(code: str, *rest: Any) -> bytes:
        if getattr(_generating, "here", False):
            return b"\0"
        if known is None:
            raise RuntimeError(f"{_CALLBACK} is not registered.")
        return known(code, *rest)

    tvm_ffi.register_global_func(_CALLBACK, compile_unless_generating, override=True)
