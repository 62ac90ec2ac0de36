"""The generic rules on many kinds of functions, shapes and dtypes, against numpy."""

import numpy as np
import pytest
import tvm
from relax_support import TARGETS, arguments, build_graph, execute, lower
from tvm import relax, te, tirx
from tvm.relax import op

from kompilo.targets.cpu.target import CpuTarget
from kompilo.targets.shared.program import read_program


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def layer_norm(x, gamma, beta):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gamma + beta


# name: shapes, Relax, numpy, rule that applies (and dtypes where they are not all float32)
CASES = {
    "add_relu": (
        [(1, 56, 56, 64)] * 2,
        lambda a, b: op.nn.relu(op.add(a, b)),
        lambda a, b: np.maximum(a + b, 0),
        "map",
    ),
    "channels": ([(2, 7, 7, 33), (33,)], lambda a, b: op.add(a, b), lambda a, b: a + b, "map"),
    "planes": ([(2, 33, 7, 5), (33, 1, 1)], lambda a, b: op.multiply(a, b), lambda a, b: a * b, "map"),
    "outer": ([(4, 1, 5), (3, 1)], lambda a, b: op.add(a, b), lambda a, b: a + b, "map"),
    "scalars": ([(), ()], lambda a, b: op.add(a, b), lambda a, b: a + b, None),
    "empty": ([(0, 4), (4,)], lambda a, b: op.add(a, b), lambda a, b: a + b, "map"),
    "ones": ([(1, 1, 1)], op.exp, np.exp, "map"),
    "long_odd": ([(100_003,)], op.tanh, np.tanh, "map"),
    "silu": ([(3, 50)], op.nn.silu, lambda a: a / (1 + np.exp(-a)), "map"),
    "nested": (
        [(5, 40)],
        lambda a: op.sigmoid(op.tanh(op.exp(op.sin(a)))),
        lambda a: 1 / (1 + np.exp(-np.tanh(np.exp(np.sin(a))))),
        "map",
    ),
    "twice": ([(5, 40)], lambda a: _twice(op.exp(a)), lambda a: np.exp(a) * np.maximum(np.exp(a), 1.5), "map"),
    "where": ([(4, 50), (50,)], lambda a, b: op.where(op.greater(a, b), a, b), np.maximum, "map"),
    "compare": ([(4, 50), (50,)], op.greater, np.greater, "map"),
    "float64": ([(4, 50)], op.exp, np.exp, "map", ["float64"]),
    "float16": (
        [(4, 50), (50,)],
        lambda a, b: op.tanh(op.add(a, b)),
        lambda a, b: np.tanh(a + b),
        "map",
        ["float16"] * 2,
    ),
    "int64": ([(4, 50), (50,)], op.add, np.add, "map", ["int64"] * 2),
    "int8_to_float": ([(4, 51)], lambda a: op.astype(a, "float32"), lambda a: a.astype("f4"), "map", ["int8"]),
    "bool": ([(4, 51)] * 2, op.logical_and, np.logical_and, "map", ["bool"] * 2),
    "concat_last": (
        [(1, 28, 28, 40), (1, 28, 28, 7), (1, 28, 28, 16)],
        lambda *x: op.nn.relu(op.concat(x, 3)),
        lambda *x: np.maximum(np.concatenate(x, 3), 0),
        "map",
    ),
    "concat_first": ([(5, 33), (2, 33)], lambda *x: op.concat(x, 0), lambda *x: np.concatenate(x, 0), "map"),
    "concat_planes": (
        [(1, 30, 28, 28), (1, 7, 28, 28)],
        lambda *x: op.concat(x, 1),
        lambda *x: np.concatenate(x, 1),
        "map",
    ),
    "pad": (
        [(1, 8, 9, 40)],
        lambda a: op.nn.pad(a, [0, 0, 1, 2, 3, 0, 0, 0]),
        lambda a: np.pad(a, [(0, 0), (1, 2), (3, 0), (0, 0)]),
        "map",
    ),
    "pad_inner": (
        [(3, 8, 9)],
        lambda a: op.nn.pad(a, [0, 0, 0, 0, 2, 3]),
        lambda a: np.pad(a, [(0, 0), (0, 0), (2, 3)]),
        "map",
    ),
    "to_nhwc": (
        [(1, 64, 28, 28)],
        lambda a: op.permute_dims(a, [0, 2, 3, 1]),
        lambda a: a.transpose(0, 2, 3, 1),
        "map",
    ),
    "to_nchw": (
        [(2, 13, 11, 50)],
        lambda a: op.permute_dims(a, [0, 3, 1, 2]),
        lambda a: a.transpose(0, 3, 1, 2),
        "map",
    ),
    "to_nchw_add": (
        [(1, 13, 11, 50), (1, 50, 13, 11)],
        lambda a, b: op.add(op.permute_dims(a, [0, 3, 1, 2]), b),
        lambda a, b: a.transpose(0, 3, 1, 2) + b,
        "map",
    ),
    "image_in": (
        [(2, 3, 40, 40)],
        lambda a: op.permute_dims(a, [0, 2, 3, 1]),
        lambda a: a.transpose(0, 2, 3, 1),
        "map",
    ),
    "image_out": (
        [(2, 40, 40, 3)],
        lambda a: op.permute_dims(a, [0, 3, 1, 2]),
        lambda a: a.transpose(0, 3, 1, 2),
        "map",
    ),
    "transpose_int8": ([(40, 50)], lambda a: op.permute_dims(a, [1, 0]), np.transpose, "map", ["int8"]),
    "transpose_int64": ([(40, 50)], lambda a: op.permute_dims(a, [1, 0]), np.transpose, "map", ["int64"]),
    "heads": (
        [(1, 20, 96)],
        lambda a: op.permute_dims(op.reshape(a, (1, 20, 3, 32)), [0, 2, 1, 3]),
        lambda a: a.reshape(1, 20, 3, 32).transpose(0, 2, 1, 3),
        "map",
    ),
    "channel_shuffle": (
        [(1, 5, 5, 68)],
        lambda a: _shuffled(a, 4),
        lambda a: a.reshape(1, 5, 5, 4, 17).swapaxes(3, 4).reshape(a.shape),
        "map",
    ),
    "split": ([(1, 7, 7, 64)], lambda a: op.split(a, 2, 3), lambda a: np.split(a, 2, 3), "map"),
    "slice": (
        [(1, 13, 28, 20)],
        lambda a: op.strided_slice(a, [1, 2], [0, 1], [13, 28], [2, 3]),
        lambda a: a[:, ::2, 1::3],
        "map",
    ),
    "slice_inner": ([(5, 64)], lambda a: op.strided_slice(a, [1], [1], [64], [2]), lambda a: a[:, 1::2], "map"),
    "flip": ([(5, 64)], lambda a: op.flip(a, 1), lambda a: a[:, ::-1], "map"),
    "take": (
        [(30, 40), (1, 12)],
        lambda a, i: op.take(a, op.astype(i, "int64"), 0),
        lambda a, i: a[i],
        None,
        ["float32", "int32"],
    ),
    "tile": ([(3, 17)], lambda a: op.tile(a, (2, 2)), lambda a: np.tile(a, (2, 2)), "map"),
    "broadcast_to": (
        [(3, 1)],
        lambda a: op.broadcast_to(a, (4, 3, 50)),
        lambda a: np.broadcast_to(a, (4, 3, 50)),
        "map",
    ),
    "upsample": (
        [(1, 6, 7, 20)],
        lambda a: op.image.resize2d(
            a,
            relax.ShapeExpr([12, 14]),
            layout="NHWC",
            method="nearest_neighbor",
            coordinate_transformation_mode="asymmetric",
            rounding_method="floor",
        ),
        lambda a: a.repeat(2, 1).repeat(2, 2),
        "map",
    ),
    "softmax": ([(2, 3, 9, 77)], lambda a: op.nn.softmax(a, 3), lambda a: softmax(a, 3), "chain"),
    "softmax_short": ([(9, 5)], lambda a: op.nn.softmax(a, 1), lambda a: softmax(a, 1), "chain"),
    "softmax_axis1": ([(2, 16, 7, 9)], lambda a: op.nn.softmax(a, 1), lambda a: softmax(a, 1), "chain"),
    "softmax_large": ([(12, 128, 128)], lambda a: op.nn.softmax(a, 2), lambda a: softmax(a, 2), "chain"),
    "log_softmax": ([(5, 1000)], lambda a: op.nn.log_softmax(a, 1), lambda a: np.log(softmax(a, 1)), "chain"),
    "layer_norm": ([(2, 9, 100), (100,), (100,)], lambda a, g, b: op.nn.layer_norm(a, g, b, [-1]), layer_norm, "chain"),
    "l2_norm": (
        [(6, 100)],
        lambda a: op.divide(a, op.sqrt(op.sum(op.multiply(a, a), [1], True))),
        lambda a: a / np.sqrt((a * a).sum(1, keepdims=True)),
        None,
    ),
    "global_mean_nhwc": (
        [(2, 7, 7, 200)],
        lambda a: op.nn.relu(op.mean(a, [1, 2], True)),
        lambda a: np.maximum(a.mean((1, 2), keepdims=True), 0),
        "reduction",
    ),
    "global_mean_nchw": (
        [(2, 50, 7, 7)],
        lambda a: op.mean(a, [2, 3], True),
        lambda a: a.mean((2, 3), keepdims=True),
        "reduction",
    ),
    "sum_last": ([(6, 1003)], lambda a: op.sum(a, [1]), lambda a: a.sum(1), "reduction"),
    "sum_all": ([(6, 1003)], op.sum, np.sum, "reduction"),
    "max_middle": ([(8, 50, 37)], lambda a: op.max(a, [1]), lambda a: a.max(1), "reduction"),
    "min_first": ([(50, 5)], lambda a: op.min(a, [0]), lambda a: a.min(0), "reduction"),
    "prod": ([(16, 7)], lambda a: op.prod(a, [1]), lambda a: a.prod(1), "reduction"),
    "variance": ([(16, 77)], lambda a: op.variance(a, [1]), lambda a: a.var(1), "chain"),
    "sum_int64": ([(16, 77)], lambda a: op.sum(a, [1]), lambda a: a.sum(1), "reduction", ["int64"]),
    "mean_float64": ([(16, 77)], lambda a: op.mean(a, [1]), lambda a: a.mean(1), "reduction", ["float64"]),
    "argmax": ([(16, 77)], lambda a: op.argmax(a, 1), lambda a: a.argmax(1), "fallback"),
    "matmul": ([(33, 70), (70, 45)], op.matmul, np.matmul, "reduction"),
    "batch_matmul": ([(2, 3, 20, 16), (2, 3, 16, 64)], op.matmul, np.matmul, "reduction"),
    "matmul_int32": ([(17, 33), (33, 70)], op.matmul, np.matmul, "reduction", ["int32"] * 2),
    "matmul_float64": ([(17, 33), (33, 9)], op.matmul, np.matmul, "reduction", ["float64"] * 2),
    "matrix_vector": ([(33, 64), (64,)], op.matmul, np.matmul, "reduction"),
    "symbolic_add": (
        [("n", 5, "m"), ("m",)],
        lambda a, b: op.nn.relu(op.add(a, b)),
        lambda a, b: np.maximum(a + b, 0),
        "map",
    ),
    "symbolic_flat": ([("n",)], op.exp, np.exp, "map"),
    "symbolic_concat": ([("n", 9), ("n", 4)], lambda *x: op.concat(x, 1), lambda *x: np.concatenate(x, 1), "map"),
    "symbolic_transpose": (
        [("n", "m", 24)],
        lambda a: op.permute_dims(a, [0, 2, 1]),
        lambda a: a.transpose(0, 2, 1),
        "map",
    ),
    "symbolic_softmax": ([(2, "n", "m")], lambda a: op.nn.softmax(a, 2), lambda a: softmax(a, 2), "chain"),
    "symbolic_softmax_axis1": ([(2, "n", "m")], lambda a: op.nn.softmax(a, 1), lambda a: softmax(a, 1), "chain"),
    "symbolic_layer_norm": (
        [("n", "m", 64), (64,), (64,)],
        lambda a, g, b: op.nn.layer_norm(a, g, b, [-1]),
        layer_norm,
        "chain",
    ),
    "symbolic_mean": (
        [(2, "n", "m", 50)],
        lambda a: op.mean(a, [1, 2], True),
        lambda a: a.mean((1, 2), keepdims=True),
        "reduction",
    ),
    "symbolic_sum": ([("n", "m")], lambda a: op.sum(a, [1]), lambda a: a.sum(1), "reduction"),
    "symbolic_sum_first": ([("n", "m")], lambda a: op.sum(a, [0]), lambda a: a.sum(0), "reduction"),
    "symbolic_heads_matmul": (
        [(2, 3, "n", "m"), (2, 3, "m", 32)],
        op.matmul,
        np.matmul,
        "reduction",
    ),
    "symbolic_reshape": (
        [("n", "m", 6, 1)],
        lambda a: op.nn.relu(op.reshape(op.nn.relu(a), (a.ty.shape[0] * a.ty.shape[1], 1, 6))),
        lambda a: np.maximum(a, 0).reshape(-1, 1, 6),
        "map",
    ),
    "symbolic_matmul": ([("n", 20), (20, "m")], op.matmul, np.matmul, "reduction"),
    "conv_nchw": ([(1, 6, 12, 14), (8, 6, 3, 3)], lambda a, w: op.nn.conv2d(a, w, padding=1), None, "reduction"),
    "conv_strided": (
        [(1, 6, 12, 14), (8, 3, 3, 3)],
        lambda a, w: op.nn.conv2d(a, w, strides=2, padding=1, groups=2),
        None,
        "reduction",
    ),
    "conv_transpose": (
        [(1, 6, 7, 9), (6, 5, 2, 2)],
        lambda a, w: op.nn.conv2d_transpose(a, w, strides=2),
        None,
        "reduction",
    ),
    "max_pool_nhwc": (
        [(1, 21, 22, 40)],
        lambda a: op.nn.max_pool2d(a, [3, 3], [2, 2], [1, 1, 1, 1], layout="NHWC"),
        None,
        None,
    ),
    "avg_pool_nhwc": (
        [(1, 21, 22, 40)],
        lambda a: op.nn.avg_pool2d(a, [3, 3], [1, 1], [1, 1, 1, 1], layout="NHWC"),
        None,
        None,
    ),
    "max_pool_nchw": ([(1, 10, 21, 22)], lambda a: op.nn.max_pool2d(a, [3, 3], [2, 2], [1, 1, 1, 1]), None, None),
    "instance_norm": ([(1, 6, 8, 9), (6,), (6,)], lambda a, g, b: op.nn.instance_norm(a, g, b, 1, [2, 3]), None, None),
    "cumsum": ([(16, 28)], lambda a: op.cumsum(a, 1), lambda a: a.cumsum(1), None),
}


