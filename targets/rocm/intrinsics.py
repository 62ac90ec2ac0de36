"""Which function stands for each of libm's in kernels of AMD's GPUs, and the pass that puts it there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import prim

from ...compiler.schedule import vector_math
from ...compiler.schedule.rewrite import rewrite_functions
from ..gpu.templates.matrix_core import BESIDES, INSTRUCTIONS
from . import math_functions as wide

Function = Callable[..., Any]


def native(name: str) -> Function:
    """A function that the hardware has, or that LLVM expands for it without a library, in the dtype of its argument."""

    def call(*args: Any) -> Any:
        dtype = str(args[0].ty.dtype)
        return tirx.call_llvm_pure_intrin(dtype, f"llvm.{name}.f{dtype.removeprefix('float')}", *args)

    return call


def in_float64(function: Function) -> Function:
    """`function` of float64 for other dtypes too: cast, computed, rounded."""

    def call(*args: Any) -> Any:
        dtype = str(args[0].ty.dtype)
        return function(*(a.astype("float64") for a in args)).astype(dtype)

    return call


def _scaled_log(factor: float) -> Function:
    return lambda x: wide.log(x) * tirx.const(factor, "float64")


def _reciprocal_root(x: Any) -> Any:
    return tirx.const(1.0, x.ty.dtype) / native("sqrt")(x)


def _sigmoid(exp: Function) -> Function:
    def call(x: Any) -> Any:
        one = tirx.const(1.0, x.ty.dtype)
        return one / (one + exp(-x))

    return call


_LN2, _LN10 = 0.6931471805599453, 2.302585092994046

# Operator of TIR -> function of float32, function of float64.
FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "exp": (native("exp"), wide.exp),
    "exp2": (native("exp2"), wide.exp2),
    "exp10": (native("exp10"), lambda x: wide.exp(x * tirx.const(_LN10, "float64"))),
    "log": (native("log"), wide.log),
    "log2": (native("log2"), _scaled_log(1 / _LN2)),
    "log10": (native("log10"), _scaled_log(1 / _LN10)),
    "sqrt": (native("sqrt"), native("sqrt")),
    "rsqrt": (_reciprocal_root, _reciprocal_root),
    "sigmoid": (_sigmoid(native("exp")), _sigmoid(wide.exp)),
    "tanh": (vector_math.tanh, wide.tanh),
    "erf": (vector_math.erf, wide.erf),
    "pow": (in_float64(wide.power), wide.power),
    "fmod": (in_float64(wide.remainder), wide.remainder),
    **{
        name: (in_float64(function), function)
        for name, function in {
            "log1p": wide.log1p,
            "sin": wide.sin,
            "cos": wide.cos,
            "tan": wide.tan,
            "sinh": wide.sinh,
            "cosh": wide.cosh,
            "asin": wide.asin,
            "acos": wide.acos,
            "atan": wide.atan,
            "asinh": wide.asinh,
            "acosh": wide.acosh,
            "atanh": wide.atanh,
        }.items()
    },
}

# LLVM's names that are known not to end the process, whatever the GPU; what else a kernel asks for by name may.
SAFE = frozenset(
    f"llvm.{name}"
    for name in (
        "exp", "exp2", "exp10", "log", "log2", "log10", "sqrt", "fma", "fmuladd", "fabs", "floor", "ceil", "trunc",
        "round", "nearbyint", "rint", "ctpop", "copysign", "prefetch",
    )
)  # fmt: skip


# Start of an architecture's name -> kind of its matrix units.
_MATRIX_UNITS = {"gfx90a": "mfma", "gfx94": "mfma_cdna3", "gfx11": "rdna_wmma"}


@functools.cache
def known_intrinsics(arch: str) -> frozenset[str]:
    """LLVM's names that compile for `arch` ("gfx942"), those of its matrix instructions among them."""
    units = {unit for start, unit in _MATRIX_UNITS.items() if arch.startswith(start)}
    return SAFE.union(*({i.name for i in INSTRUCTIONS[unit]} | set(BESIDES[unit]) for unit in units))


def lower_math(mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
    """Replaces calls of libm's functions in all PrimFuncs; TVM's own rules leave some that LLVM ends the process over.

    Before:  y[i] = tanh(x[i])
    After:   v = max(-9.02, min(9.02, x[i]));  s = v * v;  y[i] = v * P(s) / Q(s)
    """
    rules = [(tvm.ir.Call, _lowered), (tirx.BufferStore, _with_variables)]
    return rewrite_functions(mod, lambda func: func.with_body(tvm_ffi.structural_map(func.body, rules, order="post")))


def _lowered(call: Any) -> Any:
    """What stands for one call of TIR, whose arguments are done; the call itself where it is none of libm's."""
    dtype = str(getattr(call.ty, "dtype", ""))
    functions = FUNCTIONS.get(_name(call).removeprefix("tirx.").removeprefix("prim."))
    if functions is None or dtype not in _COMPUTED_IN:
        return call
    computed = _COMPUTED_IN[dtype]
    args = [a if computed == dtype else a.astype(computed) for a in call.args]
    return functions[computed == "float64"](*args).astype(dtype)


# dtype of a call -> dtype that it is computed in.
_COMPUTED_IN = {"float32": "float32", "float16": "float32", "bfloat16": "float32", "float64": "float64"}


def _with_variables(store: tirx.BufferStore) -> tirx.Stmt:
    """Lets of what is stored, as variables in memory of the thread: registers, once LLVM has seen them.

    TVM's time doubles with each Let around another, and its simplifier puts the values of bound names back in their
    places, every copy of them. What `if_then_else` guards stays where it is, and must not be computed before.
    """
    guarded: dict[Any, Any] = {}
    bound: dict[Any, Any] = {}

    def hide(call: Any) -> Any:
        if _name(call) != "tirx.if_then_else":
            return call
        var = tirx.Var("guarded", call.ty.dtype)
        guarded[var] = call
        return var

    def take(let: prim.Let) -> Any:
        bound[let.var] = let.value
        return let.body

    value = tvm_ffi.structural_map(store.value, [(tvm.ir.Call, hide)], order="pre")
    value = tvm_ffi.structural_map(value, [(prim.Let, take)], order="post")
    if not bound:
        return store
    places = {var: tirx.decl_buffer((1,), var.ty.dtype, var.name, scope="local") for var in bound}
    read: dict[Any, Any] = {var: tirx.BufferLoad(place, [0]) for var, place in places.items()}

    def shown(expr: Any) -> Any:
        return tvm_ffi.structural_map(expr, [(tirx.Var, lambda var: read.get(var, var))], order="post")

    # What is guarded may use the variables too.
    for var, call in guarded.items():
        read[var] = shown(call)
    return tirx.SeqStmt(
        [
            *(tirx.AllocBuffer(place) for place in places.values()),
            *(tirx.BufferStore(places[var], shown(bound[var]), [0]) for var in _in_order_of_use(bound)),
            tirx.BufferStore(store.buffer, shown(value), store.indices),
        ]
    )


def _name(call: Any) -> str:
    return str(getattr(call.op, "name", ""))


def _in_order_of_use(bound: dict[Any, Any]) -> list[Any]:
    """Variables such that each comes after those that its value reads."""
    ordered: dict[Any, None] = {}

    def visit(var: Any) -> None:
        if var not in ordered:
            read: list[Any] = []
            tvm_ffi.structural_walk(bound[var], (tirx.Var, read.append))
            for other in read:
                if other in bound:
                    visit(other)
            ordered[var] = None

    for var in bound:
        visit(var)
    return list(ordered)
