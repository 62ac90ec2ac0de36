"""The model's inputs: their names, dtypes and dimensions, fixed or renamed by what the user asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ..errors import ModelError, UsageError
from ..tensor_spec import TensorSpec, dim_name
from .dtypes import dtype_name
from .tensor_data import tensor_type

Shapes = Mapping[str, Sequence[int | str]]

# What exporters write as the name of a dimension that they know nothing of.
_NAMELESS = re.compile(r"[ ?]*|-\d+")
# No machine can hold more elements, and offsets into fewer are far from overflowing 64 bits.
_MOST_ELEMENTS = 2**46


def input_signature(graph: onnx.GraphProto, shapes: Shapes | None) -> list[TensorSpec]:
    """The specs of the graph's inputs, without those that are initializers (old models list these as inputs too), and
    without those that nothing uses and that are no tensors of a supported type.

    Args:
        graph: the model's graph.
        shapes: for each input to fix, one int or name per dimension; a size given for a named dimension holds wherever
            that name stands.
    Raises:
        ModelError: an input is not a tensor of a supported type, or has no shape and none is given.
        UsageError: `shapes` names an unknown input, or contradicts the model or itself.
    """
    constants = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    infos = [info for info in graph.input if info.name not in constants and not _is_ignored(info, graph)]
    if not isinstance(shapes, Mapping | None):
        raise UsageError(f"The shapes of the inputs are {shapes!r}, expected a mapping of names to shapes.")
    shapes = shapes or {}
    _check_names(graph, [info.name for info in infos], shapes)
    declared = _declared_dims(infos, shapes)
    bindings = _Bindings()
    for info in infos:
        if info.name in shapes:
            bindings.unify_shape(info.name, declared[info.name], list(shapes[info.name]))
    names = _Names()
    specs = []
    for info in infos:
        dims = [bindings.resolve(d) for d in declared[info.name]]
        dtype = dtype_name(info.type.tensor_type.elem_type) or ""
        specs.append(
            TensorSpec(
                info.name,
                tuple(d if isinstance(d, int) else names.of(d) for d in dims),
                dtype,
            )
        )
        _check_size(specs[-1], bool(shapes))
    return specs


def _is_ignored(info: onnx.ValueInfoProto, graph: onnx.GraphProto) -> bool:
    is_tensor = info.type.WhichOneof("value") == "tensor_type"
    if is_tensor and dtype_name(info.type.tensor_type.elem_type) is not None:
        return False
    return bool(info.name) and info.name not in used_names(graph)


def used_names(graph: onnx.GraphProto) -> set[str]:
    """Names of the tensors that nodes of the graph and of its subgraphs take, and of the outputs."""
    names = {info.name for info in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            for inner in (*attribute.graphs, attribute.g) if attribute.HasField("g") else attribute.graphs:
                names |= used_names(inner)
    return names


def _check_size(spec: TensorSpec, given: bool) -> None:
    if math.prod(d for d in spec.shape if isinstance(d, int) and d) > _MOST_ELEMENTS:
        message = f"Input {spec} has more elements than any memory holds."
        raise UsageError(message) if given else ModelError(message)


def _check_names(graph: onnx.GraphProto, names: list[str], shapes: Shapes) -> None:
    if "" in names:
        raise ModelError("The model has an input without a name.")
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise ModelError(f"The model has two inputs named {twice!r}.")
    for name, shape in shapes.items():
        if name not in names:
            listed = ", ".join(repr(n) for n in names) or "no inputs"
            raise UsageError(f"A shape is given for input {name!r}, which the model does not have; it has {listed}.")
        if isinstance(shape, str) or not isinstance(shape, Sequence):
            raise UsageError(f"The shape given for input {name!r} is {shape!r}, expected a list of sizes and names.")


@dataclass(frozen=True)
class _Unnamed:
    """A dimension that the model leaves open without naming it."""

    input: str
    axis: int


_Key = str | _Unnamed


def _declared_dims(infos: list[onnx.ValueInfoProto], shapes: Shapes) -> dict[str, list[int | _Key]]:
    declared: dict[str, list[int | _Key]] = {}
    for info in infos:
        tensor = tensor_type(info, "Input")
        if tensor.HasField("shape"):
            declared[info.name] = [_declared_dim(info.name, axis, d) for axis, d in enumerate(tensor.shape.dim)]
        elif info.name in shapes:
            declared[info.name] = [_Unnamed(info.name, axis) for axis in range(len(shapes[info.name]))]
        else:
            raise ModelError(
                f"Input {info.name!r} has no shape in the model.",
                f"give its shape: --input {info.name}:1x3x224x224 on the command line, "
                f"inputs={{{info.name!r}: (1, 3, 224, 224)}} in Python; a name in place of a size keeps it open.",
            )
    return declared


def _declared_dim(name: str, axis: int, dim: onnx.TensorShapeProto.Dimension) -> int | _Key:
    if dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0:
        return dim.dim_value
    known = dim.WhichOneof("value") == "dim_param" and _NAMELESS.fullmatch(dim.dim_param) is None
    return dim.dim_param if known else _Unnamed(name, axis)


class _Bindings:
    """What each open dimension is bound to: a size, or another dimension's name."""

    def __init__(self) -> None:
        self._bound: dict[_Key, int | _Key] = {}

    def resolve(self, dim: int | _Key) -> int | _Key:
        while not isinstance(dim, int) and dim in self._bound:
            dim = self._bound[dim]
        return dim

    def unify_shape(self, name: str, declared: list[int | _Key], given: list[int | str]) -> None:
        if len(given) != len(declared):
            raise UsageError(f"Input {name!r} has {len(declared)} dimensions, but the given shape has {len(given)}.")
        for axis, (dim, size) in enumerate(zip(declared, given, strict=True)):
            self._unify(f"Dimension {axis} of input {name!r}", dim, size)

    def _unify(self, where: str, dim: int | _Key, size: int | str) -> None:
        size = int(size) if isinstance(size, np.integer) else size
        if isinstance(size, bool) or not isinstance(size, (int, str)) or (isinstance(size, int) and size < 0):
            raise UsageError(f"{where} is given as {size!r}, expected a size of 0 or more, or a name.")
        if isinstance(size, str) and not size.strip():
            raise UsageError(f"{where} is given an empty name.")
        found, wanted = self.resolve(dim), self.resolve(size)
        if found == wanted:
            return
        if isinstance(found, int):
            if isinstance(wanted, int):
                raise UsageError(f"{where} is fixed at {found}, but {wanted} is asked for.")
            if isinstance(dim, int):
                raise UsageError(f"{where} is fixed at {found} in the model and cannot become {wanted!r}.")
            self._bound[wanted] = found
        else:
            self._bound[found] = wanted


class _Names:
    """What the open dimensions are called, each by a name of its own."""

    def __init__(self) -> None:
        self._names: dict[_Key, str] = {}

    def of(self, dim: _Key) -> str:
        if dim not in self._names:
            stem = dim_name(dim if isinstance(dim, str) else f"{dim.input}_dim{dim.axis}")
            used, name, count = set(self._names.values()), stem, 1
            while name in used:
                count += 1
                name = f"{stem}_{count}"
            self._names[dim] = name
        return self._names[dim]
