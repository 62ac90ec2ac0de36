"""Quantized graphs: what becomes integer, and that the CPU's integers are those of numpy, bit for bit."""

import numpy as np
import pytest
import tvm
from tvm import relax

from kompilo.compiler.artifact.shared_weights import SharedWeights
from kompilo.compiler.driver import compile_module
from kompilo.compiler.errors import InputError, KompiloError
from kompilo.compiler.passes.graph import Graph
from kompilo.compiler.passes.quantize import ops as quantized_ops
from kompilo.compiler.passes.quantize.module import QuantizedModule, quantize_module, with_sizes
from kompilo.compiler.passes.quantize.reference import evaluate, evaluate_all
from kompilo.compiler.passes.tensors import array
from kompilo.compiler.runtime.module import load
from kompilo.compiler.schedule.selection import Selector
from kompilo.compiler.schedule.target import find_target
from kompilo.compiler.size_requirements import Requirement, with_requirements
from kompilo.compiler.tensor_spec import TensorSpec

from support import build, const, f32, ops, random

op, nn = relax.op, relax.op.nn


def samples_of(mod: tvm.IRModule, count: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    shapes = [(p.name, [int(d) for d in p.ty.shape]) for p in mod["main"].params]
    return [{n: rng.standard_normal(s).astype("f4") for n, s in shapes} for _ in range(count)]


def quantized(mod: tvm.IRModule, samples=None) -> QuantizedModule:
    """Ranges come from numpy's float operators: nothing is compiled for them."""

    def in_numpy(floats: tvm.IRModule):
        return lambda sample: evaluate(floats, list(sample.values()))

    return quantize_module(mod, samples or samples_of(mod), in_numpy)


def on_cpu(mod: tvm.IRModule, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    from kompilo.compiler.artifact.artifact import Artifact

    weights = SharedWeights()
    code = compile_module(mod, "cpu", Selector(find_target("cpu"), precision="int8"), weights)
    body = mod["main"].body.body
    types = [
        v.ty for v in (body.fields if isinstance(body.ty, relax.TupleType) and hasattr(body, "fields") else [body])
    ]
    types = list(types[0].fields) if isinstance(types[0], relax.TupleType) else types
    specs = [TensorSpec(n, a.shape, "float32") for n, a in inputs.items()]
    outputs = [TensorSpec(f"y{k}", tuple(int(d) for d in t.shape), str(t.dtype)) for k, t in enumerate(types)]
    return list(load(Artifact(tuple(specs), tuple(outputs), (code,), weights.arrays, {})).run(inputs).values())


def conv(x, channels, out, kernel, seed, **options):
    groups = options.get("groups", 1)
    y = nn.conv2d(x, random(seed, out, channels // groups, *kernel), **options)
    return op.add(y, random(seed + 1, out, 1, 1))


def images(x):
    """Strides, odd sizes, residual additions, poolings, concat, a classifier."""
    a = nn.relu(conv(x, 3, 19, (3, 3), 1, strides=(2, 2), padding=(1, 1, 1, 1)))
    b = nn.max_pool2d(a, (3, 3), (2, 2), padding=(1, 1, 1, 1))
    c = nn.relu(op.add(b, conv(b, 19, 19, (1, 1), 3)))
    d = op.concat([c, conv(c, 19, 8, (3, 1), 5, padding=(1, 0, 1, 0))], axis=1)
    e = nn.avg_pool2d(d, (2, 2), (1, 1))
    f = op.mean(e, [2, 3], keepdims=True)
    g = op.add(op.matmul(op.reshape(f, (2, 27)), random(7, 27, 10)), random(8, 10))
    return [g, op.tanh(c)]


def groups(x):
    """Depthwise and grouped convolutions, limits, BatchNorm behind a concat, an activation that others bypass."""
    a = op.clip(conv(x, 3, 12, (5, 3), 1), 0, 6)
    b = conv(a, 12, 12, (3, 3), 3, groups=12, padding=(1, 1, 1, 1), dilation=(1, 1))
    c = op.concat([a, b], axis=1)
    d = nn.relu(op.add(op.multiply(c, random(5, 24, 1, 1)), random(6, 24, 1, 1)))
    e = conv(d, 24, 6, (3, 3), 7, groups=3, dilation=(2, 2))
    f = op.permute_dims(nn.relu(e), (0, 2, 3, 1))
    return [op.matmul(f, random(9, 6, 5)), op.matmul(op.permute_dims(e, (0, 2, 3, 1)), random(10, 6, 4))]


def rows(x):
    """Products of three axes with float operators between, and of one value with several weights."""
    a = op.add(op.matmul(x, random(1, 33, 40)), random(2, 40))
    b = op.sigmoid(a)
    c = op.add(op.matmul(b, random(3, 40, 21)), random(4, 21))
    d = nn.relu(op.add(c, op.matmul(b, random(5, 40, 21))))
    return [nn.softmax(op.matmul(d, random(6, 21, 7)))]


CASES = {
    "images": ([f32(2, 3, 21, 17)], images),
    "groups": ([f32(1, 3, 15, 13)], groups),
    "rows": ([f32(2, 5, 33)], rows),
}


@pytest.mark.parametrize("name", CASES)
def test_integers_of_the_cpu_are_those_of_numpy(name):
    params, body = CASES[name]
    mod = build(params, body)
    found = quantized(mod)
    assert "nn.conv2d" in found.report.integer or name == "rows"
    sample = samples_of(mod, 4)[-1]
    expected = evaluate(found.mod, list(sample.values()))
    floats = evaluate(mod, list(sample.values()))
    for k, (ours, same, exact) in enumerate(zip(on_cpu(found.mod, sample), expected, floats, strict=True)):
        if (name, k) in {("images", 1), ("rows", 0)}:  # float operators behind the integers round otherwise
            np.testing.assert_allclose(ours, same, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(ours, same)
        noise = np.sum((ours - exact) ** 2) / np.sum(exact**2)
        assert noise < 0.01, f"output {k}: SQNR of {-10 * np.log10(noise):.1f} dB"


def test_the_graph_keeps_its_contract():
    found = quantized(build(*CASES["images"]))
    graph = Graph.of(found.mod)
    for node in graph.nodes:
        dtypes = [str(a.ty.dtype) for a in node.args if hasattr(a.ty, "dtype")]
        if node.op in ("nn.conv2d", "matmul"):
            assert (dtypes, str(node.ty.dtype)) == (["int8", "int8"], "int32")
            weights = array(node.args[1])
            assert weights.max() <= 127
            assert weights.min() >= -127
        if node.op == quantized_ops.REQUANTIZE:
            assert dtypes == ["int32"] * 3
            assert all(2**30 <= m < 2**31 for m in array(node.args[1]).reshape(-1).tolist())
            assert all(1 <= s <= 62 for s in array(node.args[2]).reshape(-1).tolist())
    # Only the second output, which float operators compute, leaves the integers before the end.
    assert ops(found.mod).count(quantized_ops.DEQUANTIZE) == 2
    assert ops(found.mod).count(quantized_ops.QUANTIZE) == 1
    assert found.report.floats == (("tanh", "no integer form", 1),)


def test_concat_takes_one_scale_on_all_sides():
    def body(x):
        small, large = (
            op.matmul(x, random(1, 8, 4, low=-0.01, high=0.01)),
            op.matmul(x, random(2, 8, 4, low=-9, high=9)),
        )
        return op.matmul(op.concat([small, large], axis=1), random(3, 8, 3))

    mod = build([f32(4, 8)], body)
    found = quantized(mod)
    values = evaluate_all(found.mod, [samples_of(mod)[0]["x0"]])
    (joined,) = [values[n.var] for n in Graph.of(found.mod).nodes if n.op == "concat"]
    assert np.abs(joined[:, 4:]).max() > 60
    assert np.abs(joined[:, :4]).max() <= 1


REASONS = {
    "both operands are computed": lambda x: op.matmul(x, op.permute_dims(x)),
    "no integer form": lambda x: op.matmul(op.tanh(x), random(1, 6, 4)),
    "only float operators use it": lambda x: op.tanh(nn.relu(op.matmul(x, random(1, 6, 4)))),
    "its operands are float": lambda x: op.matmul(op.add(op.tanh(x), op.exp(x)), random(1, 6, 4)),
    "weights of more than two axes": lambda x: op.matmul(x, random(1, 2, 6, 4)),
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_stays_float_has_a_reason(reason):
    found = quantized(build([f32(5, 6)], REASONS[reason]))
    assert reason in {r for _, r, _ in found.report.floats}


def test_sums_that_int32_cannot_hold_stay_float():
    mod = build([f32(1, 70_000)], lambda x: op.matmul(x, const(np.ones((70_000, 1)))))
    assert quantized(mod).report.floats == (("matmul", "sums of 70000 products, which int32 may not hold", 1),)


def test_channels_without_weights_keep_their_bias():
    weight = np.ones((4, 3), "f4")
    weight[:, 1] = 0
    weight[:, 2] = 1e-30

    def body(x):
        return op.matmul(nn.relu(op.add(op.matmul(x, const(weight)), const([0.5, 0.25, 1.0]))), const(np.eye(3)))

    mod = build([f32(2, 4)], body)
    sample = samples_of(mod)[0]
    (y,) = evaluate(quantized(mod).mod, list(sample.values()))
    np.testing.assert_allclose(y[:, 1:], [[0.25, 1.0]] * 2, atol=0.05)


def test_values_that_are_always_zero():
    mod = build([f32(2, 4)], lambda x: op.matmul(nn.relu(op.matmul(x, const(np.zeros((4, 3))))), random(1, 3, 2)))
    (y,) = evaluate(quantized(mod).mod, [np.ones((2, 4), "f4")])
    assert not y.any()


@pytest.mark.filterwarnings("error")
def test_calibrated_by_subnormal_numbers():
    """Their scale has no inverse in float32: they count as zeros, and larger inputs saturate."""
    mod = build([f32(2, 4)], lambda x: op.matmul(x, random(1, 4, 2)))
    found = quantized(mod, [{"p0": np.full((2, 4), 1e-40, "f4")}]).mod
    (y,) = evaluate(found, [np.full((2, 4), 0.5, "f4")])
    np.testing.assert_allclose(y, np.full((2, 4), 0.5) @ random(1, 4, 2).value.numpy(), atol=0.05)


def test_a_planted_error_is_seen():
    """The comparison of the CPU with numpy can fail: a bias that is off by one shows."""
    mod = build([f32(3, 8)], lambda x: op.add(op.matmul(x, random(1, 8, 4)), random(2, 4)))
    found = quantized(mod).mod
    graph = Graph.of(found)

    def off_by_one(_, node):
        bias = array(node.args[1]) if node.op == "add" else None
        return None if bias is None else op.add(node.args[0], const(bias + 1, "int32"))

    graph.sweep(off_by_one)
    x = samples_of(mod)[0]
    assert not np.array_equal(on_cpu(graph.to_module(), x)[0], evaluate(found, list(x.values()))[0])


def test_operators_that_numpy_does_not_know_are_told():
    mod = build([f32(3, 8)], lambda x: op.erf(x))
    with pytest.raises(KompiloError, match="expected an operator of its table, found erf"):
        evaluate(mod, [np.ones((3, 8), "f4")])


def test_samples_have_to_fit_the_conditions_on_sizes():
    n, m = (tvm.tirx.Var(name, "int64") for name in "nm")
    mod = build([f32(n, 4), f32(m, 3)], lambda x, y: [op.matmul(x, random(1, 4, 3)), y])
    mod["main"] = with_requirements(mod["main"], [Requirement(tvm.tirx.EQ(n, m), "`n` must equal `m`")])
    fixed = with_sizes(mod, [(5, 4), (5, 3)])
    assert [int(d) for d in fixed["main"].params[0].ty.shape] == [5, 4]
    with pytest.raises(InputError, match="samples do not fit the model: `n` must equal `m`."):
        with_sizes(mod, [(5, 4), (6, 3)])
