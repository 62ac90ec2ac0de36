"""What the importer knows of a tensor: its constant content, the sizes it is computed from, or a Relax expression."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import ir, relax, tirx

from ..element_types import CARRIED, CARRIER
from ..errors import ModelError

# Bytes of a constant whose elements repeat in the model (ConstantOfShape, Expand) and would be written out.
_MOST_MADE = 2**30

Dim = int | ir.Expr


def static_dim(dim: object) -> Dim:
    """A Python int for a fixed dimension, else the expression itself."""
    if isinstance(dim, (int, np.integer)):
        return int(dim)
    return int(dim.value) if isinstance(dim, tirx.IntImm) else dim


def constant(array: np.ndarray) -> relax.Expr:
    """A Relax constant with the array's own dtype (`relax.const` turns int64 into int32 and float64 into float32).

    Types of 8 bits and fewer that compiled code has as bytes become these.
    """
    if array.nbytes > _MOST_MADE and not array.flags.c_contiguous:
        raise ModelError(
            f"A constant of shape {list(array.shape)} that the model computes has {array.nbytes} bytes, "
            f"expected at most {_MOST_MADE}."
        )
    array = array.view(CARRIER) if array.dtype.name in CARRIED else array
    return relax.const(tvm.runtime.tensor(np.asarray(array, order="C")))


class Value:
    """A tensor during import. Exactly one of three forms is given; the Relax expression is made when first needed.

    - `array`: the content is known (an initializer, a folded constant);
    - `elements`: an object array of ints and `tirx` expressions: a small integer tensor computed from tensor shapes;
    - `expr`: a normalised Relax expression, usually a variable. Where compiled code has bytes for the elements,
      `dtype` says what they mean.
    """

    __slots__ = ("_expr", "array", "dtype", "elements", "shape")

    def __init__(
        self,
        *,
        array: np.ndarray | None = None,
        elements: np.ndarray | None = None,
        dtype: str | None = None,
        expr: relax.Expr | None = None,
    ):
        self.array, self.elements, self._expr = array, elements, expr
        self.shape: list[Dim] | None
        if array is not None:
            self.shape, self.dtype = list(array.shape), str(array.dtype)
        elif elements is not None:
            self.shape, self.dtype = list(elements.shape), dtype or "int64"
        elif expr is not None:
            shape = expr.ty.shape
            self.shape = [static_dim(d) for d in shape.values] if isinstance(shape, relax.ShapeExpr) else None
            self.dtype = dtype or str(expr.ty.dtype)
        else:
            raise ValueError("a value needs content, elements or an expression")

    @property
    def is_carried(self) -> bool:
        """Whether compiled code has bytes for the elements."""
        return self.dtype in CARRIED

    def carried(self, bb: relax.BlockBuilder) -> Value:
        """The bytes of a carried tensor."""
        return Value(array=self.array.view(CARRIER)) if self.array is not None else Value(expr=self.expr(bb))

    def is_expr(self, expr: relax.Expr) -> bool:
        """Whether this tensor is the Relax expression `expr`."""
        return self._expr is not None and self._expr.same_as(expr)

    def expr(self, bb: relax.BlockBuilder) -> relax.Expr:
        """The tensor as a Relax expression (constants become `relax.const`; made once)."""
        if self._expr is None:
            if self.array is not None:
                self._expr = constant(self.array)
            elif self.elements is not None:
                self._expr = _elements_tensor(self.elements, self.dtype, bb)
        return self._expr


def _elements_tensor(elements: np.ndarray, dtype: str, bb: relax.BlockBuilder) -> relax.Expr:
    """A tensor made at run time from symbolic sizes."""
    flat = list(elements.reshape(-1))
    sizes = [getattr(e, "num", e) for e in flat]
    shape = bb.normalize(relax.ShapeExpr([tirx.IntImm("int64", int(s)) if isinstance(s, int) else s for s in sizes]))
    tensor = bb.emit(relax.op.shape_to_tensor(shape))
    if elements.ndim != 1:
        tensor = bb.emit(relax.op.reshape(tensor, list(elements.shape)))
    if dtype != "int64":
        tensor = bb.emit(relax.op.astype(tensor, dtype))
    divisors = np.array([getattr(e, "den", 1) for e in flat]).reshape(elements.shape)
    if np.all(divisors == 1):
        return tensor
    return bb.emit(relax.op.divide(tensor, constant(divisors.astype(dtype))))
