"""NVIDIA GPUs as targets: TVM's CUDA source, compiled to a cubin by NVIDIA's own compiler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..gpu.target import GpuTarget
from . import presets, toolchain

if TYPE_CHECKING:
    import tvm


class CudaTarget(GpuTarget):
    """One kind of NVIDIA GPU."""

    kind = "cuda"
    captures_graphs = True

    @classmethod
    def from_preset(cls, preset: str | None) -> CudaTarget:
        """`preset`: None for the local GPU, or a name of `presets()` such as "sm_80" or "a100"."""
        return cls(presets.cuda_spec(preset))

    @classmethod
    def presets(cls) -> Sequence[str]:
        """Names accepted after "cuda:"."""
        return presets.preset_names()

    def device_target(self) -> dict[str, Any]:
        """TVM's CUDA target."""
        spec = self.spec
        return {
            "kind": "cuda",
            "arch": spec.arch,
            "max_num_threads": spec.threads_per_block,
            "max_threads_per_block": spec.threads_per_block,
            "max_shared_memory_per_block": spec.shared_bytes,
            "thread_warp_size": spec.warp,
        }

    def device_code(self, mod: tvm.ir.IRModule) -> tuple[str, bytes]:
        """A cubin with the kernels of `mod`."""
        return "cubin", toolchain.compile_cubin(self.source(mod), self.spec.code_arch)

    def source(self, mod: tvm.ir.IRModule) -> str:
        """CUDA C++ of the lowered kernels of `mod`."""
        from ..gpu.lowering import nan_keeping_extremes
        from .source import generate

        return generate(nan_keeping_extremes(mod), self.tvm_target())
