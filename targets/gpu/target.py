"""What all GPU targets have in common: templates, generic rules, host code by LLVM, device code by a toolchain."""

from __future__ import annotations

import functools
import platform
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...compiler.device_code import DeviceCode, Usage
from ...compiler.errors import KompiloError, TargetError
from ...compiler.launches import DeviceProgram
from ...compiler.object_files import write_objects
from ...compiler.schedule.target import Target
from ...compiler.schedule.template import Template
from ..shared import linker
from .spec import GpuSpec

if TYPE_CHECKING:
    import tvm

# The processor that drives the device: any of its architecture will do, the host only launches kernels.
_BASELINE = {"x86_64": "x86-64", "aarch64": "generic"}


class GpuTarget(Target):
    """A GPU of any maker. Subclasses name the presets, the TVM target and the toolchain."""

    spec: GpuSpec
    kind: ClassVar[str]
    drives_device = True

    def __init__(self, spec: GpuSpec):
        self.spec = spec

    @functools.cached_property
    def templates(self) -> Sequence[Template]:  # type: ignore[override]
        """Templates in the order they are asked."""
        from .templates.table import templates

        return templates()

    @property
    def triple(self) -> str:
        """LLVM triple of the machine that drives the GPU: this one's."""
        return f"{_machine()}-linux-gnu"

    @property
    def required_features(self) -> tuple[str, ...]:
        """None: host code is for the plainest CPU of its architecture."""
        return ()

    @property
    def precisions(self) -> tuple[str, ...]:
        """As the GPU's matrix units have it."""
        return self.spec.precisions

    @abstractmethod
    def device_target(self) -> dict[str, Any]:
        """The TVM target that kernels are compiled for, without its host."""

    @abstractmethod
    def device_code(self, mod: tvm.ir.IRModule) -> tuple[str, bytes]:
        """The format and the bytes of the code object with all kernels of `mod`, which is lowered for the device.

        Raises TargetError if the toolchain is missing or refuses the code.
        """

    def host_target(self) -> tvm.target.Target:
        """The TVM target of the code that launches kernels."""
        import tvm

        return tvm.target.Target({"kind": "llvm", "mtriple": self.triple, "mcpu": _BASELINE[_machine()]})

    def tvm_target(self) -> tvm.target.Target:
        """Device and host together."""
        import tvm

        return tvm.target.Target(self.device_target(), host=self.host_target())

    def legalizations(self) -> Mapping[str, Callable[..., Any]]:
        """Relax operators that get our own loops instead of TVM's."""
        from .legalize import LEGALIZATIONS

        return LEGALIZATIONS

    def schedule(self, func: tvm.tirx.PrimFunc) -> tuple[tvm.tirx.PrimFunc, str]:
        """Schedule any PrimFunc; returns it with the name of the generic rule that applied."""
        from .generic.table import schedule

        return schedule(func, self.spec)

    def compile_kernels(self, mod: tvm.ir.IRModule) -> tuple[tvm.runtime.Module, tuple[DeviceCode, ...]]:
        """Host code of the PrimFuncs of `mod`, and one code object with all kernels that it launches.

        Raises TargetError if the toolchain is missing or refuses the code.
        """
        from .lowering import host_code, split

        parts = split(gpu_module(mod, self), self.tvm_target())
        host = host_code(parts.host, self.host_target())
        if parts.device is None:
            return host, ()
        form, code = self.device_code(parts.device)
        return host, (DeviceCode(form, self.spec.code_arch, code, parts.kernels),)

    def device_program(self, func: tvm.tirx.PrimFunc) -> DeviceProgram:
        """The scheduled `func`, whose sizes are known, as a code object and the launches that run it.

        Raises KompiloError where its host function does what only TVM's runtime can, TargetError as compile_kernels.
        """
        import tvm

        from .launches import HostWalk, host_capture
        from .lowering import split

        capture = host_capture()
        mod = gpu_module(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), self)
        parts = split(mod, self.tvm_target(), [capture])
        if parts.device is None:
            raise KompiloError("measuring on a GPU: expected a kernel, found a function that launches none.")
        form, code = self.device_code(parts.device)
        walk = HostWalk(capture.functions["main"], {k.name: k for k in parts.kernels})
        return DeviceProgram(form, self.spec.code_arch, code, tuple(walk.launches), tuple(walk.scratch))

    def usage(self, program: DeviceProgram) -> Usage | None:
        """As the code object and the launches of `program` have it."""
        from .usage import usage_of

        return usage_of(program, self.spec)

    def export(
        self, executable: tvm.runtime.Executable, path: Path, more_objects: Callable[[], Sequence[str]] = list
    ) -> None:
        """Link the host's part of `executable` into a shared library at `path`.

        Raises TargetError if no linker is found, KompiloError if there is no room for the files.
        """
        objects = [str(p) for p in write_objects(executable, path.parent, self.host_target())]
        linker.link_shared(str(path), [*objects, *more_objects()], _machine())


def gpu_module(mod: tvm.ir.IRModule, target: GpuTarget) -> tvm.ir.IRModule:
    """The PrimFuncs of `mod` as they go to code generation: scheduled, threads bound, still one function per kernel.

    Functions that are not yet scheduled are given to the target's generic rules; Relax functions are left out.
    """
    import tvm
    from tvm import tirx

    functions = {}
    for gvar, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc):
            done = bool(func.attrs and (func.attrs.get("tirx.is_scheduled") or func.attrs.get("tirx.is_host_func")))
            functions[gvar] = func if done else target.schedule(func)[0]
    return tvm.IRModule(functions, attrs=mod.attrs)


def _machine() -> str:
    name = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    if name not in _BASELINE:
        raise TargetError(f"GPU targets: expected a host of {' or '.join(_BASELINE)}, found {name}.")
    return name
