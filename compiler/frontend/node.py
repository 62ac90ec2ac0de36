"""One ONNX node as its converter sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto
from tvm import ir, relax, tirx

from ..errors import ModelError
from .symbols import Symbols, as_expr, dim_text
from .values import Dim, Value

_MISSING = object()

_DECODE: dict[int, Callable[[AttributeProto], Any]] = {
    AttributeProto.INT: lambda a: int(a.i),
    AttributeProto.FLOAT: lambda a: float(a.f),
    AttributeProto.STRING: lambda a: a.s.decode("utf-8", "replace"),
    AttributeProto.INTS: lambda a: list(a.ints),
    AttributeProto.FLOATS: lambda a: list(a.floats),
    AttributeProto.STRINGS: lambda a: [s.decode("utf-8", "replace") for s in a.strings],
    AttributeProto.GRAPH: lambda a: a.g,
}


class Inputs:
    """The inputs of a node as Relax expressions, made only when asked for: a shape input that a converter reads with
    `Node.dims` never becomes a tensor. An omitted input, or an index past the last, is None."""

    def __init__(self, values: list[Value | None], bb: relax.BlockBuilder):
        self._values, self._bb = values, bb

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        value = self._values[index] if index < len(self._values) else None
        return None if value is None else value.expr(self._bb)

    def __iter__(self) -> Iterator[relax.Expr | None]:
        return (self[i] for i in range(len(self)))


class Node:
    """An ONNX node during conversion: its attributes, inputs and the builder that its operators are emitted to.

    Attributes:
        op_type, name, domain: as in the model; an unnamed node has the name of its first output.
        opset: version of `domain` that the model asks for.
        num_outputs: outputs the node lists (trailing ones may have an empty name: not wanted).
        convert: converts a further node on the given values; see `call`.
        inputs: Relax expressions; None for an omitted optional input and past the last one.
        symbols: simplifies and compares symbolic sizes.
    """

    def __init__(
        self,
        proto: onnx.NodeProto,
        opset: int,
        values: list[Value | None],
        bb: relax.BlockBuilder,
        symbols: Symbols,
        decode: Callable[[onnx.TensorProto], np.ndarray],
        convert: Callable[[onnx.NodeProto, list[Value | None]], Sequence[Value | None]] | None = None,
    ):
        self.op_type, self.domain, self.opset = proto.op_type, proto.domain, opset
        self.name = proto.name or next((o for o in proto.output if o), "")
        self.num_outputs = len(proto.output)
        self.convert = convert
        self._outputs = list(proto.output)
        self.values = values
        self.inputs = Inputs(values, bb)
        self.bb, self.symbols, self._decode = bb, symbols, decode
        self._attributes = {a.name: a for a in proto.attribute}

    def with_values(self, values: list[Value | None]) -> Node:
        """The same node with other inputs."""
        node = copy(self)
        node.values, node.inputs = values, Inputs(values, self.bb)
        return node

    def has(self, index: int) -> bool:
        """Whether input `index` is given."""
        return self._given(index) is not None

    def _given(self, index: int) -> Value | None:
        return self.values[index] if index < len(self.values) else None

    def wants(self, index: int) -> bool:
        """Whether the node names output `index`."""
        return index < len(self._outputs) and bool(self._outputs[index])

    def call_all(
        self, op_type: str, *operands: Value | np.ndarray | None, outputs: int = 1, **attributes: Any
    ) -> list[Value]:
        """The results of one of ONNX's own operators, in the opset of `convert`, as part of this node.

        Args:
            operands: None for an input that is left out.
            outputs: how many results are wanted.
        """
        assert self.convert is not None
        values = [Value(array=np.asarray(x)) if isinstance(x, np.ndarray | np.generic) else x for x in operands]
        names = ["" if v is None else f"{i}" for i, v in enumerate(values)]
        results = [f"{self.name}/{op_type}{i or ''}" for i in range(outputs)]
        proto = onnx.helper.make_node(op_type, names, results, name=self.name, **attributes)
        return [v for v in self.convert(proto, values) if v is not None][:outputs]

    def call(self, op_type: str, *operands: Value | np.ndarray | None, **attributes: Any) -> Value:
        """`call_all` for the first result."""
        return self.call_all(op_type, *operands, **attributes)[0]

    def attr(self, name: str, default: Any = None) -> Any:
        """The decoded attribute: int, float, str, a list of these, or a numpy array; `default` when absent."""
        attribute = self._attributes.get(name)
        if attribute is None:
            return default
        if attribute.type == AttributeProto.TENSOR:
            return self._tensor(attribute)
        decode = _DECODE.get(attribute.type)
        if decode is None:
            raise self.error(f"attribute {name!r} has a kind that is not supported")
        return decode(attribute)

    def _tensor(self, attribute: AttributeProto) -> np.ndarray:
        try:
            return self._decode(attribute.t)
        except ModelError as error:
            place = f"{self.op_type} node {self.name!r}, attribute {attribute.name!r}"
            raise ModelError(f"{place}: {error.message}", error.hint) from error

    def required(self, name: str) -> Any:
        """Like `attr`; ModelError when absent."""
        value = self.attr(name, _MISSING)
        if value is _MISSING:
            raise self.error(f"attribute {name!r} is required and was not found")
        return value

    def value(self, index: int) -> Value:
        """Input `index`; ModelError when it is omitted."""
        value = self._given(index)
        if value is None:
            raise self.error(f"input {index} is required and was not found")
        return value

    def const(self, index: int) -> np.ndarray | None:
        """The content of input `index` if it is known at compile time, else None (also when it is omitted)."""
        value = self._given(index)
        return None if value is None else value.array

    def dims(self, index: int) -> list[Dim] | None:
        """The elements of an integer scalar or vector input, each an int or a symbolic size; None if unknown."""
        value = self._given(index)
        if value is None:
            return None
        if value.array is not None:
            return [int(e) for e in value.array.reshape(-1)]
        if value.shape == [0]:
            return []
        return list(value.elements.reshape(-1)) if value.elements is not None else None

    def is_data(self, index: int) -> bool:
        """Whether input `index` is given, and what it holds is known in runs only."""
        value = self._given(index)
        return value is not None and value.array is None and value.elements is None and value.shape != [0]

    def shape(self, index: int) -> list[Dim]:
        """Dimensions of input `index`: ints where fixed, expressions of symbolic sizes elsewhere."""
        shape = self.value(index).shape
        if shape is None:
            raise self.error(f"input {index} has a shape that depends on data, which this operator does not support")
        return [self.symbols.simplify(d) for d in shape]

    def rank(self, index: int) -> int:
        return len(self.shape(index))

    def dtype(self, index: int) -> str:
        return self.value(index).dtype

    def axis(self, axis: int, rank: int) -> int:
        """`axis` counted from the front; ModelError when it is not in [-rank, rank)."""
        if not -rank <= axis < rank:
            raise self.error(f"axis {axis} is out of range for {rank} dimensions")
        return axis % rank

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Append a binding to the function; returns its variable, with shape and dtype inferred."""
        return self.bb.emit(expr)

    def te(self, function: Callable, *args: Any, name: str) -> relax.Var:
        """Append a call of a tensor-expression function (TE tensors in, TE tensor or tensors out)."""
        return self.bb.emit_te(function, *args, primfunc_name_hint=name)

    def require_equal(self, size: Dim, expected: Dim, what: str) -> None:
        """ModelError unless the sizes are equal; a check when the model runs where that depends. `what` has `size`."""
        size, expected = self.symbols.simplify(size), self.symbols.simplify(expected)
        if isinstance(size, int) and not isinstance(expected, int):
            size, expected = expected, size
        text = f"{'be' if isinstance(expected, int) else 'equal'} {_quoted(expected)}"
        condition = tirx.EQ(as_expr(size), as_expr(expected))
        self._require(self.symbols.equal(size, expected), condition, size, text, what)

    def require_at_least(self, size: Dim, least: Dim, what: str) -> None:
        """Like `require_equal`, for `size >= least`."""
        size, least = self.symbols.simplify(size), self.symbols.simplify(least)
        less = self.symbols.less(size, least)
        text = f"be at least {_quoted(least)}"
        self._require(None if less is None else not less, as_expr(size) >= as_expr(least), size, text, what)

    def require_multiple(self, size: Dim, divisor: Dim, what: str) -> None:
        """Like `require_equal`, for a `size` that `divisor`, which is not 0, divides."""
        size, divisor = self.symbols.simplify(size), self.symbols.simplify(divisor)
        remainder = self.symbols.floormod(size, divisor)
        condition = tirx.EQ(as_expr(remainder), tirx.IntImm("int64", 0))
        text = f"be a multiple of {_quoted(divisor)}"
        self._require(self.symbols.equal(remainder, 0), condition, size, text, what)

    def divisor(self, size: Dim, what: str) -> Dim:
        """`size` as something to divide by: checked to be positive unless it is, or is negative, whatever the run.

        All sizes of a run are computed before anything is checked, so the result is never 0 even where that fails.
        """
        size = self.symbols.simplify(size)
        if isinstance(size, int) or self.symbols.less(0, size) or self.symbols.less(size, 0):
            return size
        self.require_at_least(size, 1, what)
        return self.symbols.maximum(size, 1)

    def _require(self, holds: bool | None, condition: ir.Expr, size: Dim, text: str, what: str) -> None:
        if holds is False:
            raise self.error(f"{what} must {text.replace('`', '')}, found {dim_text(size)}")
        if holds is None:
            self.symbols.require(
                condition, f"`{dim_text(size)}` must {text} for {self.op_type} node {self.name!r} ({what})"
            )

    def cast_shape(self, expr: relax.Expr, wanted: Sequence[Dim]) -> relax.Expr:
        """`expr` with the sizes `wanted`: itself where they can be proved, else behind a check when the model runs.

        A bare variable is written as `n * 1`: TVM takes a variable in a cast for a definition, replaces it everywhere,
        and overflows its stack when the size it is defined as mentions the same variable.
        """
        shape = Value(expr=expr).shape
        if shape is not None and self.symbols.same_shape(shape, wanted):
            return expr
        for axis, (size, expected) in enumerate(zip(shape or (), wanted, strict=False)):
            self.require_equal(size, expected, f"axis {axis} of {self._place(expr)}")
        one = tirx.IntImm("int64", 1)
        sizes = [tirx.Mul(d, one) if isinstance(d, tirx.Var) else d for d in wanted]
        return self.bb.match_cast(expr, relax.TensorType(sizes, expr.ty.dtype))

    def _place(self, expr: relax.Expr) -> str:
        """What to call an operand in a message."""
        indices = [i for i, v in enumerate(self.values) if v is not None and v.is_expr(expr)]
        return f"input {indices[0]}" if indices else "an operand"

    def error(self, message: str, hint: str | None = None) -> ModelError:
        """An error to raise; names the operator and the node."""
        return ModelError(f"{self.op_type} node {self.name!r}: {message}.", hint)


def _quoted(size: Dim) -> str:
    """A size in a message to which a run adds the values of the names between backquotes."""
    return str(size) if isinstance(size, int) else f"`{dim_text(size)}`"
