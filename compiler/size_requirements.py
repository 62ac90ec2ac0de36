"""Conditions on the sizes of a run's inputs, on their way from the operators that need them to the check that runs.

The importer writes those that it cannot prove into an attribute of `main`, as a PrimFunc over the named dimensions
whose statements are assertions; the pass check_sizes puts them before everything that `main` computes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import ir, relax, tirx

ATTRIBUTE = "kompilo.size_requirements"

_INT64 = re.compile(r"T\.int64\((-?\d+)\)")


@dataclass(frozen=True)
class Requirement:
    """A condition over symbolic sizes, and what to say in one line where it does not hold."""

    condition: ir.Expr
    message: str


def size_text(size: object) -> str:
    """A size as messages show it: a number, a name, or a formula over names."""
    return _INT64.sub(r"\1", str(size)).replace("T.", "")


def check_function(sizes: Sequence[tirx.Var], requirements: Sequence[Requirement]) -> tirx.PrimFunc:
    """A PrimFunc of `sizes` (int64) that raises ValueError with the message of the first requirement that is broken."""
    params = {size: tirx.Var(size.name, "int64") for size in sizes}
    statements: list[tirx.Stmt] = [
        tirx.AssertStmt(_renamed(r.condition, params), ir.StringImm("ValueError"), [ir.StringImm(r.message)])
        for r in requirements
    ]
    body = tirx.SeqStmt([*statements, tirx.Return(tirx.IntImm("int64", 1))])
    func = tirx.PrimFunc(list(params.values()), body, ret_type=ir.PrimType("int64"))
    return func.with_attr("tirx.is_scheduled", True)


def with_requirements(main: relax.Function, requirements: Sequence[Requirement]) -> relax.Function:
    """`main` with the requirements in its attribute; itself if there are none."""
    if not requirements:
        return main
    return main.with_attr(ATTRIBUTE, check_function(input_sizes(main), requirements))


def requirements_of(main: relax.Function) -> list[Requirement]:
    """What `with_requirements` wrote, over the symbolic sizes of `main` as they are now (found by name)."""
    func = main.attrs.get(ATTRIBUTE) if main.attrs else None
    if func is None:
        return []
    named = {size.name: size for size in input_sizes(main)}
    sizes = {param: named[param.name] for param in func.params}
    asserts = [s for s in func.body.seq if isinstance(s, tirx.AssertStmt)]
    return [
        Requirement(_renamed(s.condition, sizes), "".join(str(part.value) for part in s.message_parts)) for s in asserts
    ]


def input_sizes(main: relax.Function) -> list[tirx.Var]:
    """The symbolic sizes that the inputs of `main` have."""
    found: dict[tirx.Var, None] = {}
    for param in main.params:
        shape = getattr(param.ty, "shape", None)
        for size in shape.values if isinstance(shape, relax.ShapeExpr) else ():
            if isinstance(size, tirx.Var):
                found[size] = None
    return list(found)


def free_sizes(expr: ir.Expr) -> list[ir.Var]:
    """The variables of `expr`."""
    found: dict[ir.Var, None] = {}
    tvm_ffi.structural_walk(expr, (ir.Var, lambda v: found.setdefault(v)))
    return list(found)


def _renamed(expr: ir.Expr, names: Mapping[tirx.Var, tirx.Var]) -> ir.Expr:
    return tvm_ffi.structural_map(expr, (ir.Var, lambda v: names.get(v, v)), order="post")
