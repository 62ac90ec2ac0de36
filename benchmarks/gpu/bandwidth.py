"""Operators that memory limits, which generic rules schedule, as a compilation makes them."""

from __future__ import annotations

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


def function_of(case: Case, target: Target) -> Any:
    """The one PrimFunc that the graph becomes, not yet scheduled: its parameters are the inputs, then the result.

    Raises KompiloError if there are several.
    """
    mod = run_phases(import_model(case.model()).mod, target, stop_after="legalize", selector=Selector(target))
    found = [f for _, f in mod.functions_items() if isinstance(f, tvm.tirx.PrimFunc)]
    if len(found) != 1 or len(found[0].params) != len(case.inputs) + 1:
        raise KompiloError(f"{case.name}: expected one kernel, found {len(found)}.")
    return found[0]
