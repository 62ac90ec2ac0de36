"""TIR expressions as those of the loop-kernel IR: tables of what becomes what.

Floats are computed as the hardware does it: divisions by reciprocals (float_math), numbers that are not NaN, casts from
float to integer for magnitudes below 2^22.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm import tirx
from tvm.ir import Call, TensorLoad, prim

from ....compiler.errors import KompiloError
from ..kernel.affine import Affine
from ..kernel.builder import both, const, op
from ..kernel.ir import Array, Expr, Load, Op, Position, Ref, walk
from ..kernel.types import BOOL, FLOAT32, INT32, Scalar, scalar
from .body import Value, function

_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Max": "max", "Min": "min", "LT": "lt", "LE": "le", "EQ": "eq",
    "And": "and", "Or": "or",
}  # fmt: skip
# The same with its operands the other way round, or with the opposite result.
_SWAPPED = {"GT": "lt", "GE": "le"}
_NEGATED = {"NE": "eq"}
# Added to a float below 2^22 it leaves the nearest integer in the lowest bits; its own bits.
_ROUND, _ROUND_BITS = 1.5 * 2.0**23, 0x4B400000
_FUNCTIONS = ("exp", "tanh", "sigmoid", "rsqrt")

Failure = Callable[[str, object], KompiloError]


class Translator:
    """Expressions of one operator; `arrays` stand for its buffers, `variables` for its loops."""

    def __init__(self, arrays: Mapping[tirx.Buffer, Array], variables: Mapping[tirx.Var, Affine], fail: Failure):
        self.arrays, self.variables, self.fail = arrays, variables, fail
        self.lets: list[tuple[str, Expr]] = []
        self.bound: dict[tirx.Var, Expr] = {}

    def value(self, e: tirx.Expr, prefix: str) -> Value:
        """`e` with what it names on the way; names begin with `prefix`."""
        self.lets, self.prefix = [], prefix
        made = self.expr(e, None)
        return Value(made, tuple(self.lets))

    def name(self, value: Expr) -> Expr:
        """`value`, computed once."""
        name = f"{self.prefix}{len(self.lets)}"
        self.lets.append((name, value))
        return Ref(name, (), value.dtype)

    def affine(self, e: tirx.Expr | int) -> Affine:
        """An index."""
        if isinstance(e, int | tirx.IntImm):
            return Affine(int(e))
        if isinstance(e, tirx.Var) and e in self.variables:
            return self.variables[e]
        if isinstance(e, prim.Cast):
            return self.affine(e.value)
        if isinstance(e, prim.Add | prim.Sub):
            a, b = self.affine(e.a), self.affine(e.b)
            return a + b if isinstance(e, prim.Add) else a - b
        if isinstance(e, prim.Mul):
            a, b = self.affine(e.a), self.affine(e.b)
            if not (a.terms and b.terms):
                return a * b.const if a.terms else b * a.const
        raise self.fail("indices affine in the loops", e)

    def expr(self, e: tirx.Expr, guard: Expr | None) -> Expr:
        """Loads happen where `guard` holds."""
        dtype = self.dtype(e)
        if isinstance(e, TensorLoad):
            return Load(self.arrays[e.source], (self.affine(e.indices[0]),), guard)
        if isinstance(e, tirx.IntImm | tirx.FloatImm):
            return const(float(e.value) if dtype.is_float else int(e.value), dtype)
        if isinstance(e, tirx.Var):
            return self.bound[e] if e in self.bound else Position(self.affine(e), dtype)
        kind = type(e).__name__
        if kind in _BINARY or kind in _SWAPPED or kind in _NEGATED:
            return self._binary(kind, e, dtype, guard)
        rule = _RULES.get(kind)
        if rule is None:
            raise self.fail("arithmetic that FPGA kernels have", e)
        return rule(self, e, dtype, guard)

    def dtype(self, e: tirx.Expr) -> Scalar:
        """The type of `e`."""
        try:
            return scalar(str(e.ty.dtype))
        except KompiloError:
            raise self.fail("integers up to 64 bits, float16 and float32", f"{e.ty.dtype} in {e}") from None

    def _binary(self, kind: str, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
        a, b = self.expr(e.a, guard), self.expr(e.b, guard)
        if isinstance(a, Position) and isinstance(b, Position | type(const(0, INT32))) and kind in ("Add", "Sub"):
            return Position(self.affine(e), dtype)
        if kind in _SWAPPED:
            return op(_SWAPPED[kind], b, a)
        if kind in _NEGATED:
            return op("not", op(_NEGATED[kind], a, b))
        return op(_BINARY[kind], a, b, dtype=dtype)


def _cast(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
    inner = t.expr(e.value, guard)
    if inner.dtype == dtype:
        return inner
    if inner.dtype == BOOL and dtype.is_float:
        return op("select", inner, const(1.0, dtype), const(0.0, dtype), dtype=dtype)
    if dtype == FLOAT32 and not inner.dtype.is_float and inner.dtype != scalar("uint64"):
        return _to_float(t, op("cast", inner, dtype=INT32) if _of_loops(inner) else inner)
    if inner.dtype == FLOAT32 and not dtype.is_float:
        return op("cast", _to_int(t, inner), dtype=dtype)
    if inner.dtype.is_float or dtype.is_float:
        raise t.fail("casts between integers and float32", e)
    return op("cast", inner, dtype=dtype)


def _of_loops(value: Expr) -> bool:
    """Whether an integer is made of loop variables and constants only: sizes, which have 32 bits."""
    return not any(isinstance(e, Load | Ref) for e in walk(value))


def _to_float(t: Translator, value: Expr) -> Expr:
    """An integer as float32, to nearest even: the upper and the lower half are exact, their sum is rounded once.

    Of 64 bits the lower half is a signed number, and each half is rounded first, which counts from 2^31 on.
    """
    if value.dtype.bits == 64:
        whole = t.name(value)
        low = t.name(op("cast", whole, dtype=INT32))
        borrowed = op("cast", op("lt", low, const(0, INT32)), dtype=scalar("uint2"))
        high = op("add", op("shr", whole, const(32, scalar("uint6")), dtype=INT32), borrowed, dtype=INT32)
        return op("add", op("mul", _to_float(t, t.name(high)), const(2.0**32, FLOAT32)), _to_float(t, low))
    value = t.name(op("cast", value, dtype=scalar("int33"))) if value.dtype.kind == "uint" else value
    shift = const(16, scalar("uint5"))
    parts = op("shr", value, shift, dtype=INT32), op("cast", value, dtype=scalar("uint16"))
    if value.dtype.bits <= 16:
        return _small_to_float(value)
    upper, lower = (_small_to_float(part) for part in parts)
    return op("add", op("mul", upper, const(65536.0, FLOAT32)), lower)


def _small_to_float(value: Expr) -> Expr:
    bits = op("add", op("cast", value, dtype=INT32), const(_ROUND_BITS, INT32), dtype=INT32)
    return op("sub", op("bits_float", bits, dtype=FLOAT32), const(_ROUND, FLOAT32))


def _to_int(t: Translator, value: Expr) -> Expr:
    """A float towards zero, as int32."""
    value = t.name(value)
    near = t.name(op("add", value, const(_ROUND, FLOAT32)))
    back, number = t.name(op("sub", near, const(_ROUND, FLOAT32))), _integer_in(near)
    one, zero = const(1, INT32), const(0.0, FLOAT32)
    down = op("and", op("lt", value, back), op("le", zero, value))
    up = op("and", op("lt", back, value), op("lt", value, zero))
    number = t.name(number)
    number = op("select", down, op("sub", number, one, dtype=INT32), number, dtype=INT32)
    return op("select", up, op("add", t.name(number), one, dtype=INT32), t.name(number), dtype=INT32)


def _integer_in(near: Expr) -> Expr:
    """The integer that a float plus _ROUND holds."""
    bits = op("float_bits", near, dtype=INT32)
    return op("sub", bits, const(_ROUND_BITS, INT32), dtype=INT32)


def _select(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
    if isinstance(e.condition, Call) and e.condition.op.name.endswith(".isnan"):
        return t.expr(e.false_value, guard)
    parts = [t.expr(x, guard) for x in (e.condition, e.true_value, e.false_value)]
    return Op("select", tuple(parts), dtype)


def _let(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
    t.bound[e.var] = t.name(t.expr(e.value, guard))
    return t.expr(e.body, guard)


def _divide(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
    if dtype != FLOAT32:
        raise t.fail("divisions of float32", e)
    a = t.expr(e.a, guard)
    if isinstance(e.b, tirx.FloatImm) and e.b.value:
        return op("mul", a, const(1.0 / float(e.b.value), dtype))
    return op("mul", a, function("reciprocal", t.expr(e.b, guard)))


def _power_of_two(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
    """x // 2^n and x % 2^n of integers."""
    factor = int(e.b) if isinstance(e.b, tirx.IntImm) else 0
    if factor < 1 or factor & (factor - 1):
        raise t.fail("integers divided by powers of two", e)
    a, count = t.expr(e.a, guard), factor.bit_length() - 1
    if count == 0:
        return a if isinstance(e, prim.FloorDiv) else const(0, dtype)
    if isinstance(e, prim.FloorDiv):
        return op("shr", a, const(count, scalar("uint6")), dtype=dtype)
    return op("cast", op("cast", a, dtype=scalar(f"uint{count}")), dtype=dtype)


