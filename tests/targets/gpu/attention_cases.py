"""Attention operators for tests of its templates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from tensor_core_cases import from_stored, to_stored

from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType


@dataclass(frozen=True)
class Attention:
    """Sizes as (batch, heads, rows, keys, depth); `own` heads of keys, `columns` of values where they differ.

    `inside`: heads lie within rows in memory, and results do too. `masks` are (meaning, shape, type).
    """

    sizes: tuple[int | str, int, int | str, int | str, int]
    own: int | None = None
    columns: int | None = None
    dtype: str = "float16"
    causal: bool = False
    offset: int = 0
    scale: float = 0.2
    masks: tuple[tuple[int, tuple[int | str, ...], str], ...] = ()
    fill: str = "-inf"
    zero_rows: bool = False
    inside: bool = True

    @property
    def spec(self) -> OpSpec:
        """The operator; results of 16-bit floats are cast to them."""
        batch, heads, rows, keys, depth = self.sizes
        own, columns = self.own or heads, self.columns or depth
        order = (0, 2, 1, 3) if self.inside else (0, 1, 2, 3)
        logical = ((batch, heads, rows, depth), (batch, own, keys, depth), (batch, own, keys, columns))
        result = (batch, heads, rows, columns)
        types = [TensorType(tuple(s[a] for a in order), self.dtype) for s in logical]
        types += [TensorType(shape, dtype) for _, shape, dtype in self.masks]
        attrs = {
            **dict.fromkeys(("q_perm", "k_perm", "v_perm", "out_perm"), order),
            "scale": self.scale,
            "masks": tuple(meaning for meaning, _, _ in self.masks),
            "fill": self.fill,
            "causal": int(self.causal),
            "offset": self.offset,
            "zero_rows": int(self.zero_rows),
        }
        narrow = self.dtype != "float32"
        return OpSpec(
            "attention",
            tuple(types),
            (False,) * len(types),
            tuple(sorted(attrs.items())),
            TensorType(result, "float32"),
            TensorType(tuple(result[a] for a in order), self.dtype),
            (Step("astype", ("anchor",), self.dtype),) if narrow else (),
        )


def operands(op: OpSpec, **sizes: int) -> list[np.ndarray]:
    """Normal numbers, in float64, that the operands' types hold; masks of bool hide a third, never the first key."""
    rng, found = np.random.default_rng(0), []
    for t in op.inputs:
        shape = [d if isinstance(d, int) else sizes[d] for d in t.shape]
        values = rng.standard_normal(shape)
        if t.dtype == "bool":
            values = values > -0.4
            values[..., 0] = True
        found.append(values.astype("f8") if t.dtype == "bool" else from_stored(to_stored(values, t.dtype), t.dtype))
    return found


def sized(op: OpSpec, **sizes: int) -> OpSpec:
    """The operator with its open sizes known."""

    def known(t: TensorType) -> TensorType:
        return TensorType(tuple(d if isinstance(d, int) else sizes[d] for d in t.shape), t.dtype)

    types = tuple(known(t) for t in op.inputs)
    return replace(op, inputs=types, anchor_type=known(op.anchor_type), output=known(op.output))
