"""Changes that break ONNX models: wiring, types, sizes, attributes, stored tensors, functions, inner graphs, bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, MutableSequence, Sequence

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPERATORS = [*sorted({schema.name for schema in onnx.defs.get_all_schemas()}), "NoSuchOperator", ""]
MICROSOFT = """
Attention BiasGelu BiasSplitGelu DynamicQuantizeLSTM DynamicQuantizeMatMul EmbedLayerNormalization FastGelu FusedConv
FusedGemm FusedMatMul Gelu GroupQueryAttention MatMulIntegerToFloat MatMulNBits MoE MultiHeadAttention
NhwcConv QAttention QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul
QLinearSigmoid QLinearSoftmax QMoE QuickGelu RotaryEmbedding SimplifiedLayerNormalization SkipLayerNormalization
SkipSimplifiedLayerNormalization
""".split()  # noqa: SIM905
FOREIGN = [(name, "com.microsoft") for name in MICROSOFT]
FOREIGN += sorted({(s.name, s.domain) for s in onnx.defs.get_all_schemas() if s.domain == "ai.onnx.ml"})
DOMAINS = ["", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft", "own", "no.such"]
SIZES = [0, 1, 2, 3, 7, 255, 2**16, 2**31, 2**40, 2**62, -1, -2, -(2**63)]
NUMBERS = [0, 1, -1, 2, 3, 5, 100, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63)]
FLOATS = [0.0, 1.0, -1.0, 1e-30, 1e30, float("inf"), float("-inf"), float("nan")]
PLACES = ["weights.bin", "../weights.bin", "/etc/hostname", "/dev/zero", "", ".", "no/such/file", "a" * 300, "x\0y"]
TEXTS = [b"", b"NOTSET", b"constant", b"ij,jk->ik", b"\xff\xfe", b"a" * 1000, b"linear", b"add"]

Change = Callable[[ModelProto, random.Random], None]


def mutated(model: bytes, rng: random.Random) -> bytes:
    """The serialised model after one to four changes, once in a while to the bytes themselves."""
    proto = ModelProto.FromString(model)
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 4])):
        change = rng.choice(CHANGES)
        try:
            change(proto, rng)
        except (LookupError, ValueError, TypeError, DecodeError):
            continue  # the model has no place for this change
    content = proto.SerializeToString()
    if content and rng.random() < 0.06:
        content = _bytes(content, rng)
    return content


def _bytes(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    match rng.randrange(3):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
        case _:
            return content[:place] + rng.randbytes(rng.randrange(9)) + content[place:]


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph, and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def _graph(model: ModelProto, rng: random.Random) -> GraphProto:
    return rng.choice(list(graphs(model.graph)))


def _node(model: ModelProto, rng: random.Random) -> NodeProto:
    return rng.choice(_graph(model, rng).node)


def _names(graph: GraphProto) -> list[str]:
    names = [info.name for info in (*graph.input, *graph.output)] + [tensor.name for tensor in graph.initializer]
    return names + [name for node in graph.node for name in (*node.input, *node.output)] + ["", "nowhere"]


def _mix_up(names: MutableSequence[str], chances: int, model: ModelProto, rng: random.Random) -> None:
    """One of `names` becomes another; once in `chances` one more comes, and as often the last goes."""
    match rng.randrange(chances):
        case 0:
            names.append(rng.choice(_names(model.graph)))
        case 1:
            del names[-1]
        case _:
            names[rng.randrange(len(names))] = rng.choice(_names(_graph(model, rng)))


def rewire(model: ModelProto, rng: random.Random) -> None:
    """An input of a node becomes another tensor, or none; or one more comes; or the last goes."""
    _mix_up(_node(model, rng).input, 4, model, rng)


def rename(model: ModelProto, rng: random.Random) -> None:
    """An output gets the name of another tensor: produced twice, or from itself."""
    _mix_up(_node(model, rng).output, 5, model, rng)


def cycle(model: ModelProto, rng: random.Random) -> None:
    """A node reads what a later one, or itself, gives."""
    nodes = _graph(model, rng).node
    first = rng.randrange(len(nodes))
    last = nodes[rng.randrange(first, len(nodes))]
    nodes[first].input[rng.randrange(len(nodes[first].input))] = rng.choice(last.output)


def nodes_of_graph(model: ModelProto, rng: random.Random) -> None:
    """A node goes, comes twice, or moves."""
    nodes = _graph(model, rng).node
    place = rng.randrange(len(nodes))
    match rng.randrange(3):
        case 0:
            del nodes[place]
        case 1:
            nodes.append(nodes[place])
        case _:
            nodes.insert(rng.randrange(len(nodes)), nodes.pop(place))


def operator(model: ModelProto, rng: random.Random) -> None:
    """A node is of another operator or domain."""
    node = _node(model, rng)
    if rng.random() < 0.75:
        node.op_type = rng.choice(OPERATORS)
    else:
        node.domain = rng.choice(DOMAINS)


def foreign(model: ModelProto, rng: random.Random) -> None:
    """A node is of an operator of another domain, which the model imports."""
    node = _node(model, rng)
    node.op_type, node.domain = rng.choice(FOREIGN)
    model.opset_import.append(helper.make_opsetid(node.domain, 1 if node.domain == "com.microsoft" else 5))


def attribute(model: ModelProto, rng: random.Random) -> None:
    """An attribute goes, comes twice, or has another type, name or value."""
    node = _node(model, rng)
    place = rng.randrange(len(node.attribute))
    found = node.attribute[place]
    match rng.randrange(9):
        case 0:
            del node.attribute[place]
        case 1:
            node.attribute.append(found)
        case 2:
            found.type = rng.randrange(15)
        case 3:
            found.name = rng.choice(["", "axis", "axes", "perm", "pads", "body", "value", "to", "mode"])
        case 4:
            found.ref_attr_name = rng.choice(["", "alpha", found.name])
        case 5:
            found.ClearField(rng.choice(["i", "f", "s", "t", "g", "ints", "floats", "strings"]))
        case _:
            _content(found, rng)


def _content(found: AttributeProto, rng: random.Random) -> None:
    match found.type:
        case AttributeProto.INT:
            found.i = rng.choice(NUMBERS)
        case AttributeProto.FLOAT:
            found.f = rng.choice(FLOATS)
        case AttributeProto.STRING:
            found.s = rng.choice(TEXTS)
        case AttributeProto.INTS:
            _list(found.ints, NUMBERS, rng)
        case AttributeProto.FLOATS:
            _list(found.floats, FLOATS, rng)
        case AttributeProto.STRINGS:
            _list(found.strings, TEXTS, rng)
        case AttributeProto.TENSOR:
            tensor(found.t, rng)


def _list(values: list, choices: Sequence, rng: random.Random) -> None:
    match rng.randrange(3):
        case 0 if values:
            del values[-1]
        case 1:
            values.append(rng.choice(choices))
        case _:
            values[rng.randrange(len(values))] = rng.choice(choices)


def new_attribute(model: ModelProto, rng: random.Random) -> None:
    """A node gets one of its operator's attributes, with any value."""
    node = _node(model, rng)
    domain = node.domain if node.domain != "ai.onnx" else ""
    found = onnx.defs.has(node.op_type, domain)
    known = list(onnx.defs.get_schema(node.op_type, domain).attributes.values()) if found else []
    chosen = rng.choice(known)
    made = node.attribute.add(name=chosen.name, type=chosen.type.value)
    for _ in range(rng.randrange(4)):
        _content(made, rng) if made.ints or made.type < AttributeProto.FLOATS else made.ints.append(rng.choice(NUMBERS))


