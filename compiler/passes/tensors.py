"""Small questions about tensor expressions that passes ask all the time: shapes, dtypes, constants as numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, sym, tirx
from tvm.ir import GenericConst

Dim: TypeAlias = "int | tirx.Expr"


def shape(expr: relax.Expr) -> tuple[Dim, ...] | None:
    """The dimensions of a tensor: ints where known, else expressions; None if the shape is not known at all."""
    return _shape_of_variable(expr) if isinstance(expr, relax.Var) else _dims(expr.ty)


@lru_cache(maxsize=1 << 14)
def _shape_of_variable(var: relax.Var) -> tuple[Dim, ...] | None:
    """Crossing into TVM for each dimension takes 10 us a shape, and passes ask 10,000 times."""
    return _dims(var.ty)


def _dims(ty: tvm.ir.Type) -> tuple[Dim, ...] | None:
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return None
    return tuple(dim(d) for d in ty.shape.values)


def known_shape(expr: relax.Expr) -> tuple[Dim, ...]:
    """The shape of a tensor that is known to have one; ValueError otherwise."""
    dims = shape(expr)
    if dims is None:
        raise ValueError(f"the shape of {expr} is unknown")
    return dims


def dim(value: object) -> Dim:
    """An int where the dimension is known."""
    return int(value) if isinstance(value, tirx.IntImm) else value


def static_shape(expr: relax.Expr) -> tuple[int, ...] | None:
    """The shape if every dimension is known, else None."""
    dims = shape(expr)
    return dims if dims is not None and all(isinstance(d, int) for d in dims) else None


def rank(expr: relax.Expr) -> int:
    """Number of dimensions of a tensor; -1 if unknown or not a tensor."""
    return int(expr.ty.ndim) if isinstance(expr.ty, relax.TensorType) else -1


def dtype(expr: relax.Expr) -> str:
    """Element type of a tensor as text ("float32"); "" if `expr` is no tensor or its type is unknown."""
    return str(expr.ty.dtype) if isinstance(expr.ty, relax.TensorType) else ""


def is_float(expr: relax.Expr) -> bool:
    """Whether the elements are IEEE floats of at least 16 bits or bfloat16."""
    return dtype(expr) in ("float16", "bfloat16", "float32", "float64")


def same_dim(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are certainly equal."""
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return a is b or tvm_ffi.structural_equal(a, b) or sym.Analyzer().can_prove_equal(a, b)


def is_one(a: Dim) -> bool:
    """Whether a dimension is certainly of size one."""
    return isinstance(a, int) and a == 1


def same_dims(a: Sequence[Dim] | None, b: Sequence[Dim] | None) -> bool:
    """Whether two shapes are known and certainly equal."""
    return a is not None and b is not None and len(a) == len(b) and all(map(same_dim, a, b))


def product(dims: Sequence[Dim]) -> Dim:
    """Number of elements; ints are multiplied first so that equal products look equal."""
    known, unknown = 1, None
    for d in dims:
        if isinstance(d, int):
            known *= d
        else:
            unknown = d if unknown is None else unknown * d
    return known if unknown is None else (unknown if known == 1 else unknown * known)


def ints(values: object) -> tuple[int, ...]:
    """An attribute's list as Python ints."""
    return tuple(int(v) for v in values)  # type: ignore[attr-defined]


def sections(attr: object) -> int | list[int]:
    """The indices_or_sections of a split as Python ints."""
    return int(attr) if isinstance(attr, int | tirx.IntImm) else list(ints(attr))


def axes_of(attr: object, ndim: int) -> tuple[int, ...]:
    """An axis, a list of axes or None (all) as sorted non-negative ints."""
    if attr is None:
        return tuple(range(ndim))
    values = (attr,) if isinstance(attr, int | tirx.IntImm) else attr
    return tuple(sorted(int(a) % ndim for a in values)) if ndim else ()  # type: ignore[attr-defined]


def permutation(node_attrs: tvm.ir.Attrs, ndim: int) -> tuple[int, ...]:
    """The axes of a permute_dims, non-negative."""
    axes = node_attrs.axes
    return tuple(range(ndim))[::-1] if axes is None else tuple(int(a) % ndim for a in axes)


def array(expr: relax.Expr) -> np.ndarray | None:
    """The value of a tensor constant, or None for anything else. A read-only view: large weights are not copied."""
    if not isinstance(expr, GenericConst) or not isinstance(expr.ty, relax.TensorType):
        return None
    try:
        view = np.from_dlpack(expr.value)
    except RuntimeError:  # numpy knows no bfloat16 or float8 in DLPack
        view = expr.value.numpy()
    view.flags.writeable = False
    return view


def arrays(exprs: Sequence[relax.Expr]) -> list[np.ndarray] | None:
    """The values of `exprs` if all are tensor constants."""
    found = [array(e) for e in exprs]
    return [f for f in found if f is not None] if all(f is not None for f in found) else None


def constant(value: np.ndarray, element: str | None = None) -> GenericConst:
    """A tensor constant; relax.const alone would narrow int64 to int32 and float64 scalars to float32."""
    data = np.ascontiguousarray(value, dtype=element) if np.ndim(value) else np.asarray(value, dtype=element)
    return relax.const(data, str(data.dtype))


def scalar(expr: relax.Expr) -> float | int | bool | None:
    """The one element of a constant that holds a single element (of any rank), else None."""
    dims = static_shape(expr) if isinstance(expr, GenericConst) else None
    if dims is None or any(d != 1 for d in dims):
        return None
    return array(expr).reshape(()).item()  # type: ignore[union-attr]


def scalar_of(value: float, like: relax.Expr) -> GenericConst:
    """A rank-0 constant of the element type of `like`."""
    return constant(np.asarray(value), dtype(like))


def blank(dims: Sequence[int], element: str) -> tuple[GenericConst, np.ndarray]:
    """A new constant and a view to fill it through before it is used: saves a copy of large weights."""
    expr = relax.const(tvm.runtime.empty(tuple(dims), element))
    return expr, np.from_dlpack(expr.value)
