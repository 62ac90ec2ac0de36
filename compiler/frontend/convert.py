"""Walks a graph and turns each node into Relax: evaluated where its result is known, else converted or expanded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx
from onnx import NodeProto
from tvm import relax

from ..element_types import CARRIED
from ..errors import KompiloError, ModelError
from .carried import carrying
from .check_node import check_node
from .control import DecidedInRuns
from .converters.registry import Carried, Result, canonical_domain, find_converter
from .evaluate import evaluate
from .functions import LocalFunctions, bind, schema_function
from .graph_order import describe, ordered_nodes
from .loops import unroll_loop, unroll_scan
from .node import Node
from .reference import fold
from .symbols import Symbols, identifier
from .values import Value

# A function that calls itself, directly or not, is no function of ONNX.
_DEEPEST_NESTING = 64
# The opset in which converters of other domains' operators call ONNX's own, whatever the model's is.
_CALLED_OPSET = 24
_NO_FUNCTIONS = LocalFunctions(onnx.ModelProto())


class Scope:
    """Names visible to the nodes of one graph; stored tensors are decoded on first use."""

    def __init__(self, outer: Scope | None = None):
        self._outer = outer
        self._values: dict[str, Value | None] = {}
        self._stored: dict[str, Callable[[], np.ndarray]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._values or name in self._stored or (self._outer is not None and name in self._outer)

    def __getitem__(self, name: str) -> Value | None:
        if name in self._values:
            return self._values[name]
        if name in self._stored:
            self._values[name] = Value(array=self._stored[name]())
            return self._values[name]
        if self._outer is None:
            raise KeyError(name)
        return self._outer[name]

    def given(self, name: str) -> Value:
        """The tensor `name`; ModelError where it is an input that the caller of a function left out."""
        value = self[name]
        if value is None:
            raise ModelError(f"Tensor {name!r} is an output, but stands for an omitted input.")
        return value

    def __setitem__(self, name: str, value: Value | None) -> None:
        self._values[name] = value

    def store(self, name: str, decode: Callable[[], np.ndarray]) -> None:
        self._stored[name] = decode


@dataclass(frozen=True)
class Context:
    """What stays the same for all nodes of a graph."""

    bb: relax.BlockBuilder
    symbols: Symbols
    functions: LocalFunctions
    decode: Callable[[onnx.TensorProto], np.ndarray]
    opsets: Mapping[str, int]
    depth: int = 0


def convert_graph(graph: onnx.GraphProto, scope: Scope, context: Context) -> list[Value]:
    """Convert the nodes that the outputs of `graph` need; the graph's inputs are in `scope` already."""
    stored: set[str] = set()
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in stored:
            raise ModelError(
                f"Two initializers are named {tensor.name!r}." if tensor.name else "An initializer has no name."
            )
        stored.add(tensor.name)
        scope.store(tensor.name, partial(context.decode, tensor))
    if graph.sparse_initializer:
        raise ModelError(f"Initializer {graph.sparse_initializer[0].values.name!r} is sparse, which is not supported.")
    outputs = [info.name for info in graph.output]
    own = stored | {info.name for info in graph.input}
    convert_nodes(ordered_nodes(graph.node, own, outputs, scope), scope, context)
    return [scope.given(name) for name in outputs]


def convert_nodes(nodes: Iterable[NodeProto], scope: Scope, context: Context) -> None:
    """Convert `nodes` in order; their outputs are added to `scope`."""
    for proto in nodes:
        try:
            values = [scope[name] if name else None for name in proto.input]
            results = _convert_node(proto, values, scope, context)
        except KompiloError:
            raise
        except Exception as error:
            raise ModelError(f"{describe(proto)} cannot be converted: {_first_line(error)}.") from error
        for name, value in zip(proto.output, results, strict=False):
            if name:
                scope[name] = value
        missing = [n for i, n in enumerate(proto.output) if n and (i >= len(results) or results[i] is None)]
        if missing:
            raise ModelError(f"{describe(proto)}: output {missing[0]!r} is not supported.")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].rstrip('.') if lines else 'no details'}"


def _convert_node(
    proto: NodeProto, values: list[Value | None], scope: Scope, context: Context
) -> Sequence[Value | None]:
    domain = canonical_domain(proto.domain)
    local = context.functions.find(proto)
    if local is not None:
        return _expand(local, proto, values, context)
    if domain not in context.opsets:
        raise ModelError(
            f"{describe(proto)} is of domain {domain or 'ai.onnx'!r}, for which the model imports no opset."
        )
    opset = context.opsets[domain]
    check_node(proto, values, opset)
    if proto.op_type == "If" and not domain:
        return _take_branch(proto, values, scope, context)
    node = Node(proto, opset, values, context.bb, context.symbols, context.decode, partial(_convert_called, context))
    if proto.op_type in _LOOPS and not domain:
        try:
            return _LOOPS[proto.op_type](node, partial(_convert_body, node, scope, context))
        except DecidedInRuns as found:
            raise found.at(proto) from found
    folded = evaluate(node)
    if folded is None and values and all(v is None or v.array is not None for v in values):
        folded = _fold(proto, values, context.opsets)
    if folded is not None:
        return folded
    converter = find_converter(domain, proto.op_type, opset, node.is_data)
    if converter is not None:
        return _wrap(carrying(converter, domain)(node), proto, context.bb)
    body = schema_function(proto, values, opset)
    if body is not None:
        return _expand(body, proto, values, context)
    raise _unsupported(proto, opset)


