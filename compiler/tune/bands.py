"""The truth about operators with large results: some bands of it, as small operators of their own.

In float64 the result of one convolution of a photograph takes gigabytes and half a minute. Bands at both ends of an
axis and between them show a wrong result as well: tiles are alike, and what is special about some lies at the ends.
Standard library and numpy only: measuring bundles carry this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from ..schedule.op_spec import AttrValue, OpSpec, TensorType
from .reference import WEIGHTED, Expected, evaluate

# Up to so many elements of a result all are compared. An operator may read so many times more.
MOST = 4 << 20
_READ = 32
_BANDS = 4

Slices = tuple[Any, ...]  # of slices, and "..."
# (operator, start, stop) -> for those rows of an axis of the anchor's result: slices of the anchor's operands by their
# numbers, and the attributes that change. None: what they read lies in the padding alone.
_Cut = Callable[[OpSpec, int, int], tuple[dict[int, Slices], dict[str, AttrValue]] | None]


@dataclass(frozen=True)
class Truth:
    """What is expected of bands of a result: where they lie in it, and what they hold."""

    bands: tuple[tuple[Slices, Expected], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return sum(e.values.nbytes + e.slack.nbytes for _, e in self.bands)

    def worst(self, found: np.ndarray) -> tuple[float, float, tuple[int, ...] | None]:
        """The error of `found` relative to the largest expected value; what is expected of its worst wrong element, and
        the index of that, which is None if every element that is compared is within its slack.

        Between the bands an element is wrong (NaN, where a number is expected) if nothing was written to it: that is
        known of results that were NaN before.
        """
        error = 0.0
        for where, expected in self.bands:
            band = found[where]
            own, index = expected.worst(band)
            if index is not None:
                starts = [s.start or 0 for s in where] + [0] * found.ndim
                return own, float(expected.values[index]), tuple(map(sum, zip(starts, index, strict=False)))
            error = max(error, own)
        if len(self.bands) > 1 and found.dtype.kind == "f" and not self._undefined():
            for row, part in enumerate(found):
                if np.isnan(part).any():
                    inside = np.unravel_index(int(np.argmax(np.isnan(part))), part.shape)
                    return np.inf, np.nan, (row, *map(int, inside))
        return error, np.nan, None

    def _undefined(self) -> bool:
        return any(np.isnan(e.values).any() for _, e in self.bands)


def truth(op: OpSpec, operands: Sequence[np.ndarray], most: int = MOST) -> Truth:
    """What `op` is to give for `operands`: all of it, or bands of about `most` elements together.

    Raises UsageError as `reference.evaluate`.
    """
    parts = [(axis, start, stop, _part(op, operands, axis, start, stop)) for axis, start, stop in _bands(op, most)]
    if not parts or any(part is None for *_, part in parts):
        return Truth((((), evaluate(op, operands)),))
    return Truth(tuple((_place(op, axis, a, b), evaluate(*part)) for axis, a, b, part in parts if part is not None))


def _bands(op: OpSpec, most: int) -> list[tuple[int, int, int]]:
    """Axis of the anchor's result, first row and end of each band; none if all of it is to be compared."""
    sizes = [int(d) for d in op.anchor_type.shape]
    work = max(prod(sizes), sum(prod(int(d) for d in t.shape) for t in op.inputs) // _READ, _scores(op) // _READ)
    axes = list(_cuts(op))
    if work <= most or not axes:
        return []
    axis = max(axes, key=lambda a: sizes[a])
    rows = max(1, most // _BANDS * sizes[axis] // work)
    if rows * _BANDS >= sizes[axis]:
        return []
    starts = [k * (sizes[axis] - rows) // (_BANDS - 1) for k in range(_BANDS)]
    return [(axis, start, start + rows) for start in starts]


def _scores(op: OpSpec) -> int:
    """Numbers that attention has between its products; 0 of other operators."""
    if op.kind != "attention":
        return 0
    return prod(int(d) for d in op.anchor_type.shape[:-1]) * int(op.inputs[1].shape[op.ints("k_perm")[-2]])


def _place(op: OpSpec, axis: int, start: int, stop: int) -> Slices:
    """Where a band of the anchor's result lies in the operator's."""
    order = op.ints("out_perm") if "out_perm" in dict(op.attrs) else range(len(op.anchor_type.shape))
    return tuple(slice(start, stop) if a == axis else slice(None) for a in order)


def _part(
    op: OpSpec, operands: Sequence[np.ndarray], axis: int, start: int, stop: int
) -> tuple[OpSpec, list[np.ndarray]] | None:
    """The operator that computes a band of `op`, and its operands."""
    cut = _cuts(op)[axis](op, start, stop)
    if cut is None:
        return None
    slices, attrs = cut
    shape = [int(d) for d in op.anchor_type.shape]

    def band(array: np.ndarray) -> np.ndarray:
        along = array.ndim - len(shape) + axis
        spans = along >= 0 and array.shape[along] == shape[axis] > 1
        return array[(slice(None),) * along + (slice(start, stop),)] if spans else array

    own = _OWN.get(op.kind, _weighted)(op)
    arrays = [a[slices.get(k, ())] if k < own else band(a) for k, a in enumerate(operands)]
    # The epilogue may read an operand of the anchor too, but other rows of it.
    again = sorted({k for k in range(own) for step in op.epilogue if f"i{k}" in step.args})
    names: dict[str | float, str | float] = {f"i{k}": f"i{len(operands) + n}" for n, k in enumerate(again)}
    arrays += [band(operands[k]) for k in again]
    dtypes = [t.dtype for t in op.inputs] + [op.inputs[k].dtype for k in again]
    shape[axis] = stop - start
    part = replace(
        op,
        inputs=tuple(TensorType(a.shape, d) for a, d in zip(arrays, dtypes, strict=True)),
        constant=(*op.constant, *(op.constant[k] for k in again)),
        attrs=tuple(sorted((dict(op.attrs) | attrs).items())),
        anchor_type=replace(op.anchor_type, shape=tuple(shape)),
        output=replace(op.output, shape=tuple(shape)),
        epilogue=tuple(replace(s, args=tuple(names.get(a, a) for a in s.args)) for s in op.epilogue),
    )
    return part, arrays


def _cuts(op: OpSpec) -> dict[int, _Cut]:
    """By axis of the anchor's result (NHWC of windows), how it can be cut."""
    if op.kind == "matmul":
        rank = len(op.anchor_type.shape)
        return {rank - 2: _along(0, op.ints("lhs_perm")[-2]), rank - 1: _along(1, op.ints("rhs_perm")[-1])}
    if op.kind == "attention":
        return {len(op.anchor_type.shape) - 2: _queries}
    return {
        "conv2d": {0: _along(0, 0), 1: _windows(lambda op: int(op.inputs[1].shape[2]))},
        "conv2d_transpose": {0: _along(0, 0)},
        "pool2d": {0: _along(0, 0), 1: _windows(lambda op: op.ints("pool_size")[0])},
    }.get(op.kind, {})


def _along(operand: int, axis: int) -> _Cut:
    """The same rows of an axis of an operand."""
    return lambda op, start, stop: ({operand: (slice(None),) * axis + (slice(start, stop),)}, {})


def _queries(op: OpSpec, start: int, stop: int) -> tuple[dict[int, Slices], dict[str, AttrValue]]:
    """Some of the queries, with what masks say of them; the keys that a causal mask leaves begin further on."""
    rows = op.anchor_type.shape[-2]
    slices: dict[int, Slices] = {0: (slice(None),) * op.ints("q_perm")[-2] + (slice(start, stop),)}
    for k in range(3, 3 + len(op.ints("masks"))):
        if len(op.inputs[k].shape) > 1 and op.inputs[k].shape[-2] == rows != 1:
            slices[k] = (..., slice(start, stop), slice(None))
    return slices, {"offset": (op.ints("offset")[0] + start,)}


def _weighted(op: OpSpec) -> int:
    return 2 if op.kind in WEIGHTED else 1


# Of other kinds than those that multiply with weights, or read one operand: how many operands are the anchor's.
_OWN: dict[str, Callable[[OpSpec], int]] = {"attention": lambda op: 3 + len(op.ints("masks"))}


def _windows(height: Callable[[OpSpec], int]) -> _Cut:
    """The rows of the image that windows of `height` read, with as much padding as is left."""

    def cut(op: OpSpec, start: int, stop: int) -> tuple[dict[int, Slices], dict[str, AttrValue]] | None:
        (top, left, _, right), stride = op.ints("padding"), op.ints("strides")[0]
        rows = int(op.inputs[0].shape[1])
        first = start * stride - top
        end = (stop - 1) * stride + (height(op) - 1) * op.ints("dilation")[0] + 1 - top
        inside = slice(max(first, 0), min(end, rows))
        if inside.start >= inside.stop:
            return None
        return {0: (slice(None), inside)}, {"padding": (inside.start - first, left, end - inside.stop, right)}

    return cut
