"""Small random ONNX models: the same seed gives the same model. `random_operators` holds what they consist of.

Every value's shape is known for each of several sizes of the model's dynamic dimensions, so that only nodes are added
that are valid for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
IR_VERSION = 10
# Values larger than this are not made: the models are to be small.
MAX_ELEMENTS = 40_000

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name, its shape for each choice of the dynamic dimensions, and its element type."""

    name: str
    shapes: tuple[Shape, ...]
    element: int = TensorProto.FLOAT

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shapes[0])

    @property
    def shape(self) -> Shape:
        """The shape for the first choice of the dynamic dimensions."""
        return self.shapes[0]

    def fixed(self, axis: int) -> int | None:
        """The size of `axis` if it is the same for all choices."""
        sizes = {shape[axis] for shape in self.shapes}
        return sizes.pop() if len(sizes) == 1 else None


@dataclass
class Maker:
    """A model being made; `node` adds to it what is valid."""

    rng: np.random.Generator
    choices: int = 1
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    def pick(self, *options: Any) -> Any:
        """One of `options`."""
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        """True with `probability`."""
        return bool(self.rng.random() < probability)

    def int(self, low: int, high: int) -> int:
        """An integer between `low` and `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def ints(self, count: int, low: int, high: int) -> list[int]:
        """`count` integers between `low` and `high`."""
        return [self.int(low, high) for _ in range(count)]

    def constant(self, value: np.ndarray | Sequence[int]) -> str:
        """Name of a new initializer; lists of ints become int64."""
        array = value if isinstance(value, np.ndarray) else np.array(value, np.int64)
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def weights(self, *shape: int, fan_in: int = 1) -> str:
        """A float32 initializer scaled so that sums over `fan_in` products keep the range of the data."""
        values = self.rng.uniform(-1, 1, shape) * np.sqrt(3 / fan_in)
        return self.constant(values.astype(np.float32))

    def node(self, op: str, inputs: Sequence[Value | str | None], **attrs: Any) -> Value | None:
        """Append a node; its output, or None if it, or an input, is invalid or too large for some choice of sizes."""
        made = self.node_of(1, op, inputs, **attrs)
        return made[0] if made else None

    def node_of(self, count: int, op: str, inputs: Sequence[Value | str | None], **attrs: Any) -> list[Value]:
        """Append a node of `count` outputs; empty if it is invalid."""
        if any(i is None for i in inputs):
            return []
        names = [f"v{len(self.nodes)}_{k}" for k in range(count)]
        node = helper.make_node(op, [i if isinstance(i, str) else i.name for i in inputs], names, **attrs)
        known = [i for i in inputs if isinstance(i, Value)]
        infos = [[(v.name, v.element, v.shapes[k]) for v in known] for k in range(self.choices)]
        found = [self._infer(node, info) for info in infos]
        if not all(found):
            return []
        self.nodes.append(node)
        made = zip(names, *found, strict=True)
        return [Value(name, tuple(shape for _, shape in of), of[0][0]) for name, *of in made]

    def reshape_by_shape(self, x: Value, keep: int) -> Value:
        """Flatten what follows the first `keep` axes, by a shape computed from that of `x`, as exporters do."""
        names = [f"v{len(self.nodes)}_{op}" for op in ("shape", "kept", "wanted", "flat")]
        kept = [self.constant([0]), self.constant([keep])]
        steps = [("Shape", [x.name]), ("Slice", [names[0], *kept]), ("Concat", [names[1], self.constant([-1])])]
        for (op, inputs), name in zip([*steps, ("Reshape", [x.name, names[2]])], names, strict=True):
            self.nodes.append(helper.make_node(op, inputs, [name], **({"axis": 0} if op == "Concat" else {})))
        return Value(names[3], tuple((*s[:keep], prod(s[keep:])) for s in x.shapes))

    def _infer(self, node: onnx.NodeProto, infos: Sequence[tuple[str, int, Shape]]) -> list[tuple[int, Shape]]:
        """Element types and shapes of the outputs of `node`; empty if it is invalid, or they are too large."""
        inputs = [helper.make_tensor_value_info(*info) for info in dict.fromkeys(infos)]
        used = [numpy_helper.from_array(self.constants[n], n) for n in dict.fromkeys(node.input) if n in self.constants]
        outputs = [helper.make_empty_tensor_value_info(n) for n in node.output]
        try:
            model = self._model([node], inputs, outputs, used)
            inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        except Exception:  # several types, which all mean that the node is invalid
            return []
        types = [info.type.tensor_type for info in inferred.graph.output]
        shapes = [tuple(d.dim_value for d in t.shape.dim) if t.HasField("shape") else (0,) for t in types]
        if any(min(shape, default=1) < 1 or prod(shape) > MAX_ELEMENTS for shape in shapes):
            return []
        return [(t.elem_type, shape) for t, shape in zip(types, shapes, strict=True)]

    def _model(self, nodes: Any, inputs: Any, outputs: Any, constants: Any) -> onnx.ModelProto:
        graph = helper.make_graph(nodes, "random", inputs, outputs, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def model(self, outputs: Sequence[Value]) -> onnx.ModelProto:
        """The model with these outputs, without nodes and initializers that they do not need."""
        needed, nodes = {v.name for v in outputs}, []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                nodes.append(node)
        constants = [numpy_helper.from_array(a, n) for n, a in self.constants.items() if n in needed]
        results = [helper.make_tensor_value_info(v.name, TensorProto.FLOAT, [None] * v.rank) for v in outputs]
        return self._model(nodes[::-1], self.inputs, results, constants)


@dataclass(frozen=True)
class RandomModel:
    """A model and inputs for it, one set for each choice of its dynamic dimensions."""

    model: onnx.ModelProto
    feeds: tuple[dict[str, np.ndarray], ...]

    def __str__(self) -> str:
        """One line per node, for failure messages."""
        graph = self.model.graph
        shapes = {i.name: tuple(i.dims) for i in graph.initializer}
        lines = [f"inputs {[{k: v.shape for k, v in feed.items()} for feed in self.feeds]}"]
        for node in graph.node:
            attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            inputs = [f"{n}{shapes.get(n, '')}" for n in node.input]
            lines.append(f"{','.join(node.output)} = {node.op_type}({', '.join(inputs)}) {attrs or ''}")
        return "\n".join([*lines, f"outputs {[o.name for o in graph.output]}"])


# Kind of the first input -> its dimensions: names of dynamic ones, or "" for a fixed one.
KINDS = {
    "image": ("n", "", "h", "w"),
    "signal": ("n", "", "l"),
    "sequence": ("n", "l", ""),
    "rows": ("n", ""),
}


def random_model(seed: int, steps: int | None = None) -> RandomModel:
    """A model of about `steps` operators (2 to 14 if None), static or with dynamic dimensions."""
    from random_operators import add_operator

    rng = np.random.default_rng(seed)
    dynamic = bool(rng.random() < 0.4)
    maker = Maker(rng, choices=3 if dynamic else 1)
    kind = maker.pick("image", "image", "image", "signal", "sequence", "sequence", "rows")
    _add_inputs(maker, KINDS[kind], dynamic)
    for _ in range(steps or maker.int(2, 14)):
        add_operator(maker)
    outputs = [maker.values[-1]]
    if maker.chance(0.3):
        outputs.append(maker.pick(*maker.values))
    feeds = [{i.name: _random_input(maker, i.name, k) for i in maker.inputs} for k in range(maker.choices)]
    return RandomModel(maker.model(list(dict.fromkeys(outputs))), tuple(feeds))


def _add_inputs(maker: Maker, kind: Sequence[str], dynamic: bool) -> None:
    names = [d if dynamic and d and maker.chance(0.8) else "" for d in kind]
    limit = {2: (1, 70), 3: (1, 24), 4: (3, 15)}[len(kind)]
    fixed = [maker.int(1, 4) if d == "n" else maker.int(*limit) for d in kind]
    drawn = {n: maker.rng.permutation(np.arange(*((1, 6) if n == "n" else limit))) for n in names if n}
    sizes = [{n: int(drawn[n][k]) for n in drawn} for k in range(maker.choices)]
    dims = [n or size for n, size in zip(names, fixed, strict=True)]
    shapes = tuple(tuple(choice.get(n, s) for n, s in zip(names, fixed, strict=True)) for choice in sizes)
    for k in range(maker.pick(1, 1, 2)):
        maker.inputs.append(helper.make_tensor_value_info(f"x{k}", TensorProto.FLOAT, dims))
        maker.values.append(Value(f"x{k}", shapes))


def _random_input(maker: Maker, name: str, choice: int) -> np.ndarray:
    (value,) = [v for v in maker.values if v.name == name]
    return maker.rng.uniform(-1, 1, value.shapes[choice]).astype(np.float32)
