"""What `kompilo inspect MODEL.onnx` tells of a model, without compiling it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from ..errors import KompiloError, ModelError
from ..frontend.converters.registry import canonical_domain, find_converter
from ..frontend.evaluate import evaluated_operators
from ..frontend.host_import import ImportedProgram, import_program
from ..frontend.host_types import host_signature
from ..frontend.model_reader import read_model
from ..peers.fixed_model import set_input_shapes
from ..peers.sampling import assume_sizes
from ..tensor_spec import Dim, TensorSpec
from .host_view import decided_facts, host_facts

Shape = tuple[int, ...]

_EVALUATED, _HOST, _DECIDED = "at compile time", "on the host", "decided in each run"
# "If" chooses one of its graphs while the model is compiled.
_WITHOUT_CONVERTER = evaluated_operators() | {"If"}


@dataclass(frozen=True)
class OperatorUse:
    """How often an ONNX operator occurs, its FLOPs, and how it is supported: see `_support`, "on the host" or
    "decided in each run"."""

    operator: str
    count: int
    flops: int
    support: str


@dataclass(frozen=True)
class ModelFacts:
    """Facts of an ONNX model; a multiply-add counts as two FLOPs, `assumed` are sizes taken to count them.

    `outputs` are those of the artifact it would become; what the model states of them where there is a `problem`: why
    it cannot be compiled.
    """

    ir_version: int
    opsets: dict[str, int]
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    parameters: int
    parameter_bytes: int
    operators: list[OperatorUse]
    unsupported: list[str]
    flops: int
    assumed: dict[str, int]
    problem: str | None
    host_operators: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def model_facts(path: Path, shapes: Mapping[str, tuple[Dim, ...]]) -> ModelFacts:
    """Read the model at `path`; `shapes` fixes input shapes. Raises ModelError and UsageError as compiling would."""
    source = read_model(path)
    proto, graph = source.proto, source.proto.graph
    specs = host_signature(graph, shapes or None)
    fixed, assumed = assume_sizes([spec for spec in specs if spec.is_numeric])
    inferred = _inferred_shapes(proto, {s.name: s.shape for s in fixed})
    compiled, problem = _compiled(path, shapes)
    on_host = {o.operator for o in compiled.host_operators} if compiled is not None else set()
    decided = {o["operator"] for o in decided_facts(compiled.segments)} if compiled is not None else set()
    counts: Counter[str] = Counter()
    work: Counter[str] = Counter()
    support: dict[str, str] = {}
    functions = {(canonical_domain(f.domain), f.name) for f in proto.functions}
    for node in graph.node:
        name = f"{node.domain}.{node.op_type}" if canonical_domain(node.domain) else node.op_type
        counts[name] += 1
        work[name] += _node_flops(node, inferred)
        if name not in support:
            support[name] = _support(node, source.opsets, functions)
            support[name] = _HOST if name in on_host else _DECIDED if name in decided else support[name]
            if support[name] == "none" and compiled is not None:
                support[name] = _EVALUATED
    tensors = _parameters(graph)
    return ModelFacts(
        ir_version=proto.ir_version,
        opsets={d or "ai.onnx": v for d, v in source.opsets.items()},
        inputs=specs,
        outputs=[_stated_output(o) for o in graph.output] if compiled is None else list(compiled.outputs),
        parameters=sum(math.prod(t.dims) for t in tensors),
        parameter_bytes=sum(math.prod(t.dims) * _item_bytes(t) for t in tensors),
        operators=[OperatorUse(name, n, work[name], support[name]) for name, n in counts.most_common()],
        unsupported=sorted(name for name, how in support.items() if how == "none"),
        flops=work.total(),
        assumed=assumed,
        problem=problem,
        host_operators=[] if compiled is None else host_facts(compiled.segments),
    )


def _compiled(path: Path, shapes: Mapping[str, tuple[Dim, ...]]) -> tuple[ImportedProgram | None, str | None]:
    """The model as an artifact would have it; None, and why, if it cannot be compiled."""
    try:
        return import_program(path, shapes or None), None
    except KompiloError as error:
        return None, error.message


def _support(node: onnx.NodeProto, opsets: Mapping[str, int], functions: set[tuple[str, str]]) -> str:
    """How the frontend would treat `node`: "direct", "at compile time", "by its function body" or "none"."""
    domain = canonical_domain(node.domain)
    opset = opsets.get(domain, 1)
    if (domain, node.op_type) in functions:
        return "by its function body"
    if find_converter(domain, node.op_type, opset) is not None:
        return "direct"
    if not domain and node.op_type in _WITHOUT_CONVERTER:
        return _EVALUATED
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return "none"
    return "by its function body" if schema.has_function or schema.has_context_dependent_function else "none"


def _parameters(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    constants = [a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"]
    return [*graph.initializer, *constants]


def _item_bytes(tensor: onnx.TensorProto) -> int:
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"initializer {tensor.name!r} has the unknown data type {tensor.data_type}.") from None


def _inferred_shapes(proto: onnx.ModelProto, inputs: Mapping[str, Sequence[Dim]]) -> dict[str, Shape]:
    """Shapes of all values that ONNX's own inference settles with the input shapes `inputs`."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    set_input_shapes(bare, inputs)
    with suppress(Exception):  # too large for protobuf, or a node the inference rejects: count what is known without it
        bare = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    graph = bare.graph
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
    return shapes


def _node_flops(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """FLOPs of a node done directly; 0 for operators that are not counted and for unknown shapes."""
    operands = [shapes.get(name) for name in (*node.input[:2], node.output[0])] if len(node.input) > 1 else []
    if node.op_type not in _FLOPS or len(operands) < 3 or None in operands:
        return 0
    return _FLOPS[node.op_type](node, *operands)  # type: ignore[arg-type]


def _conv(node: onnx.NodeProto, data: Shape, weight: Shape, result: Shape) -> int:
    return 2 * math.prod(result) * math.prod(weight[1:])


def _conv_transpose(node: onnx.NodeProto, data: Shape, weight: Shape, result: Shape) -> int:
    return 2 * math.prod(data) * math.prod(weight[1:])


def _matmul(node: onnx.NodeProto, data: Shape, weight: Shape, result: Shape) -> int:
    return 2 * math.prod(result) * data[-1]


def _gemm(node: onnx.NodeProto, data: Shape, weight: Shape, result: Shape) -> int:
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return 2 * math.prod(result) * (data[0] if transposed else data[-1])


_FLOPS = {"Conv": _conv, "ConvTranspose": _conv_transpose, "MatMul": _matmul, "Gemm": _gemm}


def _stated_output(value: onnx.ValueInfoProto) -> TensorSpec:
    """Name, shape and dtype of an output as the model states them; "?" for sizes that it does not state."""
    kind = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]
    dtype = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
    shape = tuple(dims) if kind.HasField("shape") else ("?",)
    return TensorSpec(value.name, shape, {"float": "float32", "double": "float64"}.get(dtype, dtype))
