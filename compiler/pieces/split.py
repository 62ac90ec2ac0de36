"""Cut an imported model into pieces that are compiled by themselves, each for every target.

    main(x) { a = conv(x); b = relu(a); c = pool(b); y = matmul(c) }
->  piece 0: (x) -> b        piece 1: (b) -> y

The pieces are groups of units (see `units`), joined until there are few enough: branches become pieces beside each
other, so that devices may run them at the same time. Images cross cuts channels-last, as kernels have them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import tvm
from tvm import relax

from ..errors import UsageError
from ..frontend.host_import import ImportedProgram
from ..frontend.importer import ImportedModel
from ..passes.graph import Graph, Node, typed, variables
from ..passes.pipeline import simplify
from ..passes.tensors import dtype, known_shape, static_shape
from ..plan.grouping import group
from ..tensor_spec import TensorSpec
from .units import Units, is_static

_CHANNELS_LAST, _CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_SPATIAL = ("nn.conv2d", "nn.max_pool2d", "nn.avg_pool2d", "nn.conv2d_transpose", "image.resize2d")
Readers = dict[relax.Var, set[int]]
_FIX = "give every input a fixed shape: --input NAME:1x3x224x224."


def split_program(program: ImportedProgram, limit: int) -> ImportedProgram:
    """The same model in `limit` pieces at most (fewer where it has fewer operators to cut between).

    Raises:
        UsageError: `limit` is no positive integer; the model has operators that are not compiled, or open dimensions,
            or cannot be cut (an output that is an input).
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise UsageError(f"pieces: expected an integer of at least 1, found {limit!r}.")
    if program.segments:
        raise UsageError(f"pieces: expected a model that is compiled as a whole, found {_first_outside(program)}.")
    model = program.compiled[0]
    return replace(program, parts=tuple(_Splitter(model).parts(limit)))


def _first_outside(program: ImportedProgram) -> str:
    return str(next(iter(program.host_operators), "control flow that the loader decides"))


@dataclass(frozen=True)
class _Crossing:
    """A tensor between pieces: its name in the artifact, and whether it crosses channels-last."""

    spec: TensorSpec
    turned: bool


class _Splitter:
    """Splits one imported model."""

    def __init__(self, model: ImportedModel) -> None:
        self.model = model
        mod = simplify(model.mod)
        graph = Graph.of(mod)
        if graph is None or not graph.nodes:
            raise UsageError("pieces: expected a model with operators to cut between, found none.")
        self.mod, self.graph = mod, graph
        body = mod["main"].body.body
        self.results = [*body.fields] if isinstance(body, relax.Tuple) else [body]
        self.units = Units(graph)
        self.has_images = any(node.op in _SPATIAL for node in graph.nodes)
        if not is_static(graph, self.units.of):
            raise UsageError("pieces: expected tensors of fixed sizes, found open dimensions.", _FIX)
        if any(not isinstance(r, relax.Var) or r not in self.units.of for r in self.results):
            raise UsageError("pieces: expected outputs that operators compute, found an input or a constant.")
        self.names = dict(zip(graph.params, model.inputs, strict=True))
        self.crossings: dict[relax.Var, _Crossing] = {}

    def parts(self, limit: int) -> list[ImportedModel]:
        """The pieces, in an order in which they can run; each with the inputs and outputs of its segment."""
        grouped = group(self.units.work(self.results), limit)
        piece_of = {unit: k for k, members in enumerate(grouped.groups) for unit in members}
        places = {var: piece_of[unit] for var, unit in self.units.of.items()}
        read_in: Readers = {}
        for var, readers in self.units.readers().items():
            read_in[var] = {piece_of[unit] for unit in readers}
        for var, place in places.items():
            if read_in.get(var, set()) - {place}:
                self._cross(var)
        return [self._part(k, places, read_in) for k in range(len(grouped.groups))]

    def _cross(self, var: relax.Var) -> None:
        shape = known_shape(var)
        turned = len(shape) == 4 and self.has_images
        order = _CHANNELS_LAST if turned else range(len(shape))
        taken = {s.name for s in (*self.model.inputs, *self.model.outputs)}
        name = f"cut{len(self.crossings)}"
        while name in taken:
            name = f"_{name}"
        self.crossings[var] = _Crossing(TensorSpec(name, tuple(int(shape[d]) for d in order), dtype(var)), turned)

    def _part(
        self, piece: int, places: Mapping[relax.Var, int], read_in: Mapping[relax.Var, set[int]]
    ) -> ImportedModel:
        nodes = [n for n in self.graph.nodes if places.get(n.var) == piece or n.var in self.units.tuples]
        own = {n.var for n in nodes}
        read = [v for v in (*self.graph.params, *places) if v not in own and piece in read_in.get(v, ())]
        made = [v for v in places if places[v] == piece]
        crossing = [v for v in made if v in self.crossings]
        results = [(spec, var) for spec, var in zip(self.model.outputs, self.results, strict=True) if var in own]
        inputs = tuple(self.names[v] if v in self.names else self.crossings[v].spec for v in read)
        outputs = (*(self.crossings[v].spec for v in crossing), *(spec for spec, _ in results))
        builder = _Builder(self.crossings, read, inputs)
        for node in self._used(nodes, [*crossing, *(var for _, var in results)]):
            builder.add(node)
        mod = builder.module(self.mod, crossing, [var for _, var in results])
        return ImportedModel(mod, inputs, outputs, self.model.provenance)

    def _used(self, nodes: Sequence[Node], results: Sequence[relax.Var]) -> list[Node]:
        """Of `nodes` those that `results` need: of tuples only those that the piece reads."""
        live = set(results)
        kept = []
        for node in reversed(nodes):
            if node.var in live or node.op == "match_cast":
                kept.append(node)
                live.update(variables(node.args))
        return kept[::-1]


