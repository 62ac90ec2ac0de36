"""The CPU as a target: its facts, templates, own legalisations, generic schedules and linker."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...compiler.errors import TargetError
from ...compiler.object_files import write_objects
from ...compiler.schedule.roofline import Roofline
from ...compiler.schedule.target import Target
from ...compiler.schedule.target_spec import CpuSpec
from ...compiler.schedule.template import Template
from ..shared import linker
from . import spec as cpu_spec

if TYPE_CHECKING:
    import tvm


class CpuTarget(Target):
    """One kind of CPU; code runs on it through TVM's LLVM back end and thread pool."""

    spec: CpuSpec
    timed_on_one_core = True

    def __init__(self, spec: CpuSpec):
        self.spec = spec

    @classmethod
    def from_preset(cls, preset: str | None) -> CpuTarget:
        """`preset`: None or "native" for this machine, or a name of `presets()`, with an optional ",cores=N"."""
        return cls(cpu_spec.cpu_spec(preset))

    @classmethod
    def presets(cls) -> Sequence[str]:
        """Names accepted after "cpu:"."""
        return cpu_spec.preset_names()

    @functools.cached_property
    def templates(self) -> Sequence[Template]:  # type: ignore[override]
        """Templates in the order they are asked."""
        from .templates.table import templates

        return templates()

    @property
    def triple(self) -> str:
        """LLVM triple of the generated code."""
        return self.spec.triple

    @property
    def precisions(self) -> Sequence[str]:
        """Floats as the model has them, or 8-bit integers."""
        return ("fp32", "int8")

    @property
    def required_features(self) -> tuple[str, ...]:
        """CPU flags that the generated code relies on."""
        return self.spec.features

    def tvm_target(self) -> tvm.target.Target:
        """The LLVM target; `mattr` makes LLVM use full-width vectors where it would rather halve them."""
        import tvm

        return tvm.target.Target(
            {
                "kind": "llvm",
                "mtriple": self.spec.triple,
                "mcpu": self.spec.mcpu,
                "mattr": list(self.spec.mattr),
                "num-cores": self.spec.cores,
            }
        )

    def legalizations(self) -> Mapping[str, Callable[..., Any]]:
        """Relax operators that get our own loops instead of TVM's."""
        from .legalize.table import legalizations

        return legalizations(self.spec)

    def schedule(self, func: tvm.tirx.PrimFunc) -> tuple[tvm.tirx.PrimFunc, str]:
        """Schedule any PrimFunc; returns it with the name of the generic rule that applied."""
        from .generic.table import schedule

        return schedule(func, self.spec)

    def export(
        self, executable: tvm.runtime.Executable, path: Path, more_objects: Callable[[], Sequence[str]] = list
    ) -> None:
        """Link `executable` into a shared library at `path`; object files are put beside it.

        Raises TargetError if no linker is found, KompiloError if there is no room for the files.
        """
        objects = [str(p) for p in write_objects(executable, path.parent, self.tvm_target())]
        linker.link_shared(str(path), [*objects, *more_objects()], self.spec.triple.partition("-")[0])

    def check_timed_here(self) -> None:
        """Raises TargetError unless this machine's CPU, with the cores that this process may use, is what it is for."""
        own, here = self.spec.key, self._key_here()
        if own != here:
            raise TargetError(
                f"tuning for {own}: expected that CPU, this machine's is {here}.",
                f"tune with --target {self.spec.kind}, whose records are for this machine, or on such machines with"
                " --workers ray.",
            )
        if not cpu_spec.runs_here(self.spec):
            raise TargetError(f"tuning for {own}: this machine's CPU lacks features of the code.")

    def measure_roofline(self) -> Roofline | None:
        """Peak rates of one core of this machine, measured now, in about two seconds; None if it is another's code."""
        from .roofline import measure_roofline

        here = self.spec.key == self._key_here() and cpu_spec.runs_here(self.spec)
        return measure_roofline(self) if here else None

    def _key_here(self) -> str:
        return type(self).from_preset(None).spec.key
