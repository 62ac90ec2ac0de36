"""A legalised Relax module as a `Model`: every call becomes loops over flat arrays, with what follows a sum fused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import TensorLoad, prim

from ....compiler.errors import KompiloError, TargetError
from ...shared.access import Views, flat_index
from ...shared.inline import inline_maps
from ...shared.loops import as_int, i64
from ...shared.program import Axis, Stage, loads, map_loads, read_program, substitute, uses, with_value
from ..kernel.affine import Affine, var
from ..kernel.ir import Array, Expr, Load, Loop, Op, Ref
from ..kernel.types import Scalar, scalar
from .body import TOTAL, Body, Function, Model, Tensor, Value, rewrite, with_arrays
from .expressions import Translator

_COMBINERS = {"Add": "add", "Max": "max", "Min": "min"}
# Operations that make no new values.
_VIEWS = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")
_MAX_SPLITS = 16
# More multiplications than this behind a sum are a stage of their own, with lanes of its own.
_FINISH_PRODUCTS = 3


def read_model(mod: tvm.ir.IRModule, weights: Sequence[np.ndarray]) -> Model:
    """The model of a module after all passes; `weights` are the values of `main`'s trailing parameters.

    KompiloError names the operator and what it has that FPGA kernels have not.
    """
    return _Reader(mod, weights).read()


class _Reader:
    def __init__(self, mod: tvm.ir.IRModule, weights: Sequence[np.ndarray]):
        self.mod, self.main = mod, mod["main"]
        self.tensors: dict[str, Tensor] = {}
        self.names: dict[relax.Var, tuple[str, ...]] = {}
        self.bodies: list[Body] = []
        self.functions: dict[str, tuple[Body, ...]] = {}
        count = len(self.main.params) - len(weights)
        for param in self.main.params[:count]:
            _check_fixed(param)
        for k, param in enumerate(self.main.params):
            weight = weights[k - count] if k >= count else None
            self.names[param] = (self._tensor(param.ty, "in" if weight is None else "weight", weight),)
        self.inputs = tuple(self.names[p][0] for p in self.main.params[:count])

    def read(self) -> Model:
        for block in self.main.body.blocks:
            for binding in block.bindings:
                self.names[binding.var] = self._value(binding.value)
        result = self.main.body.body
        fields = list(result.fields) if isinstance(result, relax.Tuple) else [result]
        outputs = self._apart([name for field in fields for name in self._value(field)])
        for name in outputs:
            self.tensors[name] = replace(self.tensors[name], role="out")
        roles = {name: t.role for name, t in self.tensors.items()}
        bodies = tuple(with_arrays(b, lambda a: replace(a, role=_kernel_role(roles[a.name]))) for b in self.bodies)
        return Model(self.tensors, bodies, self.inputs, outputs)

    def _apart(self, outputs: Sequence[str]) -> tuple[str, ...]:
        """`outputs` with copies of those that no operator computes (inputs, constants) and of repeated ones."""
        made: list[str] = []
        for name in outputs:
            if name in made or self.tensors[name].role != "local":
                name = self._copy(self.tensors[name])
            made.append(name)
        return tuple(made)

    def _copy(self, tensor: Tensor) -> str:
        """The name of a new tensor that an operator of its own fills with `tensor`."""
        name = f"t{len(self.tensors)}"
        self.tensors[name] = Tensor(name, tensor.shape, tensor.dtype, "local")
        source, target = (Array(n, (tensor.size,), tensor.dtype, "bram", (1,)) for n in (tensor.name, name))
        axes = (Loop("a0", tensor.size),) if tensor.size > 1 else ()
        index = var("a0") if axes else Affine()
        value = Value(Load(source, (index,)))
        self.bodies.append(Body(f"s{len(self.bodies)}_copy", "copy", axes, (), target, index, value))
        return name

    def _tensor(self, ty: relax.TensorType, role: str, data: np.ndarray | None = None) -> str:
        name = f"{ {'in': 'x', 'weight': 'w'}.get(role, 't') }{len(self.tensors)}"
        shape = tuple(int(d) for d in ty.shape if isinstance(d, int | tirx.IntImm))
        if len(shape) != len(ty.shape):
            raise TargetError(
                f"target fpga: expected fixed sizes, found an operator's result of {_sizes(ty)}.",
                "fix all shapes of the model's inputs: --input NAME:SHAPE.",
            )
        self.tensors[name] = Tensor(name, shape, _scalar(ty.dtype), role, data)
        return name

    def _value(self, value: relax.Expr) -> tuple[str, ...]:
        if isinstance(value, relax.Var):
            return self.names[value]
        if isinstance(value, relax.Tuple):
            return tuple(name for f in value.fields for name in self._value(f))
        if isinstance(value, relax.TupleGetItem):
            return (self._value(value.tuple_value)[value.index],)
        name = getattr(getattr(value, "op", None), "name", type(value).__name__)
        if name in _VIEWS:
            return self._value(value.args[0])
        if name != "relax.call_tir":
            raise KompiloError(f"target fpga: expected operators that become loops of fixed sizes, found {name}.")
        return self._call(value)

    def _call(self, call: tvm.ir.Call) -> tuple[str, ...]:
        function = call.args[0].name_hint
        if function not in self.functions:
            self.functions[function] = FunctionReader(self.mod[call.args[0]], function).read()
        operands = [name for field in call.args[1].fields for name in self._value(field)]
        types = call.ty.fields if isinstance(call.ty, relax.TupleType) else [call.ty]
        results = tuple(self._tensor(t, "local") for t in types)
        names: dict[int | str, str] = dict(enumerate((*operands, *results)))
        for body in self.functions[function]:
            self._instantiate(body, names)
        return results

    def _instantiate(self, body: Body, names: dict[int | str, str]) -> None:
        """Adds `body` of a function for one call, its parameters by number, its temporaries made anew."""

        def own(array: Array) -> Array:
            key: int | str = int(array.name[1:]) if array.name[0] == "p" else array.name
            if key not in names:
                names[key] = f"t{len(self.tensors)}"
                self.tensors[names[key]] = Tensor(names[key], array.shape, array.dtype, "local")
            return replace(array, name=names[key])

        made = with_arrays(body, own)
        self.bodies.append(replace(made, name=f"s{len(self.bodies)}_{body.name}"[:40].rstrip("_")))


def _kernel_role(role: str) -> str:
    return "in" if role == "weight" else role


def _scalar(dtype: object) -> Scalar:
    """The type of a tensor; TargetError names those that hardware has not."""
    try:
        return scalar(str(dtype))
    except KompiloError:
        raise TargetError(
            f"target fpga: expected tensors of integers up to 64 bits, float16 or float32, found {dtype}."
        ) from None


def _check_fixed(param: relax.Var) -> None:
    """TargetError unless an input's sizes are all known."""
    open_ones = [as_int(d) for d in param.ty.shape if not isinstance(as_int(d), int)]
    if open_ones:
        example = "x".join(str(as_int(d)) if isinstance(as_int(d), int) else "1" for d in param.ty.shape)
        raise TargetError(
            f"target fpga: expected inputs of fixed sizes, found {param.name!r} of {_sizes(param.ty)}, whose"
            f" dimension {str(open_ones[0])!r} is open.",
            f"fix it: --input {param.name}:{example}",
        )


