"""Refuse, before anything runs, inputs whose sizes would give some tensor a size that makes no sense."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import tvm
import tvm_ffi
from tvm import ir, relax, sym, tirx
from tvm.relax.expr import _update_type

from .anchors import op_name
from .base import Pass

NAME = "check_sizes"


@dataclass(frozen=True)
class CheckSizes(Pass):
    """Begin `main` with a check of all sizes that depend on the inputs' and may be negative, or zero behind a template.

    Before:  main(x: (n, 4, h)) { y = call_tir(conv2d_0, (x, w), (n, 8, h - 4)) ... }
    After:   main(x: (n, 4, h)) { check_sizes(h); y = call_tir(conv2d_0, (x, w), (n, 8, h - 4)) ... }

    check_sizes is a PrimFunc that raises ValueError, "`h - 4` must be at least 1". Templates' kernels may read an
    element ahead of looking at sizes; other kernels are loops, for which nothing is as good as any size. Input sizes
    count as at least 1. Sizes that the data decide are not checked. Comes after all that rewrites `main`, because it
    puts a block in front of the dataflow block.
    """

    name: str = field(default="check_sizes", init=False)

    def run(self, mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
        """The same object if all sizes are fine whatever the inputs' are."""
        main = mod["main"]
        sizes = _input_sizes(main)
        conditions = _conditions(mod, main, sizes) if sizes else {}
        if not conditions:
            return mod
        builder = relax.BlockBuilder(mod)
        check = builder.add_func(_check(sizes, conditions), NAME)
        result = builder.get()
        integer = ir.PrimType("int64")
        call = ir.Call(check, sizes, ret_ty=integer)
        first = relax.BindingBlock([relax.VarBinding(relax.Var("checked", integer), call)])
        body = relax.SeqExpr([first, *main.body.blocks], main.body.body)
        _update_type(body, main.body.ty)
        function = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
        result.update_func(result.get_global_var("main"), function)
        return result


def _input_sizes(main: relax.Function) -> list[tirx.Var]:
    """The symbolic sizes that the inputs have."""
    found: dict[tirx.Var, None] = {}
    for param in main.params:
        for size in _dims(param.ty):
            if isinstance(size, tirx.Var):
                found[size] = None
    return list(found)


def _conditions(mod: tvm.ir.IRModule, main: relax.Function, sizes: list[tirx.Var]) -> dict[str, tuple[ir.Expr, int]]:
    """Text of a size -> the size and the least it may be, for all that are not certainly as large."""
    analyzer = sym.Analyzer()
    for size in sizes:
        analyzer.update(size, sym.ConstIntBound(1, sym.ConstIntBound.POS_INF), override=True)
    found: dict[str, tuple[ir.Expr, int]] = {}
    for block in main.body.blocks:
        for binding in block.bindings:
            wanted = 1 if _is_template(mod, binding.value) else 0
            for size in _dims(binding.var.ty):
                if isinstance(size, tirx.Var | tirx.IntImm) or not _depends_on_inputs(size, sizes):
                    continue
                least = max(wanted, found.get(str(size), (size, 0))[1])
                if int(analyzer.const_int_bound(size).min_value) < least:
                    found[str(size)] = (size, least)
    return found


def _is_template(mod: tvm.ir.IRModule, value: relax.Expr) -> bool:
    if op_name(value) != "call_tir":
        return False
    func = mod[value.args[0]]
    return bool(func.attrs and func.attrs.get("kompilo.kind"))


def _dims(ty: ir.Type) -> Iterator[ir.Expr]:
    if isinstance(ty, relax.TupleType):
        for part in ty.fields:
            yield from _dims(part)
    elif isinstance(ty, relax.TensorType) and isinstance(ty.shape, relax.ShapeExpr):
        yield from ty.shape.values


def _depends_on_inputs(size: ir.Expr, sizes: list[tirx.Var]) -> bool:
    strange: list[ir.Var] = []
    tvm_ffi.structural_walk(size, (ir.Var, lambda v: strange.append(v) if v not in sizes else None))
    return not strange


def _check(sizes: list[tirx.Var], conditions: dict[str, tuple[ir.Expr, int]]) -> tirx.PrimFunc:
    params = {size: tirx.Var(size.name, "int64") for size in sizes}
    statements: list[tirx.Stmt] = []
    for size, least in conditions.values():
        value = tvm_ffi.structural_map(size, (ir.Var, lambda v: params.get(v, v)), order="post")
        message = [ir.StringImm(f"`{_readable(size)}` must be at least {least}")]
        statements.append(tirx.AssertStmt(value >= tirx.IntImm("int64", least), ir.StringImm("ValueError"), message))
    body = tirx.SeqStmt([*statements, tirx.Return(tirx.IntImm("int64", 1))])
    func = tirx.PrimFunc(list(params.values()), body, ret_type=ir.PrimType("int64"))
    return func.with_attr("tirx.is_scheduled", True)


def _readable(size: ir.Expr) -> str:
    return re.sub(r"T\.int64\((-?\d+)\)", r"\1", str(size)).replace("T.", "")
