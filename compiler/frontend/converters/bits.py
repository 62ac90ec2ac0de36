"""BitCast: the same bits as another type of the same width."""

from __future__ import annotations

from tvm import relax, te, tirx

from ...element_types import CARRIED, CARRIER
from ..dtypes import dtype_name, numpy_dtype, onnx_type_text
from ..node import Node
from .registry import Carried, converter


@converter("BitCast", since=26)
def bit_cast(node: Node) -> relax.Expr | Carried:
    code = node.required("to")
    source, target = node.dtype(0), dtype_name(code)
    if target is None or _width(target) != _width(source):
        raise node.error(f"{source} has not as many bits as {onnx_type_text(code)}, or that type is not supported")
    if source in CARRIED:
        node = node.with_values([node.value(0).carried(node.bb)])
    if target in CARRIED:
        return Carried(_reinterpreted(node, node.dtype(0), CARRIER), target)
    return _reinterpreted(node, node.dtype(0), target)


def _width(dtype: str) -> int:
    """Bits of an element."""
    return CARRIED.get(dtype, numpy_dtype(dtype).itemsize * 8)


def _reinterpreted(node: Node, source: str, target: str) -> relax.Expr:
    if source == target:
        return node.inputs[0]
    # A bool is kept as a byte that is 0 or 1, and so compared rather than reinterpreted.
    if "bool" in (source, target):
        number = relax.op.astype(node.inputs[0], "uint8") if source == "bool" else node.inputs[0]
        if target == "bool":
            return relax.op.not_equal(number, relax.op.zeros_like(number))
        return relax.op.astype(number, target)

    def compute(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *at: tirx.reinterpret(target, x(*at)), name="bits")

    return node.te(compute, node.inputs[0], name="bit_cast")