def _sizes(ty: relax.TensorType) -> str:
    return "x".join(str(as_int(d)) for d in ty.shape)


class FunctionReader:
    """One PrimFunc: parameters are arrays "p0", "p1", ..., temporaries "t0", ..."""

    def __init__(self, func: tirx.PrimFunc, name: str):
        self.func, self.name = func, name
        self.arrays: dict[tirx.Buffer, Array] = {}
        self.views = Views()
        params = [p for p in func.params if isinstance(p.ty, tirx.BufferType)]
        for k, buffer in enumerate(params):
            self._array(buffer, f"p{k}")

    def fail(self, expected: str, found: object) -> KompiloError:
        """The error to raise."""
        words = " ".join(str(found).split())
        return KompiloError(f"target fpga: operator {self.name}: expected {expected}, found {words[:120]}.")

    def read(self) -> tuple[Body, ...]:
        program = read_program(self.func)
        if program is None:
            raise self.fail("perfect nests of loops that store one element each", "another form of loops")
        for buffer in program.temporaries:
            self._array(buffer, f"t{len(self.arrays)}")
        try:
            return self._bodies(inline_maps(program).stages)
        except KompiloError:  # reshapes that no loops have in common with what they were merged into
            return self._bodies(program.stages)

    def _bodies(self, merged: Sequence[Stage]) -> tuple[Body, ...]:
        stages = [s for stage in merged for s in self._direct(stage)]
        bodies = []
        while stages:
            stage = stages.pop(0)
            finish = stages[0] if stages and _finishes(stages[0], stage, stages) else None
            body = self._body(stage, finish)
            if finish is not None and body is not None:
                stages.pop(0)
            bodies.append(body if body is not None else self._body(stage, None))
        return tuple(b for b in bodies if b is not None)

    def _array(self, buffer: tirx.Buffer, name: str) -> Array:
        size = 1
        for extent in buffer.shape:
            if not isinstance(as_int(extent), int):
                raise self.fail("static shapes", f"{buffer.name}{list(buffer.shape)}")
            size *= as_int(extent)
        made = Array(name, (size,), _scalar(buffer.dtype), "bram", (1,))
        self.arrays[buffer] = self.arrays[self.views.view(buffer)] = made
        return made

    def _direct(self, stage: Stage) -> list[Stage]:
        """`stage` without indices that are data: such a read becomes a sum over all rows, of which one counts."""
        indirect = [x for x in loads(stage.value) if any(loads(i) for i in x.indices)]
        if not indirect:
            return [stage]
        load = indirect[0]
        if stage.reduce or len(indirect) > 1 or sum(bool(loads(i)) for i in load.indices) > 1:
            raise self.fail("at most one index of one tensor that is data", stage.value)
        place = next(k for k, i in enumerate(load.indices) if loads(i))
        row = Axis(tirx.Var("row", "int64"), as_int(load.source.shape[place]))
        indices = [row.var if k == place else i for k, i in enumerate(load.indices)]
        zero = tirx.const(0, load.ty.dtype)
        chosen = tirx.EQ(load.indices[place].astype("int64"), row.var)
        term = tirx.Select(chosen, tirx.BufferLoad(load.source, indices), zero)
        gather = Stage(stage.buffer, stage.axes, term, (row,), "Add", zero)
        if stage.value.same_as(load):
            return [gather]
        own = tirx.decl_buffer([i64(a.extent) for a in stage.axes], load.ty.dtype, f"{stage.buffer.name}_rows")
        self._array(own, f"t{len(self.arrays)}")
        read = tirx.BufferLoad(own, [a.var for a in stage.axes])
        return [
            replace(gather, buffer=own),
            with_value(stage, map_loads(stage.value, lambda x: read if x.same_as(load) else x)),
        ]

    def _body(self, stage: Stage, finish: Stage | None) -> Body | None:
        """The body of `stage`, with `finish` behind it; None if that is too much for its lanes."""
        if stage.combine is not None and stage.combine not in _COMBINERS:
            raise self.fail(f"a reduction by {', '.join(_COMBINERS)}", stage.combine)
        position = flat_index(stage.buffer, [a.var for a in stage.axes])
        stored, values = finish.buffer if finish else stage.buffer, [stage.value]
        if finish is not None:
            own = {a.var: b.var for a, b in zip(finish.axes, stage.axes, strict=True)}
            values.append(substitute(finish.value, own))
        axes, reduce, values, position = split(
            [*stage.axes], [*stage.reduce], [self._flat(v) for v in values], position
        )
        loops = {a.var: Loop(f"a{k}", a.extent) for k, a in enumerate(axes)}
        over = {a.var: Loop(f"r{k}", a.extent) for k, a in enumerate(reduce)}
        variables = {v: var(loop.var) for v, loop in {**loops, **over}.items()}
        made = Translator(self.arrays, variables, self.fail)
        value, index = made.value(values[0], "v"), made.affine(position)
        init = Translator(self.arrays, {}, self.fail).value(stage.init, "i").expr if stage.combine else None
        last = None
        if finish is not None:
            last = Translator(self.arrays, variables, self.fail).value(values[1], "f")
            if sum(_products(e) for e in last.exprs()) > _FINISH_PRODUCTS:
                return None
            own_total = self.arrays[stage.buffer]
            last = last.map(lambda e: rewrite(e, lambda x: Ref(TOTAL, (), x.dtype) if _is(x, own_total) else None))
        combine = _COMBINERS[stage.combine] if stage.combine else None
        name = re.sub(r"\W+", "_", self.name)
        return Body(
            name, self.name, tuple(loops.values()), tuple(over.values()), self.arrays[stored], index, value, combine,
            init, last,
        )  # fmt: skip

    def _flat(self, value: tirx.Expr) -> tirx.Expr:
        """`value` with the indices of its loads as one, row by row."""
        return map_loads(value, lambda x: tirx.BufferLoad(self.views.view(x.source), [flat_index(x.source, x.indices)]))


