"""Random operands of an operator with the result they lead to, kept while its candidates come one after the other."""

from __future__ import annotations

import math
from collections import OrderedDict
from math import prod

import numpy as np

from ...errors import UsageError
from ...schedule.op_spec import OpSpec
from .. import reference
from ..bands import truth
from ..numbers import carrier, is_integer, narrow
from .memory import Guarded, guarded

# The anchor's values then spread over -10 .. 10: sigmoid and tanh saturate at the ends, and clip(0, 6) has work to do.
_ANCHOR_DEVIATION = 3.0
# Of a product of two numbers of 8 bits, and what is made of a sum of them where the operator scales it.
_INTEGER_DEVIATION = 74.0**2
_INTEGER_RESULT = 60.0
# Share of a mask that is false.
_HIDDEN = 0.25
# Bytes of operands and results that a worker keeps.
_KEEP = 512 << 20


class Operands:
    """Write-protected operands of `op`, drawn with `seed`; the expected result; and a place for a candidate's result.

    Raises UsageError if the reference does not know `op`.
    """

    def __init__(self, op: OpSpec, seed: int):
        if not reference.supported(op):
            raise UsageError(f"expected an operator of known sizes that the reference knows, found {op}.")
        self.op = op
        arrays = random_operands(op, seed)
        self._inputs = [guarded(a) for a in arrays]
        self.inputs = [g.array for g in self._inputs]
        self.expected = truth(op, self.inputs)
        for _, expected in self.expected.bands:
            expected.values.setflags(write=False)
            expected.slack.setflags(write=False)
        self.output = Guarded(tuple(int(d) for d in op.output.shape), carrier(op.output.dtype))

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return sum(m.nbytes for m in (*self._inputs, self.output)) + self.expected.nbytes


def random_operands(op: OpSpec, seed: int) -> list[np.ndarray]:
    """Arrays of the shapes and dtypes of `op.inputs`, the same for the same seed; bfloat16 as `numbers` carries it.

    Values lie evenly in -1 .. 1, but for weights, which are scaled so that the anchor's results keep a like size
    whatever its depth, and divisors, which stay away from zero. Integers are spread over what 8 bits hold, and
    what an integer result is multiplied by is so small that it comes to a like size too.
    """
    generator = np.random.Generator(np.random.SFC64(seed))
    divisors = {a for s in op.epilogue if s.op == "divide" for a in s.args[1:]}
    factors = {a for s in op.epilogue if s.op == "multiply" for a in s.args}
    summed = _INTEGER_DEVIATION * math.sqrt(max(1, reference.depth(op))) if is_integer(op.anchor_type.dtype) else None
    arrays = []
    for k, t in enumerate(op.inputs):
        values = generator.random(tuple(int(d) for d in t.shape), np.float32)
        if is_integer(t.dtype):
            arrays.append(_integers(values, t.dtype))
            continue
        if t.dtype == "bool":
            arrays.append(values > _HIDDEN)
            continue
        if f"i{k}" in divisors:
            values += np.float32(0.5)
        else:
            values *= 2
            values -= 1
        if k == 1 and op.kind in reference.WEIGHTED:
            values *= np.float32(_ANCHOR_DEVIATION * 3.0 / math.sqrt(max(1, reference.depth(op))))
        if summed is not None and f"i{k}" in factors:
            values *= np.float32(_INTEGER_RESULT / summed)
        arrays.append(narrow(values, t.dtype))
    return arrays


def _integers(values: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers of 0 .. 1 spread over all of a `dtype` of 8 bits; over -128 .. 127 of wider ones."""
    limits = np.iinfo(dtype if np.dtype(dtype).itemsize == 1 else "int8")
    return np.floor(values * (int(limits.max) - int(limits.min) + 0.999) + int(limits.min)).astype(dtype)


class OperandCache:
    """The operands last used, as many as fit into the memory meant for them, but one at least."""

    def __init__(self, limit: int = _KEEP):
        self._limit = limit
        self._kept: OrderedDict[tuple[OpSpec, int], Operands] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return sum(o.nbytes for o in self._kept.values())

    def __contains__(self, key: tuple[OpSpec, int]) -> bool:
        return key in self._kept

    def get(self, op: OpSpec, seed: int) -> Operands:
        """Operands of `op` drawn with `seed`, made at the first request."""
        key = (op, seed)
        if key not in self._kept:
            room = self._limit - 8 * sum(prod(int(d) for d in t.shape) for t in (*op.inputs, op.output) if t.is_static)
            while self._kept and self.nbytes > room:
                self._kept.popitem(last=False)
            self._kept[key] = Operands(op, seed)
        self._kept.move_to_end(key)
        return self._kept[key]
