"""bfloat16 within expressions that bind variables, as what TVM's code generator for CPUs keeps of it: integers."""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.ir import prim

from ..schedule.rewrite import rewrite_functions
from .base import Pass


@dataclass(frozen=True)
class WidenBfloat16(Pass):
    """Cast from and to bfloat16 by its bits, where a variable is bound within the expression.

    Before:  y[i] = bfloat16(let v = float32(x[i]) in v * v)                     x, y: bfloat16
    After:   y[i] = reinterpret_bfloat16(let u = reinterpret_uint32(
                 let v = reinterpret_float32(uint32(reinterpret_uint16(x[i])) << 16) in v * v) in high_half(rounded(u)))

    TVM lowers bfloat16 to uint16, but not the casts in such an expression: it would take the bits of x for a whole
    number. What it rounds it copies, and its vectorizer refuses two bindings of one variable. Comes last: the kernels
    that templates write have such bindings.
    """

    name: str = field(default="widen_bfloat16", init=False)

    def run(self, mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
        """The module with such functions rewritten."""
        return rewrite_functions(mod, _widened_function)


def _widened_function(func: tirx.PrimFunc) -> tirx.PrimFunc | None:
    if not _binds(func.body):
        return None
    body = tvm_ffi.structural_map(func.body, [(prim.Cast, _rounded)], order="post")
    body = tvm_ffi.structural_map(body, [(prim.Let, _without_casts)], order="post")
    return None if body.same_as(func.body) else func.with_body(body)


def _binds(node: ir.Expr | tirx.Stmt) -> bool:
    found: list[ir.Expr] = []
    tvm_ffi.structural_walk(node, (prim.Let, found.append))
    return bool(found)


def _without_casts(binding: prim.Let) -> ir.Expr:
    return tvm_ffi.structural_map(binding, [(prim.Cast, _widened)], order="post")


def _widened(cast: prim.Cast) -> ir.Expr:
    """Any cast of bfloat16, of a vector or not."""
    kind, _, lanes = str(cast.value.ty.dtype).partition("x")
    if kind != "bfloat16":
        return cast
    suffix = f"x{lanes}" if lanes else ""
    bits = tirx.reinterpret(f"uint16{suffix}", cast.value).astype(f"uint32{suffix}")
    number = tirx.reinterpret(f"float32{suffix}", bits << tirx.const(16, f"uint32{suffix}"))
    return number if str(cast.ty.dtype) == f"float32{suffix}" else number.astype(str(cast.ty.dtype))


def _rounded(cast: prim.Cast) -> ir.Expr:
    """A cast to bfloat16, halves to even."""
    kind, _, lanes = str(cast.ty.dtype).partition("x")
    if kind != "bfloat16" or not _binds(cast.value):
        return cast
    suffix = f"x{lanes}" if lanes else ""
    wide = f"uint32{suffix}"

    def number(value: int) -> ir.Expr:
        return tirx.const(value, wide)

    bits = tirx.Var("bits", wide)
    half = ((bits >> number(16)) & number(1)) + number(0x7FFF)
    is_nan = (bits & number(0x7FFFFFFF)) > number(0x7F800000)
    upper = tirx.Select(is_nan, number(0x7FC0), (bits + half) >> number(16)).astype(f"uint16{suffix}")
    value = tirx.reinterpret(wide, cast.value.astype(f"float32{suffix}"))
    return tirx.reinterpret(f"bfloat16{suffix}", prim.Let(bits, value, upper))
