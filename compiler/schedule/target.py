"""What every target offers the compiler, and how targets are found (entry points, never imports)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..device_code import DeviceCode, Usage
from ..errors import TargetError
from ..launches import DeviceProgram
from .roofline import Roofline
from .target_spec import TargetSpec
from .template import Template
from .whole_design import DesignSpace, KnownDesigns, WholeDesign, no_designs

if TYPE_CHECKING:
    import numpy as np
    import tvm

GROUP = "kompilo.targets"


class Target(ABC):
    """A kind of hardware with its templates, generic schedules and toolchain."""

    spec: TargetSpec
    templates: Sequence[Template]
    # Whether candidates are timed on one core, though they run on all `spec.cores`.
    timed_on_one_core: ClassVar[bool] = False
    # Whether kernels run on a device of their own rather than on the CPU that calls them.
    drives_device: ClassVar[bool] = False
    # Sizes by which rates of a device are measured: bytes to copy within it, and the side of matrices to multiply.
    probe_bytes: ClassVar[int] = 256 << 20
    probe_side: ClassVar[int] = 4096
    # Whether kernels of a run can be captured as a graph, which is launched as one (CUDA).
    captures_graphs: ClassVar[bool] = False

    # Whether `write_project` writes what the design of a whole model is made from by other tools.
    writes_projects: ClassVar[bool] = False

    @property
    def precisions(self) -> Sequence[str]:
        """What float32 models may be computed in: "fp32", and "tf32" or "fp16" where the hardware multiplies those."""
        return ("fp32",)

    @classmethod
    @abstractmethod
    def from_preset(cls, preset: str | None) -> Target:
        """The target for "kind:preset", or for the local machine when `preset` is None; TargetError if unknown."""

    @classmethod
    @abstractmethod
    def presets(cls) -> Sequence[str]:
        """Names accepted after the colon."""

    @property
    @abstractmethod
    def triple(self) -> str:
        """LLVM triple of the machine that loads the code ("x86_64-linux-gnu")."""

    @property
    @abstractmethod
    def required_features(self) -> tuple[str, ...]:
        """CPU flags (Linux /proc/cpuinfo spelling) that the loading machine must have."""

    @abstractmethod
    def tvm_target(self) -> tvm.target.Target:
        """The TVM target that code is generated for."""

    def compile_kernels(self, mod: tvm.ir.IRModule) -> tuple[tvm.runtime.Module, tuple[DeviceCode, ...]]:
        """The PrimFuncs of `mod`, all scheduled, as machine code of the host, and what they launch on a device.

        Works in several threads at once. Raises TargetError if the toolchain is missing or refuses the code.
        """
        import tvm

        return tvm.tirx.build(mod, target=self.tvm_target()), ()

    def whole_design(
        self, mod: tvm.ir.IRModule, weights: Sequence[np.ndarray], known: KnownDesigns = no_designs
    ) -> WholeDesign | None:
        """The scheduled `mod` as hardware, for targets that build it for whole models; None where kernels are compiled.

        `weights` are the values of the trailing parameters of `main`; `known` says what records have of the model.
        Raises TargetError if the hardware cannot have an operator, or the model does not fit.
        """
        return None

    def design_space(self, mod: tvm.ir.IRModule, weights: Sequence[np.ndarray]) -> DesignSpace | None:
        """The designs to choose from, for the tuner; None where `whole_design` is. Raises TargetError likewise."""
        return None

    def write_project(self, folder: Path, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        """Writes the project of the last `whole_design` into `folder`, with a run's data: inputs, and the outputs that
        are expected of them, in the model's order. TargetError if there is none, or it cannot be written."""
        raise TargetError(f"target {self.spec.key}: expected one that builds hardware of whole models.")

    def device_program(self, func: tvm.tirx.PrimFunc) -> DeviceProgram:
        """The scheduled `func` as a device's code with its launches, for targets that drive one.

        Raises KompiloError if that cannot be, TargetError if the toolchain is missing or refuses the code.
        """
        raise TargetError(f"target {self.spec.key}: expected one that drives a device.")

    def usage(self, program: DeviceProgram) -> Usage | None:
        """What the kernels of `program` take of the device, read from their code; None where that is not known."""
        return None

    @abstractmethod
    def legalizations(self) -> Mapping[str, Callable[..., Any]]:
        """Relax op name ("relax.exp") -> legalisation function, overriding TVM's own for this target."""

    @abstractmethod
    def schedule(self, func: tvm.tirx.PrimFunc) -> tuple[tvm.tirx.PrimFunc, str]:
        """Schedule any PrimFunc sensibly; returns it with the name of the rule that applied."""

    @abstractmethod
    def export(
        self, executable: tvm.runtime.Executable, path: Path, more_objects: Callable[[], Sequence[str]] = list
    ) -> None:
        """Link compiled code into a loadable library at `path`; TargetError if no linker is found.

        `more_objects` gives further object files to link, compiled meanwhile; it may wait for them.
        """

    def check_timed_here(self) -> None:
        """Raises TargetError unless times taken on this machine are those of the hardware that `spec.key` names.

        Asked before local tuning, of targets that drive no device.
        """
        return  # what other kinds of target measure is their own affair

    def measure_roofline(self) -> Roofline | None:
        """Peak rates of one core, measured now, in seconds; None where this machine does not run the target's code."""
        return None


def available() -> list[str]:
    """Names of all installed kinds of target."""
    return sorted({e.name for e in entry_points(group=GROUP)})


def find_target(name: str) -> Target:
    """The target called `name` ("cpu", "cpu:znver4", ...); TargetError names the known ones if there is none."""
    kind, _, preset = name.partition(":")
    for entry in entry_points(group=GROUP, name=kind):
        return entry.load().from_preset(preset or None)
    raise TargetError(f"unknown target {name!r}: expected one of {', '.join(available())}.")
