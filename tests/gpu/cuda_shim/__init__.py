"""Generated CUDA C++ on the CPU: see docs/gpu-checks.md."""

from .build import BuildError, missing
from .run import Array, KernelError, Launch, Options, run_cuda_source
from .tensor_map import TensorMap
from .translate import TranslationError

__all__ = [
    "Array",
    "BuildError",
    "KernelError",
    "Launch",
    "Options",
    "TensorMap",
    "TranslationError",
    "missing",
    "run_cuda_source",
]
