"""Writing kernels by hand: templates build nests with these."""

from __future__ import annotations

from collections.abc import Sequence

from .affine import Affine, Index, affine, var
from .ir import (
    Accumulate,
    Array,
    Const,
    Expr,
    Kernel,
    Let,
    Load,
    Lookup,
    Loop,
    Nest,
    Op,
    Pop,
    Position,
    Push,
    Reduce,
    Ref,
    Stack,
    Statement,
    Store,
    Stream,
    true,
)
from .ops import OPS, neutral
from .types import BOOL, Scalar, Value, scalar
from .validate import validate

INDEX = scalar("int32")  # of positions as values


def op(name: str, *args: Expr, dtype: Scalar | None = None) -> Op:
    """The operation `name`; its type is `dtype`, bool for comparisons, that of the last operand otherwise."""
    return Op(name, args, dtype or (BOOL if OPS[name].compares else args[-1].dtype))


def const(value: Value, dtype: Scalar) -> Const:
    """A number."""
    return Const(value, dtype)


def equals(index: Index, value: int) -> Expr:
    """Whether an affine index has that value."""
    return op("eq", Position(affine(index), INDEX), Const(value, INDEX))


def at_least(index: Index, value: int) -> Expr:
    """Whether an affine index is not below `value`."""
    return op("le", Const(value, INDEX), Position(affine(index), INDEX))


def below(index: Index, value: int) -> Expr:
    """Whether an affine index is below `value`."""
    return op("lt", Position(affine(index), INDEX), Const(value, INDEX))


def both(*conditions: Expr | None) -> Expr:
    """Whether all conditions hold; None is left out."""
    result: Expr | None = None
    for condition in conditions:
        if condition is not None:
            result = condition if result is None else op("and", result, condition)
    return result if result is not None else true()


def load(array: Array, *indices: Index, guard: Expr | None = None) -> Load:
    """`array[indices]`, zero where `guard` is false."""
    return Load(array, tuple(affine(i) for i in indices), guard)


def lookup(table: Sequence[int], index: Expr, dtype: Scalar) -> Lookup:
    """`table[index]`, constants of an integer type."""
    return Lookup(tuple(int(v) for v in table), index, dtype)


class NestBuilder:
    """Collects the loops and statements of one nest."""

    def __init__(self, name: str, ii: int = 1):
        self.name, self.ii = name, ii
        self._loops: list[Loop] = []
        self._body: list[Statement] = []

    def serial(self, name: str, extent: int) -> Affine:
        """A loop inside of those before; its variable."""
        self._loops.append(Loop(name, extent))
        return var(name)

    def let(self, name: str, value: Expr, lanes: Sequence[Loop] = ()) -> Named:
        """Names a value of this iteration."""
        self._body.append(Let(name, tuple(lanes), value))
        return Named(name, value.dtype)

    def stack(self, name: str, parts: Sequence[Expr], lanes: Sequence[Loop], axis: int = 0) -> Named:
        """Names `parts` side by side along a new dimension at `axis`, each over `lanes`."""
        self._body.append(Stack(name, tuple(lanes), axis, tuple(parts)))
        return Named(name, parts[0].dtype)

    def accumulate(
        self,
        name: str,
        array: Array,
        indices: Sequence[Index],
        value: Expr,
        first: Expr,
        lanes: Sequence[Loop] = (),
        combine: str = "add",
        init: Expr | None = None,
    ) -> Named:
        """See `Accumulate`; starts from the operation's neutral value unless `init` is given. Names the new value."""
        start = init if init is not None else Const(neutral(combine, array.dtype), array.dtype)
        where = tuple(affine(i) for i in indices)
        self._body.append(Accumulate(name, tuple(lanes), array, where, combine, value, first, start))
        return Named(name, array.dtype)

    def store(
        self, array: Array, indices: Sequence[Index], value: Expr, lanes: Sequence[Loop] = (), guard: Expr | None = None
    ) -> None:
        """`array[indices] = value` where `guard` holds."""
        self._body.append(Store(tuple(lanes), array, tuple(affine(i) for i in indices), value, guard))

    def pop(self, name: str, stream: Stream, guard: Expr | None = None) -> Named:
        """Takes a token."""
        self._body.append(Pop(name, stream, guard))
        return Named(name, stream.dtype)

    def push(self, stream: Stream, value: Expr, lanes: Sequence[Loop] = (), guard: Expr | None = None) -> None:
        """Appends a token."""
        self._body.append(Push(tuple(lanes), stream, value, guard))

    def nest(self) -> Nest:
        """What was collected."""
        return Nest(self.name, tuple(self._loops), tuple(self._body), self.ii)


class Named:
    """A named value; `value[lanes]` refers to one lane of it, `value[()]` to the only one."""

    def __init__(self, name: str, dtype: Scalar):
        self._name, self._dtype = name, dtype

    def __getitem__(self, indices: Index | tuple[Index, ...]) -> Ref:
        where = indices if isinstance(indices, tuple) else (indices,)
        return Ref(self._name, tuple(affine(i) for i in where), self._dtype)


def reduce(name: str, lanes: Sequence[Loop], value: Expr) -> Reduce:
    """`value` over `lanes` combined by "add", "max" or "min"."""
    return Reduce(name, tuple(lanes), value, value.dtype)


def array(
    name: str, shape: Sequence[int], dtype: str, memory: str = "bram", factors: Sequence[int] = (), role: str = "local"
) -> Array:
    """An array; without `factors` in one bank, or in a bank for each element if it is in registers."""
    default = tuple(shape) if memory == "register" else (1,) * len(shape)
    return Array(name, tuple(shape), scalar(dtype), memory, tuple(factors) or default, role)


def kernel(name: str, arrays: Sequence[Array], nests: Sequence[Nest], streams: Sequence[Stream] = ()) -> Kernel:
    """A checked kernel; its nests run at once if streams join them, else one after the other. KompiloError if
    unsound."""
    made = Kernel(name, tuple(arrays), tuple(nests), tuple(streams), dataflow=bool(streams))
    validate(made)
    return made
