"""Reads a PrimFunc made of perfect loop nests (what TE and FuseTIR produce) as a list of stages.

A stage computes one buffer, element by element: `buffer[axes] = value`, or for a reduction
`buffer[axes] = combine over reduce of value`. Everything the generic rules do is a choice of loops around such values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import tvm_ffi
from tvm import ir, sym, tirx
from tvm.ir import TensorLoad, prim
from tvm.s_tir import SBlock, SBlockRealize

from ...compiler.schedule import vector_math
from .loops import Index, as_int, i64


@dataclass(frozen=True, eq=False)
class Axis:
    """A loop of a stage."""

    var: tirx.Var
    extent: Index


@dataclass(frozen=True, eq=False)
class Stage:
    """`combine` is a key of COMBINERS for a reduction over `reduce`, None for a plain map.

    `flat_copy` marks a reshape whose indices divide by unknown sizes: all it does is copy memory as it lies.
    """

    buffer: tirx.Buffer
    axes: tuple[Axis, ...]
    value: tirx.Expr
    reduce: tuple[Axis, ...] = ()
    combine: str | None = None
    init: tirx.Expr | None = None
    flat_copy: bool = False

    @property
    def all_axes(self) -> tuple[Axis, ...]:
        """Spatial and reduction axes."""
        return (*self.axes, *self.reduce)


@dataclass(frozen=True, eq=False)
class Program:
    """The stages of a function in order; `temporaries` are the buffers that are not parameters."""

    func: tirx.PrimFunc
    stages: tuple[Stage, ...]
    temporaries: frozenset[tirx.Buffer]


COMBINERS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b,
    "Mul": lambda a, b: a * b,
    "Max": tirx.max,
    "Min": tirx.min,
    "And": tirx.all,
    "Or": tirx.any,
}
# Reductions that may start from any value without counting it twice; the others only from their neutral element.
_NEUTRAL = {"Add": 0.0, "Mul": 1.0}
# What TVM starts float maxima and minima from, which hides infinities, and what they start from here.
_EXTREMES = {"Max": (tirx.min_value, -math.inf), "Min": (tirx.max_value, math.inf)}


def read_program(func: tirx.PrimFunc) -> Program | None:
    """The stages of `func`, or None if it is anything but perfect nests of one store each."""
    root = func.body
    if not isinstance(root, SBlockRealize) or root.block.match_buffers or root.block.init is not None:
        return None
    body = root.block.body
    stages = []
    for statement in body.seq if isinstance(body, tirx.SeqStmt) else [body]:
        stage = _read_stage(statement)
        if stage is None:
            return None
        stages.append(stage)
    temporaries = frozenset(root.block.alloc_buffers)
    if any(
        not _plain(b) for b in (*(p for p in func.params if isinstance(p.ty, tirx.BufferType)), *temporaries)
    ) or not _each_written_once(stages):
        return None
    return Program(func, tuple(stages), temporaries)


def loads(expr: tirx.Expr) -> list[TensorLoad]:
    """All loads in `expr`, also those inside indices; each occurrence once."""
    found: list[TensorLoad] = []
    tvm_ffi.structural_walk(expr, (TensorLoad, found.append), order="post")
    return found


def map_loads(expr: tirx.Expr, change: Callable[[TensorLoad], tirx.Expr]) -> tirx.Expr:
    """`expr` with every load replaced by `change(load)`, innermost first."""
    return tvm_ffi.structural_map(expr, (TensorLoad, change), order="post")


def substitute(expr: tirx.Expr, values: dict[tirx.Var, tirx.Expr]) -> tirx.Expr:
    """`expr` with variables replaced."""
    return tvm_ffi.structural_map(expr, (ir.Var, lambda v: values.get(v, v)), order="post") if values else expr


def _plain(buffer: tirx.Buffer) -> bool:
    offset = as_int(buffer.elem_offset) if buffer.elem_offset is not None else 0
    return not buffer.strides and (not isinstance(offset, int) or offset == 0)


def _each_written_once(stages: list[Stage]) -> bool:
    written: set[tirx.Buffer] = set()
    for stage in stages:
        if stage.buffer in written or any(load.source in (stage.buffer,) for load in loads(stage.value)):
            return False
        written.add(stage.buffer)
    return True


def _read_stage(statement: tirx.Stmt) -> Stage | None:
    loops = []
    while isinstance(statement, tirx.For):
        if as_int(statement.min) != 0 or statement.kind != tirx.ForKind.SERIAL:
            return None
        loops.append(statement.loop_var)
        statement = statement.body
    if not isinstance(statement, SBlockRealize) or as_int(statement.predicate) != 1:
        return None
    block = statement.block
    if block.alloc_buffers or block.match_buffers or not isinstance(block.body, tirx.BufferStore):
        return None
    values = list(statement.iter_values)
    if len(values) != len(loops) or not all(any(v.same_as(var) for var in loops) for v in values):
        return None
    return _stage_of_block(block)


def _stage_of_block(block: SBlock) -> Stage | None:
    spatial: list[Axis] = []
    reduce: list[Axis] = []
    for iteration in block.iter_vars:
        if as_int(iteration.dom.min) != 0 or iteration.var.ty.dtype != "int64":
            return None
        axis = Axis(iteration.var, as_int(iteration.dom.extent))
        (reduce if iteration.iter_type == tirx.IterVar.CommReduce else spatial).append(axis)
    store = block.body
    # The axes in the order of the buffer's dimensions, whatever that of the loops.
    ordered = [next((a for a in spatial if a.var.same_as(i)), None) for i in store.indices]
    axes = tuple(a for a in ordered if a is not None)
    if len(axes) != len(store.indices) or len({a.var for a in axes}) != len(spatial):
        return None
    if not reduce and block.init is None:
        return Stage(store.buffer, axes, fast_math(store.value), flat_copy=_is_flat_copy(block, axes))
    if not reduce:
        return None
    return _reduction(block, store, axes, tuple(reduce))


def _is_flat_copy(block: SBlock, axes: tuple[Axis, ...]) -> bool:
    """Whether the block is TE's reshape with a division by an unknown size that does not simplify."""
    value = block.body.value
    if not str(block.name_hint).startswith("T_reshape") or not isinstance(value, TensorLoad):
        return False
    analyzer = sym.Analyzer()
    for axis in axes:
        analyzer.bind(axis.var, ir.Range.from_min_extent(i64(0), i64(axis.extent)))
    found: list[bool] = []

    def visit(node: prim.FloorDiv | prim.FloorMod) -> None:
        if not isinstance(node.b, prim.IntImm):
            found.append(True)

    for index in value.indices:
        tvm_ffi.structural_walk(analyzer.simplify(index), ((prim.FloorDiv, prim.FloorMod), visit), order="post")
    return bool(found)


