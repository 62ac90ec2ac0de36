"""Refuse, before anything runs, inputs whose sizes would give some tensor a size that makes no sense."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import tvm
from tvm import ir, relax, sym, tirx
from tvm.relax.expr import _update_type

from ..size_requirements import (
    ATTRIBUTE,
    Requirement,
    check_function,
    free_sizes,
    input_sizes,
    requirements_of,
    size_text,
)
from .anchors import op_name
from .base import Pass

NAME = "check_sizes"
# Kinds of kernels, of templates and without ("", that are loops), for which nothing is as good as any size.
_ALSO_EMPTY = ("", "matmul", "attention")


@dataclass(frozen=True)
class CheckSizes(Pass):
    """Begin `main` with a check of what operators require of sizes, and of sizes that may be negative or too small.

    Before:  main(x: (n, 4, h)) { y = call_tir(conv2d_0, (x, w), (n, 8, h - 4)) ... }
    After:   main(x: (n, 4, h)) { check_sizes(n, h); y = call_tir(conv2d_0, (x, w), (n, 8, h - 4)) ... }

    check_sizes is a PrimFunc that raises ValueError, "`h - 4` must be at least 1". Templates' kernels of windows may
    read an element ahead of looking at sizes; products and other kernels take nothing like any size. Input sizes
    count as at least 1. Sizes that the data decide are not checked. What operators require was written into an
    attribute of `main` by the importer. Comes after all that rewrites `main`, because it puts a block in front of the
    dataflow block.
    """

    name: str = field(default="check_sizes", init=False)

    def run(self, mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
        """The same object if all sizes are fine whatever the inputs' are."""
        main = mod["main"]
        sizes = input_sizes(main)
        requirements = requirements_of(main) + (_least_sizes(mod, main, sizes) if sizes else [])
        if not requirements:
            return mod
        builder = relax.BlockBuilder(mod)
        check = builder.add_func(check_function(sizes, requirements), NAME)
        result = builder.get()
        integer = ir.PrimType("int64")
        call = ir.Call(check, sizes, ret_ty=integer)
        first = relax.BindingBlock([relax.VarBinding(relax.Var("checked", integer), call)])
        body = relax.SeqExpr([first, *main.body.blocks], main.body.body)
        _update_type(body, main.body.ty)
        function = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs).without_attr(ATTRIBUTE)
        result.update_func(result.get_global_var("main"), function)
        return result


def _least_sizes(mod: tvm.ir.IRModule, main: relax.Function, sizes: list[tirx.Var]) -> list[Requirement]:
    """For each size in `main` that is not certainly as large as it has to be."""
    analyzer = sym.Analyzer()
    for size in sizes:
        analyzer.update(size, sym.ConstIntBound(1, sym.ConstIntBound.POS_INF), override=True)
    found: dict[str, tuple[ir.Expr, int]] = {}
    for block in main.body.blocks:
        for binding in block.bindings:
            wanted = 0 if _kind(mod, binding.value) in _ALSO_EMPTY else 1
            for size in _dims(binding.var.ty):
                if isinstance(size, tirx.Var | tirx.IntImm) or not set(free_sizes(size)) <= set(sizes):
                    continue
                least = max(wanted, found.get(str(size), (size, 0))[1])
                if int(analyzer.const_int_bound(size).min_value) < least:
                    found[str(size)] = (size, least)
    return [_at_least(size, least) for size, least in found.values()]


def _at_least(size: ir.Expr, least: int) -> Requirement:
    return Requirement(size >= tirx.IntImm("int64", least), f"`{size_text(size)}` must be at least {least}")


def _kind(mod: tvm.ir.IRModule, value: relax.Expr) -> str:
    """What a template's kernel computes; nothing where no template made it."""
    attrs = mod[value.args[0]].attrs if op_name(value) == "call_tir" else None
    return str(attrs.get("kompilo.kind", "")) if attrs else ""


def _dims(ty: ir.Type) -> Iterator[ir.Expr]:
    if isinstance(ty, relax.TupleType):
        for part in ty.fields:
            yield from _dims(part)
    elif isinstance(ty, relax.TensorType) and isinstance(ty.shape, relax.ShapeExpr):
        yield from ty.shape.values