class _Builder:
    """Makes the function of a piece."""

    def __init__(
        self, crossings: Mapping[relax.Var, _Crossing], read: Sequence[relax.Var], inputs: Sequence[TensorSpec]
    ) -> None:
        self.crossings = crossings
        self.names: dict[relax.Var, relax.Expr] = {}
        self.bindings: list[relax.Binding] = []
        self.params: list[relax.Var] = []
        for var, spec in zip(read, inputs, strict=True):
            param = relax.Var(f"x{len(self.params)}", relax.TensorType(spec.shape, spec.dtype))
            self.params.append(param)
            turned = var in crossings and crossings[var].turned
            self.names[var] = self._permuted(param, _CHANNELS_FIRST, var.ty) if turned else param

    def add(self, node: Node) -> None:
        """A node of the model, reading what the piece has in the place of other pieces' variables."""
        node = node.renamed(self.names)
        var = relax.DataflowVar(node.var.name, node.var.ty)
        self.names[node.var] = var
        value = node.value
        self.bindings.append(
            relax.VarBinding(var, value) if node.cast is None else relax.MatchCast(var, value, node.cast)
        )

    def module(self, mod: tvm.IRModule, crossing: Sequence[relax.Var], results: Sequence[relax.Var]) -> tvm.IRModule:
        """A module whose `main` returns what crosses a cut and then results of the model; the rest is that of `mod`."""
        values = [self._outgoing(var) for var in crossing] + [self.names[var] for var in results]
        outputs = []
        for k, value in enumerate(values):
            output = relax.Var(f"out{k}", value.ty)
            self.bindings.append(relax.VarBinding(output, value))
            outputs.append(output)
        result = outputs[0] if len(outputs) == 1 else relax.Tuple(outputs)
        ty = outputs[0].ty if len(outputs) == 1 else relax.TupleType([output.ty for output in outputs])
        body = typed(relax.SeqExpr([relax.DataflowBlock(self.bindings)], result), ty)
        main = mod["main"]
        function = relax.Function(self.params, body, ty, True, main.attrs)
        others = {gvar: func for gvar, func in mod.functions_items() if func is not main and gvar.name_hint != "main"}
        return tvm.IRModule({tvm.ir.GlobalVar("main"): function, **others})

    def _outgoing(self, var: relax.Var) -> relax.Expr:
        value = self.names[var]
        if not self.crossings[var].turned:
            return value
        shape = static_shape(var)
        assert shape is not None, "pieces are cut where all sizes are fixed"
        ty = relax.TensorType([shape[d] for d in _CHANNELS_LAST], dtype(var))
        return self._permuted(value, _CHANNELS_LAST, ty)

    def _permuted(self, value: relax.Expr, order: Sequence[int], ty: tvm.ir.Type) -> relax.Var:
        var = relax.DataflowVar(f"turned{len(self.bindings)}", ty)
        call = typed(relax.op.permute_dims(value, list(order)), ty)
        self.bindings.append(relax.VarBinding(var, call))
        return var