def _convert_called(context: Context, proto: NodeProto, values: list[Value | None]) -> Sequence[Value | None]:
    """The results of a node of ONNX's own domain that is part of another one."""
    inside = replace(context, opsets={"": _CALLED_OPSET}, functions=_NO_FUNCTIONS, depth=context.depth + 1)
    return _convert_node(proto, values, Scope(), inside)


def _fold(proto: NodeProto, values: list[Value | None], opsets: Mapping[str, int]) -> list[Value] | None:
    arrays = fold(proto, [None if v is None else v.array for v in values], opsets)
    return None if arrays is None else [Value(array=a) for a in arrays]


def _unsupported(proto: NodeProto, opset: int) -> ModelError:
    domain = canonical_domain(proto.domain)
    known = onnx.defs.has(proto.op_type, domain) if domain else onnx.defs.has(proto.op_type)
    if known:
        return ModelError(f"{describe(proto)}: operator {proto.op_type} (opset {opset}) is not supported.")
    where = f"domain {domain!r}" if domain else "ONNX"
    return ModelError(f"{describe(proto)}: {where} has no operator {proto.op_type!r} that is known here.")


def _wrap(
    result: Result | tuple[Result, ...] | list[Result],
    proto: NodeProto,
    bb: relax.BlockBuilder,
) -> list[Value | None]:
    """What a converter returned as values; expressions are bound to variables named after the node's outputs."""
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    if len(results) == 1 and isinstance(results[0], relax.Expr):
        expr = bb.normalize(results[0])
        if isinstance(expr.ty, relax.TupleType):
            results = [relax.TupleGetItem(bb.emit(expr), i) for i in range(len(expr.ty.fields))]
    names = list(proto.output) + [""] * (len(results) - len(proto.output))
    return [_wrap_one(r, name, proto, bb) for r, name in zip(results, names, strict=False)]


def _wrap_one(result: Result | Value, name: str, proto: NodeProto, bb: relax.BlockBuilder) -> Value | None:
    if result is None or isinstance(result, Value):
        return result
    if isinstance(result, (np.ndarray, np.generic)):
        return Value(array=np.asarray(result))
    dtype = None
    if isinstance(result, Carried):
        result, dtype = result.expr, result.dtype
    if not isinstance(result, relax.Var):
        result = bb.emit(result, identifier(name) if name else "")
    if str(result.ty.dtype) in CARRIED:
        raise ModelError(f"{describe(proto)}: results of {result.ty.dtype} are not supported.")
    return Value(expr=result, dtype=dtype)


def _expand(
    function: onnx.FunctionProto,
    proto: NodeProto,
    values: Sequence[Value | None],
    context: Context,
) -> list[Value | None]:
    """Convert the nodes of a function's body in a scope of its own."""
    if context.depth >= _DEEPEST_NESTING:
        raise ModelError(f"{describe(proto)}: function {function.name!r} calls itself, or calls nest too deep.")
    body = bind(function, proto, context.opsets)
    if len(values) > len(body.inputs):
        raise ModelError(f"{describe(proto)} has {len(values)} inputs, but its function takes {len(body.inputs)}.")
    scope = Scope()
    for index, name in enumerate(body.inputs):
        scope[name] = values[index] if index < len(values) else None
    wanted = [inner for inner, outer in zip(body.outputs, proto.output, strict=False) if outer]
    nodes = ordered_nodes(body.nodes, body.inputs, wanted)
    try:
        convert_nodes(nodes, scope, replace(context, opsets=body.opsets, depth=context.depth + 1))
    except DecidedInRuns as found:
        raise found.inside(proto, "") from found
    return [scope[inner] if outer else None for inner, outer in zip(body.outputs, proto.output, strict=False)]


_LOOPS = {"Scan": unroll_scan, "Loop": unroll_loop}


def _convert_body(
    node: Node, scope: Scope, context: Context, graph: onnx.GraphProto, values: Sequence[Value]
) -> list[Value]:
    """The outputs of a loop's body for the values of its inputs."""
    if context.depth >= _DEEPEST_NESTING:
        raise node.error("graphs nest too deep")
    if len(values) != len(graph.input):
        raise node.error(f"its body takes {len(graph.input)} inputs, found {len(values)}")
    inner = Scope(scope)
    for info, value in zip(graph.input, values, strict=True):
        inner[info.name] = value
    return convert_graph(graph, inner, replace(context, depth=context.depth + 1))


def _take_branch(proto: NodeProto, values: list[Value | None], scope: Scope, context: Context) -> list[Value]:
    """`If` on a condition that is known at compile time."""
    condition = values[0].array if values and values[0] is not None else None
    if condition is None:
        reason = "its condition is data"
        raise DecidedInRuns(f"{describe(proto)}: {reason}, which is not supported here.", reason).at(proto)
    branch = "then_branch" if condition.reshape(-1)[0] else "else_branch"
    graph = next((a.g for a in proto.attribute if a.name == branch), None)
    if graph is None:
        raise ModelError(f"{describe(proto)}: attribute {branch!r} is required and was not found.")
    if context.depth >= _DEEPEST_NESTING:
        raise ModelError(f"{describe(proto)}: graphs nest too deep.")
    try:
        return convert_graph(graph, Scope(scope), replace(context, depth=context.depth + 1))
    except DecidedInRuns as found:
        raise found.inside(proto, branch) from found