def _call(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
    name = e.op.name.rpartition(".")[2]
    if name in _FUNCTIONS and dtype == FLOAT32:
        return function(name, t.expr(e.args[0], guard))
    rule = _CALLS.get(name)
    if rule is None:
        raise t.fail(f"a function of {', '.join(sorted((*_CALLS, *_FUNCTIONS)))}", name)
    return rule(t, e, dtype, guard)


def _if_then_else(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
    condition = t.expr(e.args[0], guard)
    inside, outside = both(guard, condition), both(guard, op("not", condition))
    parts = (condition, t.expr(e.args[1], inside), t.expr(e.args[2], outside))
    return Op("select", parts, dtype)


def _sqrt(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
    if dtype != FLOAT32:
        raise t.fail("square roots of float32", e)
    x = t.name(t.expr(e.args[0], guard))
    root = op("mul", x, function("rsqrt", x))
    return op("select", op("lt", const(0.0, dtype), x), root, const(0.0, dtype), dtype=dtype)


def _absolute(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
    x = t.name(t.expr(e.args[0], guard))
    return op("max", x, op("sub", const(0.0 if dtype.is_float else 0, dtype), x, dtype=dtype), dtype=dtype)


def _reinterpret(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
    x = t.expr(e.args[0], guard)
    known = {(FLOAT32, INT32): "float_bits", (INT32, FLOAT32): "bits_float"}
    if (x.dtype, dtype) not in known:
        raise t.fail("the bits of float32 or int32", e)
    return op(known[x.dtype, dtype], x, dtype=dtype)


def _shift(name: str, by_value: str | None) -> Callable[..., Expr]:
    def rule(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
        x, amount = e.a, e.b
        if isinstance(amount, tirx.IntImm):
            return op(name, t.expr(x, guard), const(int(amount), scalar("uint6")), dtype=dtype)
        if by_value is None:
            raise t.fail("shifts to the left by constants", e)
        return op(by_value, t.expr(x, guard), op("cast", t.expr(amount, guard), dtype=scalar("uint6")), dtype=dtype)

    return rule


def _mask(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
    mask = int(e.b) if isinstance(e.b, tirx.IntImm) else 0
    if dtype == BOOL:
        return op("and", t.expr(e.a, guard), t.expr(e.b, guard))
    if mask < 1 or mask & (mask + 1):
        raise t.fail("masks of the lowest bits", e)
    low = op("cast", t.expr(e.a, guard), dtype=scalar(f"uint{mask.bit_length()}"))
    return op("cast", low, dtype=dtype)


def _rounded(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
    """To the nearest integer, halves to even; what is beyond 2^22 stays as it is."""
    if dtype != FLOAT32:
        raise t.fail("float32 to round", e)
    x = t.name(t.expr(e.args[0], guard))
    magic, limit = const(_ROUND, FLOAT32), const(2.0**22, FLOAT32)
    near = op("sub", op("add", x, magic), magic)
    small = op("and", op("lt", x, limit), op("lt", const(-(2.0**22), FLOAT32), x))
    return op("select", small, near, x, dtype=dtype)


def _whole(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> tuple[Expr, Expr]:
    """A float32 and the nearest integer to it, exact everywhere: from 2^23 on all are integers. Of `_rounded`, which
    does with less, that holds below 2^22."""
    if dtype != FLOAT32:
        raise t.fail("float32 to round", e)
    x = t.name(t.expr(e.args[0], guard))
    low, high = const(-(2.0**23), dtype), const(2.0**23, dtype)
    magic = t.name(op("select", op("lt", x, const(0.0, dtype)), low, high, dtype=dtype))
    near = op("sub", op("add", x, magic), magic)
    return x, t.name(op("select", op("and", op("lt", x, high), op("lt", low, x)), near, x, dtype=dtype))


def _floor(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
    """The largest integer that is not above."""
    x, near = _whole(t, e, dtype, guard)
    return op("select", op("lt", x, near), op("sub", near, const(1.0, dtype)), near, dtype=dtype)


def _ceil(t: Translator, e: tirx.Expr, dtype: Scalar, guard: Expr | None) -> Expr:
    """The smallest integer that is not below."""
    x, near = _whole(t, e, dtype, guard)
    return op("select", op("lt", near, x), op("add", near, const(1.0, dtype)), near, dtype=dtype)


_RULES: dict[str, Callable[[Translator, tirx.Expr, Scalar, Expr | None], Expr]] = {
    "Cast": _cast,
    "Select": _select,
    "Let": _let,
    "Div": _divide,
    "FloorDiv": _power_of_two,
    "FloorMod": _power_of_two,
    "Call": _call,
    "RShift": _shift("shr", "shrv"),
    "LShift": _shift("shl", None),
    "BitwiseAnd": _mask,
    "Not": lambda t, e, dtype, guard: op("not", t.expr(e.a, guard)),
}
_CALLS: dict[str, Callable[[Translator, tirx.Expr, Scalar, Expr | None], Expr]] = {
    "if_then_else": _if_then_else,
    "sqrt": _sqrt,
    "fabs": _absolute,
    "reinterpret": _reinterpret,
    "round": _rounded,
    "nearbyint": _rounded,
    "floor": _floor,
    "ceil": _ceil,
}