def _is(e: Expr, array: Array) -> bool:
    return isinstance(e, Load) and e.array == array


def _products(e: Expr) -> int:
    """Multipliers of an expression, about."""
    if isinstance(e, Function):
        return 8 + sum(map(_products, e.args))
    if isinstance(e, Op):
        return (e.name == "mul" and e.dtype.is_float) + sum(map(_products, e.args))
    return 0


def _finishes(stage: Stage, before: Stage, rest: Sequence[Stage]) -> bool:
    """Whether `stage` only changes what the reduction `before` gives, element by element, and nothing else reads it."""
    if before.combine is None or stage.reduce or len(stage.axes) != len(before.axes):
        return False
    readers = [s for s in rest if any(x.source.same_as(before.buffer) for x in loads(s.value))]
    if len(readers) != 1 or readers[0] is not stage:
        return False
    if any(a.extent != b.extent for a, b in zip(stage.axes, before.axes, strict=True)):
        return False
    own = [x for x in loads(stage.value) if x.source.same_as(before.buffer)]
    return all(all(i.same_as(a.var) for i, a in zip(x.indices, stage.axes, strict=True)) for x in own)


def split(
    axes: list[Axis], reduce: list[Axis], values: list[tirx.Expr], position: tirx.Expr
) -> tuple[list[Axis], list[Axis], list[tirx.Expr], tirx.Expr]:
    """Loops that are divided by constants in indices as two loops each, so that reads become affine; without loops of
    one iteration, and with all indices simplified."""
    for group in (axes, reduce):
        for axis in [a for a in group if a.extent == 1]:
            group.remove(axis)
            values = [substitute(v, {axis.var: i64(0)}) for v in values]
            position = substitute(position, {axis.var: i64(0)})
    values, position = _unfused(axes, reduce, values, position)
    if not reduce and len(axes) > 1 and any(_has_division(v) for v in values):
        values, position = _unfused(axes, reduce, *_as_one(axes, values))
    return axes, reduce, values, position


