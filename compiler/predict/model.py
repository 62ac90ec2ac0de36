"""The work of a model: its operators as the passes fuse them for a target, without making code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import tvm
from tvm import relax, tirx

from ..frontend.host_import import import_program
from ..model_source import resolve, stem
from ..passes.graph import Graph, Node, variables
from ..passes.pipeline import run_phases
from ..plan.work import INPUT, Value, WorkGraph, WorkNode
from ..schedule.flops import peak_dtype, tensor_bytes
from ..schedule.op_spec import OpSpec, TensorType
from ..schedule.selection import Selector
from ..schedule.target import Target
from ..tune.advisors import default_advisors
from ..tune.library import Records
from .sizes import check_no_host, moved, unsized

if TYPE_CHECKING:
    from ..driver import Model

# Bindings whose value lies in the memory of their operand.
_VIEWS = ("reshape", "get_item", "match_cast", "alias")


@dataclass(frozen=True)
class ModelWork:
    """A graph, and the OpSpec of each operator that has one, by its text."""

    graph: WorkGraph
    ops: dict[str, OpSpec]


def work_of_model(
    model: Model,
    target: Target,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    precision: str = "fp32",
    records: Records = None,
) -> ModelWork:
    """The operators of `model` as `target` fuses them; arguments as for `kompilo.compile`.

    Raises ModelError and InputError as that does, UsageError for sizes that only runs tell and operators on the host.
    """
    selector = Selector(target, default_advisors(target, records), precision)
    program = import_program(resolve(model), inputs)
    check_no_host(program.segments)
    mod = run_phases(program.compiled[0].mod, target, stop_after="legalize", selector=selector)
    ops = {str(op): op for op in selector.considered}
    name = stem(model) if isinstance(model, str) else "the model"
    return ModelWork(_Reader(mod, ops, name).graph(), ops)


@dataclass
class _Tensor:
    producer: int
    size: float
    dtype: str
    consumers: list[int] = field(default_factory=list)
    is_result: bool = False


class _Reader:
    """Reads main's dataflow block."""

    def __init__(self, mod: tvm.IRModule, ops: Mapping[str, OpSpec], name: str):
        self.block = Graph.of(mod)
        self.results = list(variables((mod["main"].body.body,)))
        self.ops, self.name = ops, name
        self.nodes: list[WorkNode] = []
        self.tensors: list[_Tensor] = []
        self.places: dict[relax.Var, list[_Tensor]] = {}

    def graph(self) -> WorkGraph:
        """The graph of all bindings."""
        if self.block is not None:
            for param in self.block.params:
                self.places[param] = self._tensors(INPUT, param)
            for node in self.block.nodes:
                self._read(node)
            for tensor in (t for var in self.results for t in self.places.get(var, [])):
                tensor.is_result = True
        values = tuple(Value(t.producer, t.size, tuple(t.consumers), t.dtype, t.is_result) for t in self.tensors)
        return WorkGraph(self.name, tuple(self.nodes), values)

    def _read(self, node: Node) -> None:
        if node.op in _VIEWS or node.op == "tuple":
            of_all = [t for v in variables(node.args) for t in self.places.get(v, [])]
            index = node.value.index if node.op == "get_item" else None
            self.places[node.var] = of_all if index is None else of_all[index : index + 1]
        else:
            self._kernel(node)

    def _kernel(self, node: Node) -> None:
        """A call that computes."""
        number = len(self.nodes)
        args = node.args[1:] if node.op == "call_tir" else node.args
        operands = [t for v in dict.fromkeys(variables(args)) for t in self.places.get(v, [])]
        weights = [_bytes_of(c.ty, self.name) for c in _constants(args)]
        results = self._tensors(number, node.var)
        for tensor in operands:
            tensor.consumers.append(number)
        made = [t.size for t in results]
        func = self.block.function(node.args[0]) if self.block is not None and node.op == "call_tir" else None
        name = (func and node.args[0].name_hint) or node.op
        told = func.attrs if func is not None and func.attrs is not None else {}
        spec = str(told.get("kompilo.op", ""))
        op = self.ops.get(spec)
        counted = int(told.get("kompilo.flops", 0))
        # Of kernels without an anchor: an operation for each element read or written, whichever are more.
        flops = counted or max(sum(t.size for t in operands), sum(made)) / 4
        self.nodes.append(
            WorkNode(
                name=name,
                kind=str(told.get("kompilo.kind", "other")),
                flops=flops,
                moved_bytes=moved(name, [t.size for t in operands], weights, made),
                weight_bytes=sum(weights),
                dtype=peak_dtype(op) if op is not None else "float32",
                spec=spec,
            )
        )
        self.places[node.var] = results

    def _tensors(self, producer: int, var: relax.Var) -> list[_Tensor]:
        fields = list(var.ty.fields) if isinstance(var.ty, relax.TupleType) else [var.ty]
        found = [
            _Tensor(producer, _bytes_of(ty, var.name), str(ty.dtype))
            for ty in fields
            if isinstance(ty, relax.TensorType)
        ]
        self.tensors += found
        return found


def _bytes_of(ty: Any, name: str) -> float:
    if ty.shape is None or not all(isinstance(d, tirx.IntImm | int) for d in ty.shape):
        dims = "?" if ty.shape is None else ", ".join(str(d) for d in ty.shape)
        raise unsized(name, f"{ty.dtype}[{dims}]")
    return float(tensor_bytes(TensorType(tuple(int(d) for d in ty.shape), str(ty.dtype))))


def _constants(args: Sequence[Any]) -> list[Any]:
    found = []
    for arg in args:
        if isinstance(arg, tvm.ir.GenericConst):
            found.append(arg)
        elif isinstance(arg, tvm.ir.Tuple):
            found += _constants(list(arg.fields))
    return found
