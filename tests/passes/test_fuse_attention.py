"""FuseAttention: the spellings that exporters use, what blocks it, and the same numbers behind it as before."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from kompilo.compiler.frontend.importer import import_model
from kompilo.compiler.passes import tensors
from kompilo.compiler.passes.attention import NAME, attention_attrs
from kompilo.compiler.passes.common_subexpressions import CommonSubexpressions
from kompilo.compiler.passes.fuse_attention import FuseAttention, _spec
from kompilo.compiler.passes.graph import Graph
from kompilo.compiler.passes.simplify import Simplify
from kompilo.compiler.schedule.masks import ADDED, KEEPS
from kompilo.compiler.schedule.op_spec import TensorType
from kompilo.compiler.tune.reference import evaluate

from support import apply, build, const, f32, inputs_for, ops

op = relax.op
HIDDEN = -np.inf
SMALL = float(np.finfo("float32").min)


@dataclass(frozen=True)
class Taking:
    """Stands for a selector whose target has a template for attention, or for nothing."""

    takes: bool = True
    asked: list = field(default_factory=list)
    spec: None = None
    precision: str = "fp32"

    @property
    def target(self):
        return self

    @property
    def templates(self):
        return [self]

    def match(self, op, spec):
        self.asked.append(op)
        return object() if self.takes else None


def emit(value):
    return relax.BlockBuilder.current().emit(value)


def heads(x, order=(0, 2, 1, 3)):
    """(B, S, H, D) -> (B, H, S, D)"""
    return emit(op.permute_dims(x, order))


def attend(scores, v):
    return emit(op.matmul(emit(op.nn.softmax(scores, -1)), v))


def scaled(q, k, scale=0.25):
    return emit(op.multiply(emit(op.matmul(q, k)), const(scale)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


NUMPY = {
    "matmul": lambda n, a, b: np.matmul(a, b),
    "nn.softmax": lambda n, x: softmax(x),
    "permute_dims": lambda n, x: x.transpose([int(a) for a in n.attrs.axes]),
    "reshape": lambda n, x, shape: x.reshape(shape),
    "broadcast_to": lambda n, x, shape: np.broadcast_to(x, shape),
    "astype": lambda n, x: x.astype(str(n.var.ty.dtype)),
    "where": lambda n, c, a, b: np.where(c, a, b),
    "max": lambda n, x: x.max(tuple(int(a) for a in n.attrs.axis), keepdims=True),
    "multiply": lambda n, a, b: a * b,
    "divide": lambda n, a, b: a / b,
    "add": lambda n, a, b: a + b,
    "equal": lambda n, a, b: a == b,
    NAME: lambda n, *x: evaluate(sized(n, x), x).values,
}


def sized(node, arrays):
    """The operator of a node, with the sizes of its operands."""
    types = tuple(TensorType(x.shape, str(x.dtype)) for x in arrays)
    found = _spec(node.value)
    q, v = (x.transpose(found.ints(n)) for x, n in ((arrays[0], "q_perm"), (arrays[2], "v_perm")))
    result = TensorType((*q.shape[:-1], v.shape[-1]), found.anchor_type.dtype)
    return replace(found, inputs=types, anchor_type=result, output=result)


def computed(mod, arrays, sizes=None):
    """The result of `main` by numpy, operator by operator."""
    graph = Graph.of(mod)
    known = dict(zip(graph.params, arrays, strict=True))

    def value(expr):
        if isinstance(expr, relax.ShapeExpr):
            return [int(d) if isinstance(d, tvm.tirx.IntImm) else sizes[d.name] for d in expr.values]
        return known[expr] if isinstance(expr, relax.Var) else tensors.array(expr)

    with np.errstate(all="ignore"):
        for node in graph.nodes:
            args = [value(a) for a in node.args]
            known[node.var] = args[0] if node.op == "alias" else NUMPY[node.op](node, *args)
    return next(known[v] for v in graph.outputs)


def fuse(mod, taking=None):
    return apply(mod, Simplify(), CommonSubexpressions(), FuseAttention(taking or Taking()))


def check(mod, sizes=None, rtol=1e-4, atol=1e-5):
    """The only attention of the module behind the pass; its numbers are those of before."""
    after = fuse(mod)
    found = [n for n in Graph.of(after).nodes if n.op == NAME]
    assert len(found) == 1, ops(after)
    assert "nn.softmax" not in ops(after)
    assert "matmul" not in ops(after)
    arrays = inputs_for(mod, sizes)
    np.testing.assert_allclose(computed(after, arrays, sizes), computed(mod, arrays, sizes), rtol=rtol, atol=atol)
    return attention_attrs(found[0].value), found[0].value.args


def inputs(rows=5, keys=7, heads_=2, own=None, depth=4, dtype="float32"):
    own = own or heads_
    return [((2, n, h, depth), dtype) for n, h in ((rows, heads_), (keys, own), (keys, own))]


def on_heads(body, **sizes):
    """A module whose body gets q, k turned, v, and further inputs."""
    extra = sizes.pop("extra", [])
    return build(
        [*inputs(**sizes), *extra],
        lambda q, k, v, *more: body(heads(q), heads(k, (0, 2, 3, 1)), heads(v), *more),
    )


SCALES = {
    "product": lambda q, k: scaled(q, k),
    "divided": lambda q, k: emit(op.divide(emit(op.matmul(q, k)), const(4.0))),
    "queries": lambda q, k: emit(op.matmul(emit(op.multiply(q, const(0.25))), k)),
    "keys": lambda q, k: emit(op.matmul(q, emit(op.multiply(k, const(0.25))))),
    "both": lambda q, k: emit(op.matmul(emit(op.multiply(q, const(0.5))), emit(op.multiply(k, const([0.5]))))),
    "number_first": lambda q, k: emit(op.multiply(const(0.25), emit(op.matmul(q, k)))),
}


@pytest.mark.parametrize("spelling", SCALES)
def test_scales(spelling):
    found, args = check(on_heads(lambda q, k, v: attend(SCALES[spelling](q, k), v)))
    assert found["scale"] == pytest.approx(0.25)
    assert [found[n] for n in ("q_perm", "k_perm", "v_perm")] == [(0, 2, 1, 3)] * 3
    assert len(args) == 3


@pytest.mark.parametrize("shape", [(2, 1, 1, 7), (2, 1, 5, 7), (1, 1, 5, 7), (5, 7), (2, 2, 5, 7)])
def test_added_masks(shape):
    found, args = check(
        on_heads(lambda q, k, v, m: attend(emit(op.add(m, scaled(q, k))), v), extra=[(shape, "float32")])
    )
    assert found["masks"] == (ADDED,)
    assert tuple(int(d) for d in args[3].ty.shape) == shape


def test_masks_apply_in_their_order():
    def body(q, k, v, keep, bias):
        scores = emit(op.where(emit(op.astype(keep, "bool")), scaled(q, k), const(-30.0)))
        return attend(emit(op.add(scores, bias)), v)

    found, _ = check(on_heads(body, extra=[((5, 7), "int32"), ((2, 1, 1, 7), "float32")]))
    assert found["masks"] == (KEEPS, ADDED)
    assert float(found["fill"]) == -30.0


def causal(rows, keys, offset, fill):
    return np.where(np.tri(rows, keys, offset, dtype=bool), 0.0, fill)[None, None]


@pytest.mark.parametrize("fill", [HIDDEN, SMALL, -1e9])
@pytest.mark.parametrize("offset", [0, 2])
def test_causal_constants(fill, offset):
    mask = const(causal(5, 7, offset, fill))
    found, args = check(on_heads(lambda q, k, v: attend(emit(op.add(scaled(q, k), mask)), v)))
    assert (found["causal"], found["offset"], found["masks"], len(args)) == (1, offset, (), 3)


def test_causal_by_choice():
    seen = const(np.tri(6, 6, dtype=bool)[None, None], "bool")
    body = lambda q, k, v: attend(emit(op.where(seen, scaled(q, k), const(SMALL))), v)  # noqa: E731
    found, _ = check(on_heads(body, rows=6, keys=6))
    assert (found["causal"], found["offset"]) == (1, 0)


def with_positions(comparison, keys_first=False, shift=0, chosen=("fill", "zero"), fill=HIDDEN):
    """Attention of open size whose mask compares positions: where(rows < keys + shift, fill, 0)."""
    make = helper.make_node
    known = {"begin": 0, "step": 1, "axis": 1, "first": 0, "second": 1, "shift": shift}
    constants = [numpy_helper.from_array(np.array(v, "i8"), name) for name, v in known.items()]
    constants += [numpy_helper.from_array(np.array(v, "f4"), n) for n, v in (("fill", fill), ("zero", 0.0))]
    sides = ("shifted", "rows") if keys_first else ("rows", "shifted")
    nodes = [
        make("Shape", ["q"], ["shape"]),
        make("Gather", ["shape", "axis"], ["size"]),
        make("Range", ["begin", "size", "step"], ["positions"]),
        make("Unsqueeze", ["positions", "second_axes"], ["rows"]),
        make("Unsqueeze", ["positions", "first_axes"], ["keys"]),
        make("Add", ["keys", "shift"], ["shifted"]),
        make(comparison, list(sides), ["compared"]),
        make("Where", ["compared", *chosen], ["mask"]),
        make("Transpose", ["k"], ["turned"], perm=[0, 2, 1]),
        make("MatMul", ["q", "turned"], ["products"]),
        make("Add", ["products", "mask"], ["scores"]),
        make("Softmax", ["scores"], ["weights"]),
        make("MatMul", ["weights", "v"], ["y"]),
    ]
    constants += [numpy_helper.from_array(np.array([v], "i8"), n) for n, v in (("first_axes", 0), ("second_axes", 1))]
    tensor = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, "n", 4))  # noqa: E731
    graph = helper.make_graph(nodes, "g", [tensor(n) for n in "qkv"], [tensor("y")], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (found,) = [n for n in Graph.of(fuse(import_model(model, None).mod)).nodes if n.op == NAME]
    attrs = attention_attrs(found.value)
    return (attrs["causal"], attrs["offset"], attrs["masks"])


COMPUTED = {
    "less": (("Less",), 0),
    "less or equal": (("LessOrEqual",), -1),
    "mirrored": (("Greater", True), 0),
    "seen": (("GreaterOrEqual", False, 0, ("zero", "fill")), 0),
    "seen from one on": (("Greater", False, 0, ("zero", "fill")), -1),
    "shifted": (("Less", False, -3), 3),
    "numbers": (("Less", False, 0, ("fill", "zero"), SMALL), 0),
    "the wrong half": (("Greater",), None),
    "what is seen becomes small": (("Less", False, 0, ("zero", "fill")), None),
    "an empty row of numbers": (("LessOrEqual", False, 0, ("fill", "zero"), SMALL), None),
    "hides nothing": (("Less", False, 0, ("fill", "zero"), -4.0), None),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_causal_by_computed_positions(name):
    arguments, offset = COMPUTED[name]
    assert with_positions(*arguments) == ((0, 0, (ADDED,)) if offset is None else (1, offset, ()))


@pytest.mark.parametrize(
    "mask",
    [
        causal(5, 7, 0, -3.0),  # hides nothing
        np.where(np.eye(5, 7, dtype=bool), 0.0, HIDDEN),
        causal(5, 7, -1, SMALL),  # a row that sees nothing takes the mean of all
    ],
    ids=["small", "diagonal", "empty row"],
)
def test_other_constants_are_masks(mask):
    found, args = check(on_heads(lambda q, k, v: attend(emit(op.add(scaled(q, k), const(mask))), v)))
    assert (found["causal"], found["masks"], len(args)) == (0, (ADDED,), 4)


def test_causal_numbers_beside_another_mask_stay_a_mask():
    def body(q, k, v, padding):
        scores = emit(op.add(scaled(q, k), const(causal(5, 7, 2, SMALL))))
        return attend(emit(op.add(scores, emit(op.multiply(padding, const(SMALL))))), v)

    assert ops(fuse(on_heads(body, extra=[((2, 1, 1, 7), "float32")]))).count(NAME) == 0
    infinite = lambda q, k, v, m: attend(  # noqa: E731
        emit(op.add(emit(op.add(scaled(q, k), const(causal(5, 7, 2, HIDDEN)))), m)), v
    )
    found, _ = check(on_heads(infinite, extra=[((2, 1, 1, 7), "float32")]))
    assert (found["causal"], found["masks"]) == (1, (ADDED,))


def repeated(x, times):
    """(B, S, h, D) -> (B, h * times, S, D) as exporters of grouped queries write it."""
    b, n, h, d = (int(s) for s in x.ty.shape)
    wide = emit(op.reshape(heads(x), (b, h, 1, n, d)))
    return emit(op.reshape(emit(op.broadcast_to(wide, (b, h, times, n, d))), (b, h * times, n, d)))


@pytest.mark.parametrize("own", [1, 2])
def test_grouped_queries(own):
    def body(q, k, v):
        keys = emit(op.permute_dims(repeated(k, 4 // own), (0, 1, 3, 2)))
        return attend(scaled(heads(q), keys), repeated(v, 4 // own))

    mod = build(inputs(heads_=4, own=own), body)
    found, args = check(mod)
    # Nothing is copied; turning a single head is a reshape.
    stored = list(mod["main"].params)
    assert set(ops(fuse(mod))) <= {NAME, "reshape"}
    assert len(args) == len(stored)
    assert own == 1 or all(a.same_as(p) for a, p in zip(args, stored, strict=True))
    assert own == 1 or [found[n] for n in ("q_perm", "k_perm", "v_perm")] == [(0, 2, 1, 3)] * 3


def test_heads_repeated_before_they_are_turned():
    def wide(x):
        more = emit(op.broadcast_to(emit(op.reshape(x, (2, 7, 2, 1, 4))), (2, 7, 2, 2, 4)))
        return emit(op.reshape(more, (2, 7, 4, 4)))

    def body(q, k, v):
        return attend(scaled(heads(q), heads(wide(k), (0, 2, 3, 1))), heads(wide(v)))

    _, args = check(build(inputs(heads_=4, own=2), body))
    assert tuple(int(d) for d in args[1].ty.shape) == (2, 7, 2, 4)


def test_half_precision_computed_in_float32():
    def wide(x):
        return emit(op.astype(x, "float32"))

    def body(q, k, v):
        scores = emit(op.astype(emit(op.matmul(wide(heads(q)), wide(heads(k, (0, 2, 3, 1))))), "float16"))
        weights = emit(op.nn.softmax(wide(emit(op.multiply(scores, const(0.25, "float16")))), -1))
        return emit(op.matmul(wide(emit(op.astype(weights, "float16"))), wide(heads(v))))

    found, args = check(build(inputs(dtype="float16"), body), atol=1e-3)
    assert {str(x.ty.dtype) for x in args} == {"float16"}
    assert found["scale"] == pytest.approx(0.25)


@pytest.mark.parametrize("mask", [None, "float32"])
def test_open_sizes(mask):
    b, n = (tvm.tirx.Var(name, "int64") for name in ("b", "n"))
    extra = [((b, 1, 1, n), mask)] if mask else []

    def body(q, k, v, *masks):
        scores = scaled(heads(q), heads(k, (0, 2, 3, 1)))
        return attend(emit(op.add(scores, masks[0])) if masks else scores, heads(v))

    mod = build([*[((b, n, 2, 4), "float32")] * 3, *extra], body)
    check(mod, {"b": 2, "n": 5})


def test_three_dimensions():
    mod = build([f32(6, 5, 4), f32(6, 4, 7), f32(6, 7, 3)], lambda q, k, v: attend(scaled(q, k), v))
    found, _ = check(mod)
    assert found["k_perm"] == (0, 2, 1)


def rows_without_keys(q, k, v, m):
    empty = emit(op.equal(emit(op.max(m, -1, keepdims=True)), const(HIDDEN)))
    weights = emit(op.nn.softmax(emit(op.add(scaled(q, k), m)), -1))
    return emit(op.matmul(emit(op.where(empty, const(0.0), weights)), v))


def test_rows_without_keys():
    found, _ = check(on_heads(rows_without_keys, extra=[((2, 1, 5, 7), "float32")]))
    assert found["zero_rows"] == 1


def test_a_target_without_templates_keeps_the_graph():
    mod = apply(on_heads(lambda q, k, v: attend(scaled(q, k), v)), Simplify())
    taking = Taking(takes=False)
    assert FuseAttention(taking).run(mod).same_as(mod)
    assert [str(o.kind) for o in taking.asked] == ["attention"]


@settings(max_examples=12, deadline=None)
@given(
    st.tuples(*(st.integers(1, 6) for _ in range(4))),
    st.sampled_from([(1, 1), (2, 1), (4, 2), (6, 3)]),
    st.sampled_from(["none", "added", "causal"]),
)
def test_any_shape(dims, counts, mask):
    batch, rows, keys, depth = dims
    whole, own = counts

    def body(q, k, v, *masks):
        turned = emit(op.permute_dims(repeated(k, whole // own), (0, 1, 3, 2)))
        scores = scaled(heads(q), turned, 0.3)
        if mask == "causal":
            masks = (const(causal(rows, keys, 0, HIDDEN)),)
        return attend(emit(op.add(scores, masks[0])) if masks else scores, repeated(v, whole // own))

    params = [((batch, n, h, depth), "float32") for n, h in ((rows, whole), (keys, own), (keys, own))]
    params += [((batch, 1, rows, keys), "float32")] if mask == "added" else []
    mod = build(params, body)
    after = fuse(mod)
    assert ops(after).count(NAME) == 1
    arrays = inputs_for(mod)
    np.testing.assert_allclose(computed(after, arrays), computed(mod, arrays), rtol=1e-4, atol=1e-5)
