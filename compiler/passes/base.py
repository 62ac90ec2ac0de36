"""What a graph pass is, and the runner that verifies, dumps and times a list of them."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tvm
from tvm import relax

from ..knobs import Knobs


class PassError(Exception):
    """A pass produced ill-formed IR or failed: a defect of the compiler, never of the model. Names the pass."""


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite of a whole module that keeps its meaning.

    Subclasses are frozen dataclasses whose fields are the pass's options; their docstring is the contract: what must
    hold before, and what becomes of it. `run` returns the very same object when there was nothing to do, and never
    changes the module it was given.
    """

    name: str = field(default="", init=False)

    @abstractmethod
    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The rewritten module."""


@dataclass(frozen=True)
class PassRecord:
    """What one pass did: its seconds, whether it changed the module, and the size of `main` afterwards."""

    name: str
    seconds: float
    changed: bool
    bindings: int

    def __str__(self) -> str:
        effect = f"{self.bindings} bindings" if self.changed else "unchanged"
        return f"{self.name:<28} {self.seconds * 1e3:8.1f} ms  {effect}"


@dataclass(frozen=True)
class PassRunner:
    """Runs passes one after another: verifies each result, dumps it when asked to, and times it.

    With `knobs.dump` the texts `00_input.txt`, `01_<name>.txt`, ... are written (constants by shape only); a pass that
    changed nothing leaves the one line "unchanged".
    """

    knobs: Knobs

    def run(
        self, mod: tvm.IRModule, passes: Sequence[Pass], report: Callable[[str, int, int], None] | None = None
    ) -> tuple[tvm.IRModule, list[PassRecord]]:
        """The rewritten module and a record of each pass; PassError names the pass that broke the IR.

        `report(name, done, total)` is called as each pass starts.
        """
        records: list[PassRecord] = []
        self._dump(0, "input", mod, changed=True)
        for number, graph_pass in enumerate(passes, start=1):
            if report is not None:
                report(graph_pass.name, number - 1, len(passes))
            start = time.perf_counter()
            after = _run_one(graph_pass, mod)
            seconds = time.perf_counter() - start
            changed = not after.same_as(mod)
            if changed and self.knobs.verify:
                _verify(graph_pass.name, after)
            mod = after
            records.append(PassRecord(graph_pass.name, seconds, changed, _count_bindings(mod)))
            self._dump(number, graph_pass.name, mod, changed)
            if self.knobs.debug:
                print(records[-1], file=sys.stderr)
        return mod, records

    def _dump(self, number: int, name: str, mod: tvm.IRModule, changed: bool) -> None:
        if self.knobs.dump is None:
            return
        folder = Path(self.knobs.dump)
        folder.mkdir(parents=True, exist_ok=True)
        text = mod.script(show_meta=False) if changed else "unchanged\n"
        (folder / f"{number:02d}_{name}.txt").write_text(text)


def run_passes(mod: tvm.IRModule, passes: Sequence[Pass], knobs: Knobs | None = None) -> tvm.IRModule:
    """`mod` after all `passes`; `knobs` default to the environment's. Raises PassError as `PassRunner.run` does."""
    return PassRunner(knobs or Knobs.from_environment()).run(mod, passes)[0]


def _run_one(graph_pass: Pass, mod: tvm.IRModule) -> tvm.IRModule:
    try:
        return graph_pass.run(mod)
    except (tvm.error.InternalError, AssertionError, KeyError, IndexError, TypeError, ValueError) as error:
        raise PassError(f"pass {graph_pass.name} failed: {error}") from error


def _verify(name: str, mod: tvm.IRModule) -> None:
    try:
        relax.analysis.well_formed(mod)
    except Exception as error:  # TVM raises several types here; all mean the same to us
        raise PassError(f"pass {name} produced ill-formed IR: {error}") from error


def _count_bindings(mod: tvm.IRModule) -> int:
    for var, func in mod.functions_items():
        if var.name_hint == "main" and isinstance(func, relax.Function) and isinstance(func.body, relax.SeqExpr):
            return sum(len(block.bindings) for block in func.body.blocks)
    return 0