def value_type(model: ModelProto, rng: random.Random) -> None:
    """What the model says of an input or output: element type, sizes, kind."""
    graph = _graph(model, rng)
    info = rng.choice([*graph.input, *graph.input, *graph.output, *graph.value_info])
    kind = info.type.tensor_type
    match rng.randrange(8):
        case 0:
            kind.elem_type = rng.randrange(30)
        case 1:
            info.type.Clear()
        case 2:
            info.type.CopyFrom(helper.make_sequence_type_proto(info.type))
        case 3:
            info.type.CopyFrom(helper.make_optional_type_proto(info.type))
        case 4:
            kind.ClearField("shape")
        case 5:
            kind.shape.dim.add().dim_value = rng.choice(SIZES)
        case 6:
            rng.choice(kind.shape.dim).dim_param = rng.choice(["n", "", "n + 1", "1x", "?", "ü", "a" * 500])
        case _:
            rng.choice(kind.shape.dim).dim_value = rng.choice(SIZES)


def signature(model: ModelProto, rng: random.Random) -> None:
    """An input or output of a graph goes, comes twice, or has another name."""
    graph = _graph(model, rng)
    infos = rng.choice([graph.input, graph.output])
    place = rng.randrange(len(infos))
    match rng.randrange(3):
        case 0:
            del infos[place]
        case 1:
            infos.append(infos[place])
        case _:
            infos[place].name = rng.choice(_names(graph))


def header(model: ModelProto, rng: random.Random) -> None:
    """Versions and domains that the model asks for."""
    match rng.randrange(5):
        case 0:
            model.ir_version = rng.choice([0, 1, 3, 7, 13, 99, -1])
        case 1:
            model.opset_import.append(helper.make_opsetid(rng.choice(DOMAINS), rng.choice([0, 1, 9, 999, -5])))
        case 2:
            del model.opset_import[rng.randrange(len(model.opset_import))]
        case _:
            rng.choice(model.opset_import).version = rng.choice([0, 1, 6, 7, 9, 11, 12, 13, 18, 21, 26, 28, 29, 2**40])