def _twice(x):
    return op.multiply(x, op.maximum(x, relax.const(1.5, "float32")))


def _shuffled(x, groups):
    n, h, w, c = (int(d) for d in x.ty.shape)
    split = op.reshape(x, (n, h, w, groups, c // groups))
    return op.reshape(op.permute_dims(split, [0, 1, 2, 4, 3]), (n, h, w, c))


SIZES = [{"n": 7, "m": 45}, {"n": 1, "m": 3}, {"n": 33, "m": 64}]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("target", TARGETS)
def test_against_numpy(name, target):
    shapes, body, reference, rule, *rest = CASES[name]
    dtypes = rest[0] if rest else ["float32"] * len(shapes)
    symbolic = any(isinstance(d, str) for s in shapes for d in s)
    graph = build_graph(shapes, dtypes, body)
    lowered, rules = lower(graph, TARGETS[target])
    assert rule is None or rules == {rule}
    if reference is None:
        # Unscheduled code is the reference where numpy has no such function.
        plain = CpuTarget.from_preset("native,cores=1")
        naive = relax.transform.LegalizeOps()(graph)
        reference = lambda *args: execute(naive, plain, list(args))  # noqa: E731
    for sizes in SIZES if symbolic else SIZES[:1]:
        args = arguments(shapes, dtypes, sizes)
        expected = reference(*args)
        expected = expected if isinstance(expected, (list, tuple)) else [expected]
        tolerance = 4e-3 if "float16" in dtypes else 3e-6
        for got, want in zip(execute(lowered, TARGETS[target], args), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * max(1, np.abs(args[0]).sum() ** 0.5))


SPECIAL = np.array([[np.nan, -np.inf, np.inf, 1, -1] * 8, [1, np.nan, -1, np.inf, -np.inf] * 8], "f4")


@pytest.mark.parametrize(
    ("body", "reference"),
    [
        (op.nn.relu, lambda a: np.maximum(a, 0)),
        (lambda a: op.clip(a, -0.5, 0.5), lambda a: np.clip(a, -0.5, 0.5)),
        (lambda a: op.maximum(a, relax.const(0.5, "float32")), lambda a: np.maximum(a, 0.5)),
        (lambda a: op.minimum(a, op.negative(a)), lambda a: np.minimum(a, -a)),
        (lambda a: op.add(op.nn.relu(op.abs(a)), a), lambda a: np.abs(a) + a),
    ],
)
def test_nan_is_not_clipped(body, reference):
    lowered, _ = lower(build_graph([SPECIAL.shape], ["float32"], body), TARGETS["native,cores=1"])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(execute(lowered, TARGETS["native,cores=1"], [SPECIAL])[0], reference(SPECIAL))


@pytest.mark.parametrize(("reduce", "sign"), [(op.max, -1), (op.min, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_extremes_of_nothing_but_infinities(reduce, sign, axis):
    data = np.full((37, 37), sign * np.inf, "f4")
    lowered, _ = lower(build_graph([data.shape], ["float32"], lambda a: reduce(a, axis)), TARGETS["native,cores=1"])
    np.testing.assert_array_equal(execute(lowered, TARGETS["native,cores=1"], [data])[0], data[0])


def test_a_reshape_of_unknown_sizes_is_one_flat_copy():
    # Divisions by such sizes do not simplify, and would be done for each element.
    sizes = [(tirx.Var(name, "int64") - 1) // 32 * 32 + 32 for name in ("h", "w")]
    images = tirx.Var("n", "int64")
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((images, *sizes, 1), "float32"))
    shape = relax.Var("shape", relax.ShapeType([images, sizes[0].a.a.a.a, sizes[1].a.a.a.a]))
    with builder.function("main", [x, shape]):
        with builder.dataflow():
            output = builder.emit_output(builder.normalize(op.reshape(x, (images, 1, *sizes))))
        builder.emit_func_output(output)
    module = relax.transform.LegalizeOps()(builder.get())
    func = next(f for f in module.functions.values() if isinstance(f, tirx.PrimFunc))
    program = read_program(func)
    assert [s.flat_copy for s in program.stages] == [True]
    scheduled, rule = TARGETS["native,cores=2"].schedule(func)
    assert rule == "map"
    h, w = 64, 32
    data = np.arange(2 * h * w, dtype="f4").reshape(2, h, w, 1)
    got = tvm.runtime.tensor(np.zeros((2, 1, h, w), "f4"))
    values = {"n": 2, "h": 40, "w": 20}
    scalars = [values[p.name] for p in func.params if not isinstance(p.ty, tirx.BufferType)]
    buffers = [tvm.runtime.tensor(data), got]
    arguments_in_order = [buffers.pop(0) if isinstance(p.ty, tirx.BufferType) else scalars.pop(0) for p in func.params]
    named = scheduled.with_attr("global_symbol", "main")
    tvm.compile(named, TARGETS["native,cores=2"].tvm_target())(*arguments_in_order)
    np.testing.assert_array_equal(got.numpy(), data.reshape(2, 1, h, w))


def test_scheduled_functions_are_left_alone():
    x = te.placeholder((8,), name="x")
    func = te.create_prim_func([x, te.compute((8,), lambda i: x[i] + 1)]).with_attr("tirx.is_scheduled", True)
    result, rule = TARGETS["native,cores=2"].schedule(func)
    assert rule == "scheduled"
    assert result.same_as(func)


def test_small_work_stays_in_one_thread():
    for size, parallel in ((64, False), (1 << 20, True)):
        lowered, _ = lower(build_graph([(size,)], ["float32"], op.exp), TARGETS["native,cores=2"])
        assert ("parallel" in lowered.script()) == parallel


def test_one_thread_means_no_parallel_loops():
    lowered, _ = lower(build_graph([(1 << 20,)], ["float32"], op.exp), TARGETS["native,cores=1"])
    assert "parallel" not in lowered.script()


def test_program_of_a_softmax():
    lowered = relax.transform.LegalizeOps()(build_graph([(4, 9)], ["float32"], lambda a: op.nn.softmax(a, 1)))
    func = next(f for f in lowered.functions.values() if isinstance(f, tirx.PrimFunc))
    program = read_program(func)
    assert [s.combine for s in program.stages] == ["Max", None, "Add", None]
    assert len(program.temporaries) == 3
