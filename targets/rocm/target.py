"""AMD GPUs as targets: TVM's LLVM for amdgcn, linked into a code object by lld."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..gpu.target import GpuTarget
from . import presets, toolchain

if TYPE_CHECKING:
    import tvm

# What TVM's code generator asks for while it works in this thread: the target, and the code object that was linked.
_working = threading.local()
_registered = threading.Lock()


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
        spec = self.spec
        return {
            "kind": "rocm",
            "mcpu": spec.arch,
            "mtriple": "amdgcn-amd-amdhsa-hcc",
            "max_num_threads": spec.threads_per_block,
            "max_threads_per_block": spec.threads_per_block,
            "max_shared_memory_per_block": spec.shared_bytes,
            "thread_warp_size": spec.warp,
        }

    def device_code(self, mod: tvm.ir.IRModule) -> tuple[str, bytes]:
        """A code object with the kernels of `mod`."""
        import tvm

        _register()
        _working.arch = self.spec.arch
        try:
            tvm.get_global_func("target.build.rocm")(mod, self.tvm_target())
            return "hsaco", _working.linked
        finally:
            _working.arch = _working.linked = None


def _register() -> None:
    """Makes TVM's code generator call these functions instead of its own, which look for a ROCm installation."""
    import tvm_ffi

    def link(code: bytes) -> bytearray:
        _working.linked = toolchain.link_code_object(bytes(code), _working.arch)
        return bytearray(_working.linked)

    with _registered:
        tvm_ffi.register_global_func("tvm_callback_rocm_link", link, override=True)
        tvm_ffi.register_global_func("tvm_callback_rocm_bitcode_path", _bitcode, override=True)


def _bitcode() -> list[str]:
    return toolchain.bitcode(_working.arch)
