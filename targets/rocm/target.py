"""AMD GPUs as targets: TVM's LLVM for amdgcn, linked into a code object by lld."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...compiler.device_code import DeviceCode
from ..gpu.target import GpuTarget, gpu_module
from . import presets

if TYPE_CHECKING:
    import tvm


class RocmTarget(GpuTarget):
    """One kind of AMD GPU."""

    kind = "rocm"

    @classmethod
    def from_preset(cls, preset: str | None) -> RocmTarget:
        """`preset`: None for the local GPU, or a name of `presets()` such as "gfx942" or "mi300x"."""
        return cls(presets.rocm_spec(preset))

    @classmethod
    def presets(cls) -> Sequence[str]:
        """Names accepted after "rocm:"."""
        return presets.preset_names()

    def device_target(self) -> dict[str, Any]:
        """TVM's ROCm target."""
        from .codegen import device_target

        spec = self.spec
        return device_target(spec.arch, spec.warp, spec.threads_per_block, spec.shared_bytes)

    def compile_kernels(self, mod: tvm.ir.IRModule) -> tuple[tvm.runtime.Module, tuple[DeviceCode, ...]]:
        """As for every GPU; functions of libm become expressions before anything is lowered."""
        from .intrinsics import lower_math

        return super().compile_kernels(lower_math(gpu_module(mod, self)))

    def device_code(self, mod: tvm.ir.IRModule) -> tuple[str, bytes]:
        """A code object with the kernels of `mod`."""
        from .codegen import code_object

        return "hsaco", code_object(mod, self.tvm_target())
