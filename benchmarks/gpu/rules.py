"""What generic rules make, one operator each: built here with inputs and what float64 makes of them, checked there."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import bandwidth
import numpy as np
from cases import Case, Shape
from onnx import helper
from onnx.reference import ReferenceEvaluator

from kompilo.compiler.errors import KompiloError
from kompilo.compiler.schedule.target import Target
from kompilo.compiler.tune.device.player_worker import FILES

# Largest error relative to the largest value. Whole numbers must agree.
TOLERANCES = {"float32": 2e-5, "float16": 3e-3}
FLOATS = tuple(TOLERANCES)
# Elements of a row that is long enough for its sum to be shared out among blocks.
_LONG = 3 << 16
# Indices that every case with such has.
_INDICES = 5
_OPSET = 18


def rule_cases() -> list[Case]:
    """Single operators that reach every generic rule and every form of its kernels, of odd sizes and of even ones."""
    return [case for dtype in FLOATS for case in (*_maps(dtype), *_reductions(dtype), *_others(dtype))]


def _case(
    name: str, dtype: str, operator: str, inputs: dict[str, Shape], rank: int, result: str = "",
    more: dict[str, np.ndarray] | None = None, **attributes: Any,
) -> Case:  # fmt: skip
    """One operator; `more` are inputs that are known, "at" is one of indices."""
    more = more or {}
    node = helper.make_node(operator, [*inputs, *more], ["z"], **attributes)
    last = helper.make_node("Identity", ["z"], ["y"])
    typed = {k: ("int64" if k == "at" else dtype, shape) for k, shape in inputs.items()}
    return Case(f"{name}, {dtype}", (node, last), typed, (result or dtype, rank), more, opset=_OPSET)


def _maps(dtype: str) -> list[Case]:
    """Element by element: whole vectors, ragged ones, broadcasts, copies; and reads that cross the order of writing."""
    return [
        _case("multiply", dtype, "Mul", {"a": (64, 256), "b": (64, 256)}, 2),
        _case("add, broadcast, odd", dtype, "Add", {"a": (37, 5, 53), "b": (5, 1)}, 3),
        _case("tanh, odd", dtype, "Tanh", {"a": (7, 11, 13)}, 3),
        _case("concat, odd", dtype, "Concat", {"a": (9, 31), "b": (9, 14)}, 2, axis=1),
        _case("pad", dtype, "Pad", {"a": (5, 29)}, 2, more={"pads": np.array([1, 2, 0, 3])}),
        _case("slice", dtype, "Slice", {"a": (33, 50)}, 2, more={
            "starts": np.array([3, 1]), "ends": np.array([30, 48]), "axes": np.array([0, 1]), "steps": np.array([2, 3]),
        }),
        _case("gather", dtype, "GatherElements", {"a": (40, 24), "at": (7, 24)}, 2),
        _case("transpose", dtype, "Transpose", {"a": (128, 96)}, 2, perm=[1, 0]),
        _case("transpose, odd", dtype, "Transpose", {"a": (3, 70, 45)}, 3, perm=[0, 2, 1]),
        _case("transpose, short", dtype, "Transpose", {"a": (5, 3, 8, 6)}, 4, perm=[0, 2, 3, 1]),
    ]  # fmt: skip


def _reductions(dtype: str) -> list[Case]:
    """Rows by teams of threads, columns by neighbours, rows shared out among blocks; and what goes on from there."""
    rows, columns, both = (np.array(axes) for axes in ([1], [0], [0, 1]))
    found = [
        _case("softmax, odd", dtype, "Softmax", {"a": (33, 77)}, 2, axis=-1),
        _case("softmax, long rows", dtype, "Softmax", {"a": (5, 5003)}, 2, axis=-1),
        _case("softmax of columns", dtype, "Softmax", {"a": (45, 67)}, 2, axis=0),
        _case("LayerNorm, odd", dtype, "LayerNormalization", {"a": (19, 61), "s": (61,), "b": (61,)}, 2, axis=-1),
        _case("LayerNorm", dtype, "LayerNormalization", {"a": (40, 1024), "s": (1024,), "b": (1024,)}, 2, axis=-1),
        _case("largest of rows", dtype, "ReduceMax", {"a": (50, 333)}, 1, more={"axes": rows}, keepdims=0),
        _case("smallest of columns", dtype, "ReduceMin", {"a": (333, 50)}, 1, more={"axes": columns}, keepdims=0),
        _case("arg-max of rows", dtype, "ArgMax", {"a": (31, 517)}, 1, "int64", axis=1, keepdims=0),
        _case("arg-min of columns", dtype, "ArgMin", {"a": (47, 21)}, 1, "int64", axis=0, keepdims=0),
        _case("pooling by itself", dtype, "MaxPool", {"a": (2, 5, 13, 11)}, 4, kernel_shape=[3, 3], strides=[2, 2]),
    ]
    if dtype == "float32":  # sums of float16 are cast before and behind, by kernels of their own
        found += [
            _case("sums of rows", dtype, "ReduceSum", {"a": (50, 333)}, 1, more={"axes": rows}, keepdims=0),
            _case("means of columns", dtype, "ReduceMean", {"a": (333, 50)}, 1, more={"axes": columns}, keepdims=0),
            _case("sum of a long row", dtype, "ReduceSum", {"a": (1, _LONG)}, 2, more={"axes": both}, keepdims=1),
        ]
    return found


def _others(dtype: str) -> list[Case]:
    """What no rule knows: a thread for each row, or for what the loops say is independent; or one thread."""
    scattered: dict[str, Shape] = {"a": (5, 3), "at": (2, 3), "new": (2, 3)}
    return [
        _case("add, single numbers", dtype, "Add", {"a": (), "b": ()}, 0),
        _case("running sums", dtype, "CumSum", {"a": (23, 37)}, 2, more={"axis": np.array(1)}),
        _case("scatter that adds", dtype, "ScatterElements", scattered, 2, axis=0, reduction="add"),
    ]


def write(folder: Path, hardware: Target, cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """Facts about each case, what is built added to the bundle's files; of what cannot be built, why."""
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(folder / FILES, "a") as files:
        for number, case in enumerate(cases):
            facts: dict[str, Any] = {"name": case.name, "dtype": next(iter(case.inputs.values()))[0]}
            try:
                rule, parts, kernels = bandwidth.kernels_of(case, hardware, files, Path(scratch))
            except KompiloError as error:
                yield {**facts, "rule": "", "problem": str(error)}
                continue
            arrays = f"rule{number}.npz"
            inputs, wanted = expectation(case)
            packed = io.BytesIO()
            np.savez_compressed(packed, *kernels.arrays(inputs), wanted=wanted)
            files.writestr(arrays, packed.getvalue())
            limit = TOLERANCES.get(case.output[0], 0.0)
            yield {**facts, "rule": rule, "parts": parts, "arrays": arrays, "result": case.output[0], "limit": limit}


def expectation(case: Case) -> tuple[list[np.ndarray], np.ndarray]:
    """Inputs of a case, normal numbers and small indices, and what ONNX's reference makes of them in float64."""
    generator = np.random.default_rng(0)
    inputs = [
        generator.integers(0, _INDICES, shape) if dtype == "int64" else generator.standard_normal(shape).astype(dtype)
        for dtype, shape in case.inputs.values()
    ]
    wide = replace(
        case,
        inputs={name: (_wide(dtype), shape) for name, (dtype, shape) in case.inputs.items()},
        weights={name: array.astype(_wide(str(array.dtype))) for name, array in case.weights.items()},
        output=(_wide(case.output[0]), case.output[1]),
    )
    feeds = dict(zip(case.inputs, (array.astype(_wide(str(array.dtype))) for array in inputs), strict=True))
    return inputs, np.asarray(ReferenceEvaluator(wide.model()).run(None, feeds)[0])


def _wide(dtype: str) -> str:
    return "float64" if dtype in FLOATS else dtype
