"""The least work of an OpSpec: floating-point operations and bytes.

A multiply-add counts as two operations, epilogue steps as one each.
"""

from __future__ import annotations

from math import prod

from .op_spec import OpSpec, TensorType


def flops(op: OpSpec) -> int | None:
    """FLOPs of one execution of `op` done directly (no Winograd), or None if its shape is symbolic or not countable."""
    if not op.is_static or op.kind not in _PER_OUTPUT:
        return None
    elements = prod(int(d) for d in op.anchor_type.shape)
    return elements * (_PER_OUTPUT[op.kind](op) + len(op.epilogue))


def peak_dtype(op: OpSpec) -> str:
    """The type that names the greatest rate for `op`: that of its operands, "tfloat32" where float32 may be rounded."""
    rounded = op.inputs[0].dtype == "float32" and dict(op.attrs).get("precision") == "tf32"
    return "tfloat32" if rounded else op.inputs[0].dtype


def bytes_moved(op: OpSpec) -> int | None:
    """Bytes that one execution of `op` must move: each operand read once, the result written once; None if symbolic."""
    if not op.is_static:
        return None
    return sum(tensor_bytes(t) for t in (*op.inputs, op.output))


def tensor_bytes(tensor: TensorType) -> int:
    """Bytes of a tensor of known sizes; types narrower than a byte are packed."""
    bits = int("".join(c for c in tensor.dtype if c.isdigit()) or "8")  # "bool" has no digits and takes a byte
    return (prod(int(d) for d in tensor.shape) * bits + 7) // 8


def _conv2d(op: OpSpec) -> int:
    return 2 * prod(int(d) for d in op.inputs[1].shape[1:])


def _conv2d_transpose(op: OpSpec) -> int:
    # Every input element meets the whole kernel once; spread over the output elements.
    data, weight = op.inputs[0], op.inputs[1]
    total = 2 * prod(int(d) for d in data.shape) * prod(int(d) for d in weight.shape[1:])
    return max(1, total // max(1, prod(int(d) for d in op.anchor_type.shape)))


def _matmul(op: OpSpec) -> int:
    return 2 * int(op.inputs[0].shape[op.ints("lhs_perm")[-1]])


def _pool2d(op: OpSpec) -> int:
    return prod(op.ints("pool_size"))


def _attention(op: OpSpec) -> int:
    """Both products, spread over the result's elements; without scores that a causal mask hides."""
    rows, columns = (int(d) for d in op.anchor_type.shape[-2:])
    query, key = (op.inputs[k].shape for k in (0, 1))
    depth = int(query[op.ints("q_perm")[-1]])
    keys = float(key[op.ints("k_perm")[-2]])
    if op.attr("causal"):
        last = int(op.ints("offset")[0]) + rows  # keys that the last row sees, were there as many
        seen = sum(min(keys, max(0.0, last - r)) for r in range(rows))
        keys = seen / max(1, rows)
    return max(1, round(2 * keys * (depth + columns) / max(1, columns)))


_PER_OUTPUT = {
    "conv2d": _conv2d,
    "conv2d_transpose": _conv2d_transpose,
    "matmul": _matmul,
    "pool2d": _pool2d,
    "attention": _attention,
}
