"""Sequences and optionals of which everything is known at compile time become plain tensors.

Before -> after, for sequences whose length is known:

    s = SequenceConstruct(a, b); y = SequenceAt(s, 1)          y = Identity(b)
    s = SplitToSequence(x, [2, 3]); y = ConcatFromSequence(s)  p, q = Split(x, [2, 3]); y = Concat(p, q)
    h = OptionalHasElement(tensor)                             h = Constant(True)

Operators that still want the sequence itself, or outputs of the model, get it from a SequenceConstruct.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, TypeProto, helper, numpy_helper

from .converters.registry import canonical_domain

_MOST_ITEMS = 512
_AXES_ARE_INPUTS = 13  # the opset from which on Squeeze, Unsqueeze and Split take axes and sizes as inputs


def without_known_sequences(
    nodes: Sequence[NodeProto], initializers: Mapping[str, TensorProto], types: Mapping[str, TypeProto], opset: int
) -> list[NodeProto]:
    """`nodes`, in an order in which they can run, rewritten as above; what is no longer needed may still be there."""
    rewriter = _Rewriter(initializers, types, opset)
    for node in nodes:
        rewriter.rewrite(node)
    return rewriter.nodes


class _Rewriter:
    """The nodes so far, the tensors of each known sequence, and what each known optional holds ("" for nothing)."""

    def __init__(self, initializers: Mapping[str, TensorProto], types: Mapping[str, TypeProto], opset: int) -> None:
        self.nodes: list[NodeProto] = []
        self._types, self._opset = types, opset
        self._stored = dict(initializers)
        self._items: dict[str, list[str]] = {}
        self._held: dict[str, str] = {}
        self._count = 0

    def rewrite(self, node: NodeProto) -> None:
        handler = None if canonical_domain(node.domain) else _HANDLERS.get(node.op_type)
        if handler is None or not handler(self, node):
            self.nodes.append(node)

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}/kompilo_{self._count}"

    def add(
        self, node: NodeProto, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object
    ) -> None:
        """Append an operator that does a part of what `node` does."""
        name = f"{node.name or node.output[0]}/{op}"
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), name=name, **attributes))

    def constant(self, node: NodeProto, value: np.ndarray, output: str | None = None) -> str:
        output = output or self.name(node.output[0])
        tensor = numpy_helper.from_array(value, output)
        self.add(node, "Constant", [], [output], value=tensor)
        self._stored[output] = tensor
        return output

    def stored(self, node: NodeProto, index: int) -> np.ndarray | None:
        """Input `index` of a node as integers if it is known; None also if it is omitted."""
        name = node.input[index] if index < len(node.input) else ""
        tensor = self._stored.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return numpy_helper.to_array(tensor)

    def remember(self, node: NodeProto) -> bool:
        """Note the content of a Constant, which stays."""
        value = next((a for a in node.attribute if a.name in ("value", "value_int", "value_ints")), None)
        if value is not None:
            array = np.asarray(helper.get_attribute_value(value), np.int64) if value.name != "value" else None
            self._stored[node.output[0]] = value.t if array is None else numpy_helper.from_array(array)
        return False

    def set_items(self, node: NodeProto, items: list[str]) -> bool:
        """The sequence that `node` gives holds `items`; for those who want the sequence it is made of them."""
        self._items[node.output[0]] = items
        if items:
            self.nodes.append(helper.make_node("SequenceConstruct", items, [node.output[0]], name=node.name))
        else:
            self.nodes.append(node)
        return True

    def construct(self, node: NodeProto) -> bool:
        return self.set_items(node, list(node.input))

    def insert(self, node: NodeProto) -> bool:
        items = self._items.get(node.input[0])
        position = self._position(node, 2, len(items) if items is not None else 0)
        if items is None or position is None or not 0 <= position <= len(items):
            return False
        return self.set_items(node, [*items[:position], node.input[1], *items[position:]])

    def erase(self, node: NodeProto) -> bool:
        items = self._items.get(node.input[0])
        position = self._position(node, 1, -1 if items is None else len(items) - 1, items)
        if items is None or position is None or not 0 <= position < len(items):
            return False
        return self.set_items(node, items[:position] + items[position + 1 :])

    def at(self, node: NodeProto) -> bool:
        items = self._items.get(node.input[0])
        position = self._position(node, 1, None, items)
        if items is None or position is None or not 0 <= position < len(items):
            return False
        self.add(node, "Identity", [items[position]], node.output)
        return True

    def _position(
        self, node: NodeProto, index: int, default: int | None, items: Sequence[str] | None = None
    ) -> int | None:
        """A position counted from the front; None if it is not known."""
        items = self._items.get(node.input[0], []) if items is None else items
        if index >= len(node.input) or not node.input[index]:
            return default
        array = self.stored(node, index)
        if array is None or array.size != 1:
            return None
        position = int(array.reshape(-1)[0])
        return position + len(items) if position < 0 else position

    def length(self, node: NodeProto) -> bool:
        items = self._items.get(node.input[0])
        if items is not None:
            self.constant(node, np.array(len(items), np.int64), node.output[0])
        return items is not None

    def concat(self, node: NodeProto) -> bool:
        items = self._items.get(node.input[0])
        if not items:
            return False
        attributes = {a.name: a.i for a in node.attribute}
        if attributes.get("new_axis", 0):
            items = [self._with_axis(node, item, attributes["axis"], "Unsqueeze") for item in items]
        self.add(node, "Concat", items, node.output, axis=attributes["axis"])
        return True

    def _with_axis(self, node: NodeProto, item: str, axis: int, op: str) -> str:
        """`item` with a new axis (Unsqueeze), or without one of size 1 (Squeeze)."""
        output = self.name(item)
        if self._opset < _AXES_ARE_INPUTS:
            self.add(node, op, [item], [output], axes=[axis])
        else:
            self.add(node, op, [item, self.constant(node, np.array([axis], np.int64))], [output])
        return output

    def split(self, node: NodeProto) -> bool:
        attributes = {a.name: a.i for a in node.attribute}
        axis = attributes.get("axis", 0)
        sizes = self._split_sizes(node, axis)
        if not sizes or len(sizes) > _MOST_ITEMS or min(sizes) < 0:
            return False
        items = [self.name(node.output[0]) for _ in sizes]
        if self._opset < _AXES_ARE_INPUTS:
            self.add(node, "Split", node.input[:1], items, axis=axis, split=sizes)
        else:
            lengths = self.constant(node, np.array(sizes, np.int64))
            self.add(node, "Split", [node.input[0], lengths], items, axis=axis)
        if len(node.input) < 2 and not attributes.get("keepdims", 1):
            items = [self._with_axis(node, item, axis, "Squeeze") for item in items]
        return self.set_items(node, items)

    def _split_sizes(self, node: NodeProto, axis: int) -> list[int]:
        """The sizes of the parts along `axis`; none if they are not known."""
        given = len(node.input) > 1 and bool(node.input[1])
        lengths = self.stored(node, 1)
        if given and lengths is None:
            return []
        if lengths is not None and lengths.ndim == 1:
            return [int(n) for n in lengths]
        part = 1 if lengths is None else int(lengths)
        whole = self._size(node.input[0], axis)
        if whole is None or part < 1:
            return []
        return [part] * (whole // part) + ([whole % part] if whole % part else [])

    def _size(self, name: str, axis: int) -> int | None:
        kind = self._types.get(name)
        dims = kind.tensor_type.shape.dim if kind is not None and kind.tensor_type.HasField("shape") else ()
        if not -len(dims) <= axis < len(dims):
            return None
        return dims[axis].dim_value if dims[axis].HasField("dim_value") else None

    def alias(self, node: NodeProto) -> bool:
        """Identity of a sequence or optional that is known."""
        source, result = node.input[0], node.output[0]
        if source in self._items:
            self._items[result] = self._items[source]
        if source in self._held:
            self._held[result] = self._held[source]
        return False

    def hold(self, node: NodeProto) -> bool:
        self._held[node.output[0]] = node.input[0] if node.input else ""
        return False

    def _is_surely_there(self, name: str) -> bool:
        """Whether `name` is a tensor or a sequence, which operators of optionals take as they are."""
        kind = self._types.get(name)
        return kind is not None and kind.WhichOneof("value") in ("tensor_type", "sequence_type")

    def has_element(self, node: NodeProto) -> bool:
        name = node.input[0] if node.input else ""
        holds = self._held.get(name, name)
        if holds and name not in self._held and not self._is_surely_there(name):
            return False
        self.constant(node, np.array(bool(holds)), node.output[0])
        return True

    def get_element(self, node: NodeProto) -> bool:
        name = self._held.get(node.input[0], node.input[0])
        if not name or not self._is_surely_there(name):
            return False
        if name in self._items:
            self._items[node.output[0]] = self._items[name]
        self.add(node, "Identity", [name], node.output)
        return True


_HANDLERS: dict[str, Callable[[_Rewriter, NodeProto], bool]] = {
    "Constant": _Rewriter.remember,
    "SequenceEmpty": _Rewriter.construct,
    "SequenceConstruct": _Rewriter.construct,
    "SequenceInsert": _Rewriter.insert,
    "SequenceErase": _Rewriter.erase,
    "SequenceAt": _Rewriter.at,
    "SequenceLength": _Rewriter.length,
    "ConcatFromSequence": _Rewriter.concat,
    "SplitToSequence": _Rewriter.split,
    "Identity": _Rewriter.alias,
    "Optional": _Rewriter.hold,
    "OptionalHasElement": _Rewriter.has_element,
    "OptionalGetElement": _Rewriter.get_element,
}
