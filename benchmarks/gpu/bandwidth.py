"""Operators that generic rules schedule, as a compilation makes them; those that memory limits, which are timed."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from cases import Case
from onnx import helper

from kompilo.compiler.errors import KompiloError
from kompilo.compiler.frontend.importer import import_model
from kompilo.compiler.passes.pipeline import run_phases
from kompilo.compiler.schedule.selection import Selector
from kompilo.compiler.schedule.target import Target
from kompilo.compiler.tune.device.candidate import DeviceKernel
from kompilo.compiler.tune.device.parts import write_parts


def cases(rows: int, columns: int) -> list[Case]:
    """Single operators on matrices of float16; sums of rows on float32, which is one kernel."""

    def case(name: str, operator: str, inputs: str, dtype: str, rank: int = 2, **attributes: Any) -> Case:
        node = helper.make_node(operator, [*inputs, *(["axes"] if rank == 1 else [])], ["z"], **attributes)
        weights = {"axes": np.array([1])} if rank == 1 else {}
        renamed = helper.make_node("Identity", ["z"], ["y"])
        return Case(name, (node, renamed), dict.fromkeys(inputs, (dtype, (rows, columns))), (dtype, rank), weights)

    return [
        case("ReLU", "Relu", "x", "float16"),
        case("add", "Add", "ab", "float16"),
        case("softmax", "Softmax", "x", "float16", axis=-1),
        case("row sums", "ReduceSum", "x", "float32", rank=1, keepdims=0),
        case("transpose", "Transpose", "x", "float16", perm=[1, 0]),
    ]


@dataclass(frozen=True)
class Kernels:
    """The one PrimFunc that a graph becomes, not yet scheduled; `operands` are what it reads in the order of its
    parameters, numbers of inputs or constants, and its last parameter is the result."""

    func: tvm.tirx.PrimFunc
    operands: tuple[int | np.ndarray, ...]

    def arrays(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the function reads where the graph's inputs are these."""
        return [inputs[o] if isinstance(o, int) else o for o in self.operands]


def function_of(case: Case, target: Target) -> Kernels:
    """What the graph becomes. Raises KompiloError if that is not one function."""
    mod = run_phases(import_model(case.model()).mod, target, stop_after="legalize", selector=Selector(target))
    found = {g.name_hint: f for g, f in mod.functions_items() if isinstance(f, tvm.tirx.PrimFunc)}
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    calls = [b.value for b in bindings if getattr(getattr(b.value, "op", None), "name", "") == "relax.call_tir"]
    if len(found) != 1 or len(calls) != 1:
        raise KompiloError(f"{case.name}: expected one function, found {len(found)}.")
    places = {param: number for number, param in enumerate(mod["main"].params)}
    fields = list(calls[0].args[1].fields) if hasattr(calls[0].args[1], "fields") else [calls[0].args[1]]
    operands = tuple(places[f] if f in places else f.value.numpy() for f in fields)
    return Kernels(found[calls[0].args[0].name_hint], operands)


def kernels_of(
    case: Case, target: Target, files: zipfile.ZipFile, scratch: Path
) -> tuple[str, dict[str, Any], Kernels]:
    """The rule that makes the graph's kernels, and what a bundle holds of them, its files put among `files`.

    Raises KompiloError as `function_of`, or where the target's tools refuse.
    """
    kernels = function_of(case, target)
    scheduled, rule = target.schedule(kernels.func.with_attr("global_symbol", "main"))
    program = target.device_program(scheduled)
    parts = write_parts(None, DeviceKernel(program, {}), scratch)  # type: ignore[arg-type] # nothing packed
    if parts["code"] not in files.namelist():
        files.write(scratch / parts["code"], parts["code"])
    return rule, parts, kernels