def _reduction(
    block: SBlock, store: tirx.BufferStore, axes: tuple[Axis, ...], reduce: tuple[Axis, ...]
) -> Stage | None:
    kind = type(store.value).__name__
    if kind not in COMBINERS or not isinstance(block.init, tirx.BufferStore):
        return None
    init = block.init.value
    neutral = _NEUTRAL.get(kind)
    if neutral is not None and (not isinstance(init, (tirx.IntImm, tirx.FloatImm)) or init.value != neutral):
        return None
    for own, term in ((store.value.a, store.value.b), (store.value.b, store.value.a)):
        is_own = isinstance(own, TensorLoad) and own.source.same_as(store.buffer)
        if is_own and all(i.same_as(a.var) for i, a in zip(own.indices, axes, strict=True)):
            return Stage(store.buffer, axes, fast_math(term), reduce, kind, _start(kind, init))
    return None


def _start(kind: str, init: tirx.Expr) -> tirx.Expr:
    """What a reduction of this kind starts from, given that TE starts it from `init`."""
    if kind not in _EXTREMES or not isinstance(init, tirx.FloatImm):
        return init
    finite, infinite = _EXTREMES[kind]
    dtype = str(init.ty.dtype)
    return tirx.const(infinite, dtype) if init.value == finite(dtype).value else init


def with_value(stage: Stage, value: tirx.Expr) -> Stage:
    """`stage` computing `value` instead."""
    return replace(stage, value=value, flat_copy=False)