def tensor(stored: TensorProto, rng: random.Random) -> None:
    """A stored tensor of other sizes or type, cut, longer, or said to lie in a file."""
    match rng.randrange(8):
        case 0:
            stored.dims[rng.randrange(len(stored.dims))] = rng.choice(SIZES)
        case 1:
            stored.dims.append(rng.choice(SIZES))
        case 2:
            stored.data_type = rng.randrange(30)
        case 3:
            stored.raw_data = stored.raw_data[: rng.randrange(len(stored.raw_data) + 1)]
        case 4:
            stored.raw_data += rng.randbytes(rng.randrange(1, 17))
        case 5:
            rng.choice([stored.float_data, stored.int32_data, stored.int64_data, stored.double_data]).append(7)
        case 6:
            stored.data_location = TensorProto.EXTERNAL
            del stored.external_data[:]
            entries = {"location": rng.choice(PLACES), "offset": rng.choice(NUMBERS), "length": rng.choice(NUMBERS)}
            for key in rng.sample(sorted(entries), rng.randrange(4)):
                stored.external_data.add(key=key, value=str(entries[key]))
        case _:
            stored.name = rng.choice(["", "nowhere", stored.name])


def initializer(model: ModelProto, rng: random.Random) -> None:
    """Like `tensor`, for a stored one of a graph, which may also go or come twice."""
    stored = _graph(model, rng).initializer
    place = rng.randrange(len(stored))
    match rng.randrange(5):
        case 0:
            del stored[place]
        case 1:
            stored.append(stored[place])
        case _:
            tensor(stored[place], rng)


def known_input(model: ModelProto, rng: random.Random) -> None:
    """An input becomes a constant with numbers that may be no axis, size or index."""
    graph = model.graph
    info = rng.choice(graph.input)
    dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
    shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
    if np.prod(shape, dtype=float) > 10_000 or dtype.kind == "O":
        return
    count = int(np.prod(shape))
    values = np.array([rng.choice(NUMBERS if rng.random() < 0.5 else [-1, 0, 1, 2, 3]) for _ in range(count)], object)
    with np.errstate(all="ignore"):
        array = (
            values.astype(np.float64).astype(dtype) if dtype.kind not in "iu" else values.astype(np.int64).astype(dtype)
        )
    graph.initializer.append(numpy_helper.from_array(array.reshape(shape), info.name))
    if rng.random() < 0.5:
        graph.input.remove(info)


def function(model: ModelProto, rng: random.Random) -> None:
    """A function that stands for a node's operator, and may call itself or another that calls it."""
    node = _node(model, rng)
    count, domain = rng.randrange(1, 4), rng.choice([node.domain, "own"])
    node.domain = domain
    names = [node.op_type, *(f"{node.op_type}_{i}" for i in range(1, count))]
    for index, name in enumerate(names):
        inner = NodeProto()
        inner.CopyFrom(node)
        inner.op_type = names[(index + 1) % count] if rng.random() < 0.7 else rng.choice(OPERATORS)
        opsets = [] if rng.random() < 0.1 else [*model.opset_import, helper.make_opsetid("own", 1)]
        made = helper.make_function(
            domain, name, dict.fromkeys(node.input), dict.fromkeys(node.output), [inner], opsets
        )
        model.functions.append(made)
    if rng.random() < 0.8:
        model.opset_import.append(helper.make_opsetid("own", 1))


def nested(model: ModelProto, rng: random.Random) -> None:
    """All nodes go into the branches of an `If`, or the body of a `Loop`, once or many times over."""
    graph = model.graph
    outputs = [info.name for info in graph.output]
    count = rng.choice([1, 1, 2, 3, 28])
    for depth in range(count):
        inner = GraphProto(name=f"g{depth}")
        inner.node.extend(graph.node)
        inner.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        del graph.node[:]
        condition = rng.choice([info.name for info in graph.input] or ["nowhere"])
        if rng.random() < 0.8:
            both = {"then_branch": inner, "else_branch": inner if count < 4 else GraphProto()}
            graph.node.append(helper.make_node("If", [condition], outputs, **both))
        else:
            names = [("step", 7, []), ("going", 9, []), *((f"v{i}", 1, None) for i in range(rng.randrange(3)))]
            inner.input.extend(helper.make_tensor_value_info(*name) for name in names)
            if rng.random() < 0.8:
                inner.output.insert(0, onnx.ValueInfoProto(name=rng.choice(["going", *outputs])))
            inputs = [rng.choice(["", condition]) for _ in range(rng.randrange(5))]
            graph.node.append(helper.make_node("Loop", inputs, outputs, body=inner))


CHANGES: list[Change] = [
    rewire, rewire, rename, cycle, nodes_of_graph, operator, operator, foreign, attribute, attribute, attribute,
    new_attribute, value_type, value_type, value_type, signature, header, initializer, initializer, known_input,
    known_input, function, nested,
]  # fmt: skip
