"""FPGAs as a target: a whole model becomes one design, which the C simulation or a vendor's tools take from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...compiler.errors import TargetError
from ...compiler.schedule.target import Target
from ...compiler.schedule.template import Template
from ...compiler.schedule.whole_design import DesignSpace, KnownDesigns, WholeDesign, no_designs
from .presets import fpga_spec, preset_names
from .spec import FpgaSpec

if TYPE_CHECKING:
    import numpy as np
    import tvm

    from .design.record import Design


class FpgaTarget(Target):
    """One FPGA on its board. Operators come to it as loops, in TVM's formulation; `whole_design` makes hardware of
    all of them together."""

    spec: FpgaSpec
    templates: Sequence[Template] = ()
    writes_projects = True

    def __init__(self, spec: FpgaSpec):
        self.spec = spec
        self._design: Design | None = None

    @classmethod
    def from_preset(cls, preset: str | None) -> FpgaTarget:
        """`preset`: a name of `presets()`; there is no FPGA of this machine."""
        if preset is None:
            names = ", ".join(f"fpga:{name}" for name in preset_names())
            raise TargetError(f"target 'fpga': expected a part, one of {names}, found none.")
        return cls(fpga_spec(preset))

    @classmethod
    def presets(cls) -> Sequence[str]:
        """Names accepted after "fpga:"."""
        return preset_names()

    @property
    def precisions(self) -> Sequence[str]:
        """Integers as hardware likes them best, and float32."""
        return ("fp32", "int8")

    @property
    def triple(self) -> str:
        """Of no host: a design has no host code."""
        return "fpga"

    @property
    def required_features(self) -> tuple[str, ...]:
        """None: simulation is compiled where it runs."""
        return ()

    def tvm_target(self) -> tvm.target.Target:
        """A plain CPU, for which TVM forms loops."""
        import tvm

        return tvm.target.Target("llvm")

    def legalizations(self) -> Mapping[str, Callable[..., Any]]:
        """None of its own."""
        return {}

    def schedule(self, func: tvm.tirx.PrimFunc) -> tuple[tvm.tirx.PrimFunc, str]:
        """Loops stay as they are: how far they are unfolded is decided for all operators at once."""
        return func, "nest"

    def whole_design(
        self, mod: tvm.ir.IRModule, weights: Sequence[np.ndarray], known: KnownDesigns = no_designs
    ) -> WholeDesign:
        """The design of a module after all passes: the one that `known` names, if that still fits, or the default.

        Raises TargetError naming an open dimension, an operator or a type that hardware has not, or the resource that
        the part has too little of.
        """
        from .design.build import design_of
        from .design.pack import whole_design
        from .design.read import read_model
        from .design.space import known_design, model_key

        model = read_model(mod, weights)
        record = known(model_key(model))
        self._design = known_design(model, self.spec, record) if record is not None else None
        source = record.source if record is not None and self._design is not None else "default"
        if self._design is None:
            self._design = design_of(model, self.spec)
        return whole_design(self._design, source)

    def design_space(self, mod: tvm.ir.IRModule, weights: Sequence[np.ndarray]) -> DesignSpace:
        """Folds of all operators. Errors as for `whole_design`, but for a default that does not fit."""
        from .design.read import read_model
        from .design.space import FpgaDesigns

        return FpgaDesigns(read_model(mod, weights), self.spec)

    def write_project(self, folder: Path, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        """A Vitis HLS project; see `project/`."""
        from .project.write import write_project

        if self._design is None:
            raise TargetError(f"target {self.spec.key}: expected a model that was compiled, found none.")
        write_project(folder, self._design, inputs, outputs)

    def export(
        self, executable: tvm.runtime.Executable, path: Path, more_objects: Callable[[], Sequence[str]] = list
    ) -> None:
        """Raises TargetError: there is no library."""
        raise TargetError(f"target {self.spec.key}: expected a whole model, found a library to link.")