_FAST: dict[str, Callable[[Any], Any]] = {
    "tirx.exp": vector_math.exp,
    "tirx.log": vector_math.log,
    "tirx.tanh": vector_math.tanh,
    "tirx.erf": vector_math.erf,
    "tirx.sigmoid": vector_math.sigmoid,
}
_FAST_DTYPES = ("float32", "float16")


def fast_math(value: tirx.Expr) -> tirx.Expr:
    """`value` with calls into libm replaced by polynomials, small constant powers by products, and maxima and minima
    by those that keep NaN."""

    def of_data(keeping_nan: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
        # Coordinates, made of sizes and loop variables only, are never NaN.
        return lambda node: keeping_nan(node.a, node.b) if loads(node.a) or loads(node.b) else node

    rules = [
        (ir.Call, _fast_call),
        (prim.Max, of_data(vector_math.maximum)),
        (prim.Min, of_data(vector_math.minimum)),
    ]
    return tvm_ffi.structural_map(value, rules, order="post")


def fast_calls(body: tirx.Stmt) -> tirx.Stmt:
    """`body` with calls into libm replaced as by `fast_math`; maxima and minima stay, which may be of indices."""
    return tvm_ffi.structural_map(body, [(ir.Call, _fast_call)], order="post")


def _fast_call(call: ir.Call) -> tirx.Expr:
    name = getattr(call.op, "name", "")
    if name in _FAST and str(call.ty.dtype) in _FAST_DTYPES:
        return _FAST[name](call.args[0])
    if name == "tirx.pow" and isinstance(call.args[1], tirx.FloatImm):
        return _power(call, call.args[0], call.args[1].value)
    return call


def _power(call: ir.Call, base: tirx.Expr, exponent: float) -> tirx.Expr:
    if exponent in (2.0, 3.0):
        return vector_math.bind(base, lambda v: v * v if exponent == 2.0 else v * v * v)
    return {1.0: base, 0.5: tirx.sqrt(base)}.get(exponent, call)


def hoist_divisions(stage: Stage) -> Stage:
    """x / d as x * (1 / d) where d is the same along the innermost axis: LLVM takes 1 / d out of the loop.

    A vector division takes as long as 16 multiplications; the result differs by at most one ulp.
    """
    if stage.reduce or not stage.axes:
        return stage
    inner = stage.axes[-1].var

    def change(node: prim.Div) -> tirx.Expr:
        varying = not isinstance(node.b, (prim.FloatImm, ir.Var)) and uses(node.a, inner) and not uses(node.b, inner)
        if not varying or str(node.ty.dtype) != "float32":
            return node
        return node.a * (tirx.const(1, "float32") / node.b)

    return replace(stage, value=tvm_ffi.structural_map(stage.value, (prim.Div, change), order="post"))


def uses(expr: tirx.Expr, var: tirx.Var) -> bool:
    """Whether `var` occurs in `expr`."""
    found: list[bool] = []

    def visit(v: tirx.Var) -> None:
        if v.same_as(var):
            found.append(True)

    tvm_ffi.structural_walk(expr, (tirx.Var, visit), order="post")
    return bool(found)


def is_conditional(value: tirx.Expr) -> bool:
    """Whether `value` contains an `if_then_else`, whose branches must not be evaluated needlessly."""
    found: list[bool] = []

    def visit(call: ir.Call) -> None:
        if getattr(call.op, "name", "").endswith("if_then_else"):
            found.append(True)

    tvm_ffi.structural_walk(value, (ir.Call, visit), order="post")
    return bool(found)


_CHEAP = (prim.Add, prim.Sub, prim.Mul, prim.Max, prim.Min, prim.Cast, prim.Select)
_EXPENSIVE = (prim.Div, prim.Let)


def cost(value: tirx.Expr) -> int:
    """Rough cost of one evaluation in simple vector instructions, index arithmetic not counted."""
    total = 0

    def visit(node: Any) -> None:
        nonlocal total
        if str(node.ty.dtype).startswith(("float", "bfloat", "int8", "uint8", "bool", "int32")):
            total += 8 if isinstance(node, (*_EXPENSIVE, ir.Call)) else 1

    tvm_ffi.structural_walk(value, ((*_CHEAP, *_EXPENSIVE, ir.Call), visit), order="post")
    return total
