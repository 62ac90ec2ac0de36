"""`If` and `Loop` on data -> programs of their graphs, between which the loader decides in each run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import NodeProto, TypeProto, numpy_helper

from ..errors import ModelError
from ..segments import Control, ControlGraph, HostOperator, Segment, outermost
from ..tensor_spec import ANY_SHAPE, Dim, TensorSpec
from .graph_order import describe, reads
from .host_types import value_info

if TYPE_CHECKING:
    from .host_import import ImportedProgram
    from .importer import ImportedModel

    Part = ImportedModel | Segment


def shifted(part: Part, count: int) -> Part:
    """The part of a program in front of which `count` other parts come to stand."""
    control = part.control if isinstance(part, Segment) else None
    if control is None or not isinstance(part, Segment):
        return part
    graphs = tuple(replace(g, segments=tuple(number + count for number in g.segments)) for g in control.graphs)
    return replace(part, control=replace(control, graphs=graphs))


@dataclass
class ControlImport:
    """One node on its way.

    Attributes:
        node: the `If` or `Loop`.
        shared: constants, and arithmetic on sizes, that its graphs read.
        inputs: the specs of what it reads, itself or in its graphs.
        types: of all values around it.
        operator: the node, and why it is not compiled.
        split: a graph as a program, ModelError where that is not possible; adds the initializers around the graph.
    """

    node: NodeProto
    shared: Sequence[NodeProto]
    inputs: Sequence[TensorSpec]
    types: Mapping[str, TypeProto]
    operator: HostOperator
    split: Callable[[onnx.GraphProto], ImportedProgram]

    def __post_init__(self) -> None:
        self._known = {spec.name: spec for spec in self.inputs}
        self._parts: list[Part] = []

    def parts(self) -> list[Part]:
        """The parts of the graphs, then the segment of the node; numbers count from the first of them.

        Raises:
            ModelError: a graph cannot be compiled, or its results are of several types.
        """
        control, specs = self._loop() if self.node.op_type == "Loop" else self._branches()
        outputs = tuple(spec for spec in specs if spec.name)
        return [*self._parts, Segment(tuple(self.inputs), outputs, control=control)]

    def _branches(self) -> tuple[Control, list[TensorSpec]]:
        wanted = [index for index, name in enumerate(self.node.output) if name]
        graphs, found = [], []
        for name in ("then_branch", "else_branch"):
            branch = self._graph(name)
            if len(branch.output) != len(self.node.output):
                raise self._error(f"{name} has {len(branch.output)} outputs, expected {len(self.node.output)}")
            graph, specs = self._program(branch, [branch.output[i].name for i in wanted], {})
            graphs.append(graph)
            found.append(specs)
        names = tuple(self.node.output[i] for i in wanted)
        specs = [self._merged(name, a, b) for name, a, b in zip(names, *found, strict=True)]
        return Control(self.operator, tuple(graphs), names, condition=self._input(0, "condition")), specs

    def _loop(self) -> tuple[Control, list[TensorSpec]]:
        """The body is compiled for sizes that hold in all iterations: those that one changes stay open."""
        body = self._graph("body")
        first = [self._input(i, "initial value") for i in range(2, len(self.node.input))]
        if len(body.input) != len(first) + 2 or len(body.output) < len(first) + 1:
            raise self._error(
                f"its body has {len(body.input)} inputs and {len(body.output)} outputs for {len(first)} values"
            )
        excess = next(filter(None, self.node.output[len(body.output) - 1 :]), None)
        if excess is not None:
            raise self._error(f"output {excess!r} is beyond the {len(body.output) - 1} that its body gives")
        step, going, *carried = (info.name for info in body.input)
        rows = [i for i in range(len(first) + 1, len(body.output)) if self._output(i - 1)]
        wanted = [body.output[i].name for i in (*range(len(first) + 1), *rows)]
        body = _with_constant(body, going, np.array(True))
        specs = [replace(self._known[name], name=inner) for name, inner in zip(first, carried, strict=True)]
        start = len(self._parts)
        while True:
            own = {spec.name: spec for spec in (TensorSpec(step, (), "int64"), *specs)}
            graph, results = self._program(body, wanted, own)
            merged = [self._merged(s.name, s, r) for s, r in zip(specs, results[1:], strict=False)]
            if any(spec.shape == ANY_SHAPE for spec in merged):
                raise self._error("the number of dimensions of a value differs from one iteration to the next")
            if merged == specs:
                break
            specs = merged
            del self._parts[start:]
        names = [self._output(i) for i in range(len(first))] + [self._output(i - 1) for i in rows]
        outputs = [*specs, *map(_rows, results[1 + len(first) :])]
        limit, condition = self._optional(0), self._optional(1)
        control = Control(
            self.operator, (graph,), tuple(names), condition, limit, step, tuple(first), tuple(carried)
        )  # fmt: skip
        return control, [self._outside(name, spec) for name, spec in zip(names, outputs, strict=True)]

    def _program(
        self, graph: onnx.GraphProto, outputs: Sequence[str], own: Mapping[str, TensorSpec]
    ) -> tuple[ControlGraph, list[TensorSpec]]:
        """The graph's segments, which become parts, and the specs of `outputs`; `own` are its inputs."""
        known = {**self._known, **own}
        made = {name for node in (*self.shared, *graph.node) for name in node.output}
        made |= {tensor.name for tensor in graph.initializer}
        program = onnx.GraphProto(name=graph.name or self.operator.operator)
        program.node.extend([*self.shared, *graph.node])
        program.initializer.extend(graph.initializer)
        program.sparse_initializer.extend(graph.sparse_initializer)
        read = dict.fromkeys(name for node in program.node for name in reads(node))
        program.input.extend(self._info(known[name]) for name in read if name in known and name not in made)
        results = {name: known[name] for name in outputs if name in known and name not in made}
        computed = [name for name in dict.fromkeys(outputs) if name not in results]
        program.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
        numbers: list[int] = []
        if computed:
            base, parts = len(self._parts), self.split(program)
            self._parts += [shifted(part, base) for part in parts.parts]
            controls = [part.control if isinstance(part, Segment) else None for part in parts.parts]
            numbers = [number + base for number in outermost(controls)]
            results |= {spec.name: spec for spec in parts.outputs}
        return ControlGraph(tuple(numbers), tuple(outputs)), [results[name] for name in outputs]

    def _info(self, spec: TensorSpec) -> onnx.ValueInfoProto:
        if spec.is_numeric or spec.name not in self.types:
            return value_info(spec)
        return onnx.ValueInfoProto(name=spec.name, type=self.types[spec.name])

    def _merged(self, name: str, one: TensorSpec, other: TensorSpec) -> TensorSpec:
        """What holds for both, as the spec of `name`."""
        if one.dtype != other.dtype:
            raise self._error(f"{name!r} would be {one.dtype} or {other.dtype}")
        if len(one.shape) != len(other.shape) or ANY_SHAPE in (one.shape, other.shape):
            return TensorSpec(name, ANY_SHAPE, one.dtype)
        dims = [a if a == b else "" for a, b in zip(one.shape, other.shape, strict=True)]
        return self._outside(name, TensorSpec(name, tuple(dims), one.dtype))

    def _outside(self, name: str, spec: TensorSpec) -> TensorSpec:
        """The spec with names of sizes that are known around the node, and fresh ones for others."""
        if spec.shape == ANY_SHAPE:
            return replace(spec, name=name)
        around = {dim for known in self.inputs for dim in known.shape}
        dims: list[Dim] = [
            dim if isinstance(dim, int) or dim in around else f"{name}_dim{axis}" for axis, dim in enumerate(spec.shape)
        ]
        return TensorSpec(name, tuple(dims), spec.dtype)

    def _graph(self, name: str) -> onnx.GraphProto:
        found = next((a.g for a in self.node.attribute if a.name == name and a.HasField("g")), None)
        if found is None:
            raise self._error(f"attribute {name!r} is required and was not found")
        return found

    def _optional(self, index: int) -> str | None:
        return (self.node.input[index] or None) if index < len(self.node.input) else None

    def _input(self, index: int, what: str) -> str:
        name = self._optional(index)
        if name is None:
            raise self._error(f"input {index}, its {what}, is required and was not found")
        return name

    def _output(self, index: int) -> str:
        return self.node.output[index] if index < len(self.node.output) else ""

    def _error(self, reason: str) -> ModelError:
        return ModelError(f"{describe(self.node)}: {reason}.")


def _with_constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> onnx.GraphProto:
    """The graph with `value` for its input `name`."""
    result = onnx.GraphProto()
    result.CopyFrom(graph)
    result.initializer.append(numpy_helper.from_array(value, name))
    return result


def _rows(row: TensorSpec) -> TensorSpec:
    """The spec of many rows."""
    return row if row.shape == ANY_SHAPE else replace(row, shape=("", *row.shape))
