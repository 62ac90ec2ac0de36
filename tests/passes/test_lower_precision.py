"""LowerPrecision: what products multiply and what is stored behind them becomes float16, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from kompilo.compiler.frontend.importer import import_model
from kompilo.compiler.passes.absorb_casts import absorb_casts
from kompilo.compiler.passes.cast_at_uses import CastAtUses
from kompilo.compiler.passes.fuse_anchors import GraphUses, find_group
from kompilo.compiler.passes.graph import Graph
from kompilo.compiler.passes.lower_precision import LARGEST, LowerPrecision, narrowed
from kompilo.compiler.passes.narrow_operands import NarrowOperands
from kompilo.compiler.passes.pipeline import run_phases, simplify
from kompilo.compiler.schedule.selection import Selector
from kompilo.targets.cuda.target import CudaTarget

from support import apply, build, check, const, f32, ops, random, run

op = relax.op
GPU = Selector(CudaTarget.from_preset("sm_80"), precision="fp16")
FLOAT_MIN = float(np.finfo("f4").min)
LAYOUTS = {"data_layout": "NHWC", "kernel_layout": "OIHW", "out_layout": "NHWC"}


def dense(x, k, n, seed=0):
    return op.matmul(x, random(seed, k, n))


def specs(mod):
    """The OpSpecs of all groups, as SelectTemplates would find them."""
    graph = GraphUses(NarrowOperands(GPU).run(mod)["main"])
    groups = [find_group(graph, b.var, lambda spec: True) for b in list(graph.bindings) if _is_product(b.value)]
    return [str(g.op) for g in groups if g is not None]


def _is_product(value):
    return getattr(getattr(value, "op", None), "name", "") in ("relax.matmul", "relax.nn.conv2d")


def test_a_chain_is_stored_in_float16():
    def body(x):
        y = op.nn.relu(op.add(dense(x, 64, 48), random(1, 48)))
        return op.nn.softmax(dense(y, 48, 40, seed=2))

    mod = check(build([f32(32, 64)], body), LowerPrecision(), rtol=4e-3, atol=4e-3)
    assert specs(mod) == [
        "matmul(float16[32,64], const float16[64,48], const float32[48]) {lhs_perm=0x1, out_perm=0x1, rhs_perm=0x1}"
        " -> float16[32,48] | add(anchor,i2); nn.relu(s0); astype(s1,float16)",
        "matmul(float16[32,48], const float16[48,40]) {lhs_perm=0x1, out_perm=0x1, rhs_perm=0x1}"
        " -> float16[32,40] | astype(anchor,float16)",
    ]


def test_a_residual_is_read_in_float16_and_added_in_float32():
    def body(x):
        y = op.nn.relu(dense(x, 48, 48))
        return op.nn.layer_norm(op.add(dense(y, 48, 48, seed=1), y), const(np.ones(48)), const(np.zeros(48)), [-1])

    mod = check(build([f32(32, 48)], body), LowerPrecision(), rtol=2e-2, atol=1e-2)
    assert specs(mod)[1] == (
        "matmul(float16[32,48], const float16[48,48], float16[32,48]) {lhs_perm=0x1, out_perm=0x1, rhs_perm=0x1}"
        " -> float16[32,48] | add(anchor,i2); astype(s0,float16)"
    )


def test_of_two_joined_products_one_is_stored():
    def body(x):
        return dense(op.nn.relu(op.add(dense(x, 48, 48), dense(x, 48, 48, seed=1))), 48, 40)

    mod = check(build([f32(32, 48)], body), LowerPrecision(), rtol=4e-3, atol=4e-2)
    assert "add(anchor,i2)" in specs(mod)[0]
    assert "float16[32,48]) {" in specs(mod)[0]


def test_the_model_keeps_its_types():
    mod = apply(build([f32(4, 32)], lambda x: [dense(x, 32, 8), op.exp(x)]), LowerPrecision())
    assert [str(f.dtype) for f in mod["main"].ret_ty.fields] == ["float32", "float32"]


UNCHANGED = {
    "no product": lambda x: op.nn.softmax(op.exp(x)),
    "in front of it": lambda x: op.reshape(op.sum(op.multiply(x, x), [0]), (64,)),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_has_no_part_in_products_stays(name):
    mod = build([f32(8, 64)], UNCHANGED[name])
    assert LowerPrecision().run(mod).same_as(mod)


def test_moves_and_poolings_are_done_in_float16():
    def body(x):
        y = op.nn.conv2d(x, random(0, 16, 8, 3, 3), padding=(1, 1, 1, 1), **LAYOUTS)
        y = op.nn.max_pool2d(y, (2, 2), (2, 2), layout="NHWC")
        return dense(op.reshape(op.permute_dims(y, (0, 3, 1, 2)), (1, 256)), 256, 8)

    mod = check(build([f32(1, 8, 8, 8)], body), LowerPrecision(), rtol=1e-2, atol=6e-2)
    moved = [str(n.args[0].ty.dtype) for n in Graph.of(mod).nodes if n.op in ("nn.max_pool2d", "permute_dims")]
    assert moved == ["float16", "float16"]


def test_look_ups_in_weights():
    table = random(0, 1024, 32)
    mod = build([((4, 8), "int64")], lambda i: op.nn.relu(op.take(table, i, axis=0)))
    lowered = check(mod, LowerPrecision(), rtol=1e-3, atol=1e-3)
    assert [str(n.ty.dtype) for n in Graph.of(lowered).nodes if n.op == "take"] == ["float16"]
    small = build([((4, 8), "int64")], lambda i: op.take(random(0, 8, 32), i, axis=0))
    assert LowerPrecision().run(small).same_as(small)


def test_masks_keep_to_the_numbers_of_float16():
    """Scores of -3e38 would be -inf, and the softmax of a row of them NaN."""

    def body(x, mask):
        scores = op.add(dense(x, 16, 12), op.multiply(mask, const(-3e38)))
        return op.nn.softmax(scores)

    mod = build([f32(4, 16), f32(4, 12)], body)
    x, mask = np.ones((4, 16), "f4"), np.ones((4, 12), "f4")
    (found,) = run(apply(mod, LowerPrecision()), x, mask)
    np.testing.assert_allclose(found, np.full((4, 12), 1 / 12), rtol=1e-3)


SEEN = np.tri(6, dtype=bool) & (np.arange(6) != 2)[:, None]  # row 2 sees nothing


def hidden(low: float) -> np.ndarray:
    return np.where(SEEN, np.float32(0), np.float32(low))


def masked(low: float, form: str) -> tuple[bytes, dict[str, np.ndarray]]:
    """softmax of 6 x 6 masked scores times values, as an ONNX model, and what it takes besides `x`."""
    node, tensor = helper.make_node, helper.make_tensor_value_info
    rng = np.random.default_rng(0)
    constants = {name: rng.standard_normal((16, 16)).astype("f4") / 4 for name in ("wq", "wk", "wv")}
    constants |= {"low": np.float32(low), "one": np.float32(1), "square": np.array([6, 6])}
    added = node("Add", ["scores", "mask"], ["masked"])
    computed = [
        node("Cast", ["seen"], ["cast"], to=TensorProto.FLOAT), node("Sub", ["one", "cast"], ["hidden"]),
        node("Mul", ["hidden", "low"], ["flat"]), node("Reshape", ["flat", "square"], ["mask"]), added,
    ]  # fmt: skip
    nodes, given = {
        "constant": ([added], {}),
        "input": ([added], {"mask": hidden(low)}),
        "where": ([node("Where", ["seen", "scores", "low"], ["masked"])], {"seen": SEEN}),
        "computed": (computed, {"seen": SEEN.astype("i8").reshape(-1)}),
    }[form]
    constants |= {"mask": hidden(low)} if form == "constant" else {}
    nodes = [
        *(node("MatMul", ["x", f"w{name}"], [name]) for name in "qkv"), node("Transpose", ["k"], ["kt"], perm=[1, 0]),
        node("MatMul", ["q", "kt"], ["scores"]), *nodes,
        node("Softmax", ["masked"], ["p"]), node("MatMul", ["p", "v"], ["y"]),
    ]  # fmt: skip
    inputs = [tensor("x", TensorProto.FLOAT, [6, 16])]
    inputs += [tensor(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in given.items()]
    weights = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, [tensor("y", TensorProto.FLOAT, [6, 16])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString()), given


@pytest.mark.parametrize(
    ("low", "form"),
    [(-1e9, "computed"), (FLOAT_MIN, "where"), (FLOAT_MIN, "input"), (-np.inf, "constant"), (-np.inf, "input")],
)
def test_masked_rows_are_as_in_float32(low, form):
    """Rows that masks hide in part, and one that they hide wholly, which float32 makes a mean, or NaN behind -inf."""
    ort = pytest.importorskip("onnxruntime")
    model, given = masked(low, form)
    x = np.random.default_rng(1).standard_normal((6, 16)).astype("f4")
    (want,) = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x, **given})
    (found,) = run(apply(simplify(import_model(model).mod), LowerPrecision()), x, *given.values())
    if (low, form) == (-np.inf, "input"):
        assert np.isfinite(found).all(), "what an input hides has the least number of float16"
        want[2] = found[2]
    np.testing.assert_allclose(found, want, rtol=0, atol=2e-3)


def test_weights_beyond_float16_stay_finite():
    values = np.array([1e6, -1e6, np.inf, 1.0], "f4")
    np.testing.assert_array_equal(narrowed(values), np.array([LARGEST, -LARGEST, np.inf, 1.0], "f2"))


def test_each_reader_casts_for_itself():
    def body(x):
        w = op.astype(x, "float32")
        return [op.exp(w), op.nn.softmax(w)]

    mod = check(build([((4, 8), "float16")], body), CastAtUses())
    assert ops(mod).count("astype") >= 2
    alone = build([((4, 8), "float16")], lambda x: op.exp(op.astype(x, "float32")))
    assert CastAtUses().run(alone).same_as(alone)


def test_casts_are_absorbed_by_kernels_that_read_twice():
    mod = build([((4, 8), "float16")], lambda x: op.nn.softmax(op.astype(x, "float32")))
    legal = relax.transform.LegalizeOps()(mod)
    after = relax.transform.DeadCodeElimination()(absorb_casts(legal))
    (call,) = [n for n in Graph.of(after).nodes if n.op == "call_tir"]
    assert str(call.args[1].fields[0].ty.dtype) == "float16"
    x = np.random.default_rng(0).standard_normal((4, 8)).astype("f2")
    np.testing.assert_allclose(run(after, x)[0], run(mod, x)[0], rtol=1e-6)
    # FuseOps takes care of single nests.
    plain = relax.transform.LegalizeOps()(build([((4, 8), "float16")], lambda x: op.exp(op.astype(x, "float32"))))
    assert absorb_casts(plain).same_as(plain)


def test_attention_is_fused_with_its_mask_and_stores_float16():
    def body(x, mask):
        q, k, v = (op.reshape(dense(x, 32, 2304, seed=s), (2, 3, 24, 32)) for s in range(3))
        hidden = op.multiply(op.subtract(const(1.0), mask), const(-3.4e38))
        scores = op.add(op.multiply(op.matmul(q, op.permute_dims(k, (0, 1, 3, 2))), const(0.2)), hidden)
        y = op.matmul(op.nn.softmax(scores), v)
        return dense(op.reshape(y, (144, 32)), 32, 16, seed=5)

    mod = build([f32(2, 32), f32(2, 1, 1, 24)], body)
    done = run_phases(mod, GPU.target, stop_after="select", selector=GPU)
    found = [str(f.attrs["kompilo.op"]) for f in done.functions.values() if f.attrs and "kompilo.op" in f.attrs]
    (fused,) = [text for text in found if text.startswith("attention")]
    assert "-> float16[" in fused
    assert fused.count("float16[") == 4