def _unfused(
    axes: list[Axis], reduce: list[Axis], values: list[tirx.Expr], position: tirx.Expr
) -> tuple[list[tirx.Expr], tirx.Expr]:
    """Splits loops of `axes` and `reduce` (changed in place) by the constants they are divided by."""
    for _ in range(_MAX_SPLITS):
        values, position = _simplified([*axes, *reduce], values, position)
        found = next(((g, k, f) for g in (axes, reduce) for k, f in [_divided(g, values)] if f), None)
        if found is None:
            break
        group, k, factor = found
        axis = group[k]
        outer = Axis(tirx.Var(f"{axis.var.name}o", "int64"), axis.extent // factor)
        inner = Axis(tirx.Var(f"{axis.var.name}i", "int64"), factor)
        group[k : k + 1] = [outer, inner]
        at = {axis.var: outer.var * factor + inner.var}
        values, position = [substitute(v, at) for v in values], substitute(position, at)
    return values, position


def _as_one(axes: list[Axis], values: Sequence[tirx.Expr]) -> tuple[list[tirx.Expr], tirx.Expr]:
    """All loops of a map as one, which walks through its result as that lies in memory: what was reshaped across loops
    is then divided by constants of that one only."""
    whole = tirx.Var("whole", "int64")
    at, step = {}, 1
    for axis in reversed(axes):
        at[axis.var] = tirx.floormod(tirx.floordiv(whole, i64(step)), i64(axis.extent))
        step *= axis.extent
    axes[:] = [Axis(whole, step)]
    return [substitute(v, at) for v in values], whole


def _has_division(value: tirx.Expr) -> bool:
    """Whether an index or a condition divides by a constant; data that is divided counts, too."""
    found: list[bool] = []
    tvm_ffi.structural_walk(value, ((prim.FloorDiv, prim.FloorMod), lambda node: found.append(True)), order="post")
    return bool(found)


def _simplified(
    axes: Sequence[Axis], values: Sequence[tirx.Expr], position: tirx.Expr
) -> tuple[list[tirx.Expr], tirx.Expr]:
    analyzer = tvm.sym.Analyzer()
    for axis in axes:
        analyzer.bind(axis.var, tvm.ir.Range.from_min_extent(i64(0), i64(axis.extent)))

    def change(load: TensorLoad) -> tirx.Expr:
        return tirx.BufferLoad(load.source, [analyzer.simplify(load.indices[0])])

    return [map_loads(v, change) for v in values], analyzer.simplify(position)


def _divided(axes: Sequence[Axis], values: Sequence[tirx.Expr]) -> tuple[int, int]:
    """The number of an axis and the constant it is divided by, which divides its extent; (0, 0) if there is none."""
    found: list[tuple[int, int]] = []

    def visit(node: prim.FloorDiv | prim.FloorMod) -> None:
        factor = as_int(node.b)
        for k, axis in enumerate(axes):
            divides = isinstance(factor, int) and 1 < factor < axis.extent and axis.extent % factor == 0
            if divides and uses(node.a, axis.var):
                found.append((k, factor))

    for value in values:
        tvm_ffi.structural_walk(value, ((prim.FloorDiv, prim.FloorMod), visit), order="post")
    return found[0] if found else (0, 0)
