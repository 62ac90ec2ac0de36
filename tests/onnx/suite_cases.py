"""The cases of ONNX's own backend suite: a model, inputs, and the outputs they have to give."""

from __future__ import annotations

import os
import pickle
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test import loader
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.runner import Runner

KINDS = ("simple", "pytorch-operator", "pytorch-converted", "real")

DataSet = tuple[list[Any], list[Any]]


@dataclass(frozen=True)
class Case:
    """One case of the suite.

    Attributes:
        name: unique among all cases.
        kind: "node" for those that the suite generates, else the folder of files it comes from.
        model: the serialised model.
        data_sets: inputs (in the order of the graph's) and expected outputs; arrays, or lists of arrays.
        rtol, atol: the suite's tolerances.
    """

    name: str
    kind: str
    model: bytes
    data_sets: tuple[DataSet, ...]
    rtol: float
    atol: float

    @property
    def operators(self) -> frozenset[str]:
        """The types of the model's own nodes."""
        return frozenset(node.op_type for node in onnx.load_from_string(self.model).graph.node)


@cache
def all_cases() -> dict[str, Case]:
    """Every case by name. The suite takes 15 s to generate its node cases: they are kept in a file of the user's."""
    store = Path(tempfile.gettempdir()) / f"kompilo-onnx-suite-{onnx.__version__}-{os.getuid()}.pickle"
    if store.exists() and store.stat().st_uid == os.getuid():
        nodes = pickle.loads(store.read_bytes())
    else:
        nodes = _node_cases()
        part = store.with_suffix(f".{os.getpid()}")
        part.write_bytes(pickle.dumps(nodes))
        part.replace(store)
    cases = nodes + [_stored_case(test) for kind in KINDS for test in loader.load_model_tests(kind=kind)]
    return {case.name: case for case in sorted(cases, key=lambda c: c.name)}


def _node_cases() -> list[Case]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        tests = collect_testcases(None)
    return [
        Case(
            test.name,
            test.kind,
            test.model.SerializeToString(),
            tuple(([_array(x) for x in given], [_array(y) for y in wanted]) for given, wanted in test.data_sets),
            test.rtol,
            test.atol,
        )
        for test in tests
    ]


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return list(value) if isinstance(value, tuple) else value


def _stored_case(test: Any) -> Case:
    if test.model_dir is None:
        return _light_case(test)
    folder = Path(test.model_dir)
    model = onnx.load(folder / "model.onnx")
    sets = []
    for data in sorted(folder.glob("test_data_set*")):
        given = [_stored_value(p, i.type) for p, i in zip(_files(data, "input"), model.graph.input, strict=False)]
        wanted = [_stored_value(p, o.type) for p, o in zip(_files(data, "output"), model.graph.output, strict=False)]
        sets.append((given, wanted))
    return Case(test.name, test.kind, (folder / "model.onnx").read_bytes(), tuple(sets), test.rtol, test.atol)


def _light_case(test: Any) -> Case:
    """A whole network with constants for weights, which come as nodes; its input counts from 0 to 1."""
    path = Path(onnx.__file__).parent.parent / test.url
    model = onnx.load(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in stored]
    given = [Runner.generate_dummy_data(info, seed=0, name=test.model_name, random=False) for info in inputs]
    wanted = [
        _stored_value(path.with_name(f"{path.stem}_output_{i}.pb"), o.type) for i, o in enumerate(model.graph.output)
    ]
    return Case(test.name, test.kind, path.read_bytes(), ((given, wanted),), test.rtol, test.atol)


def _files(folder: Path, stem: str) -> list[Path]:
    return [folder / f"{stem}_{i}.pb" for i in range(len(list(folder.glob(f"{stem}_*.pb"))))]


def _stored_value(path: Path, kind: onnx.TypeProto) -> Any:
    content = path.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))
