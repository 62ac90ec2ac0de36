"""LegalizeLayouts: what the pass writes, and that convolutions no template takes compile and are right."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper
from tvm import relax

import kompilo
from kompilo.compiler.passes.legalize_layouts import LegalizeLayouts

from support import build, const, f32, ops

conv2d_transpose = relax.op.nn.conv2d_transpose
permute_dims = relax.op.permute_dims
WEIGHT = const(np.ones((4, 6, 3, 3)))


def legalized(*args) -> list[str]:
    mod = LegalizeLayouts().run(build(*args))
    relax.analysis.well_formed(mod)
    return ops(mod)


def test_channels_last_is_wrapped():
    found = legalized([f32(1, 5, 7, 4)], lambda x: conv2d_transpose(x, WEIGHT, data_layout="NHWC"))
    assert found == ["permute_dims", "nn.conv2d_transpose", "permute_dims"]


def test_permute_before_is_undone():
    found = legalized(
        [f32(1, 4, 5, 7)], lambda x: conv2d_transpose(permute_dims(x, (0, 2, 3, 1)), WEIGHT, data_layout="NHWC")
    )
    assert found == ["nn.conv2d_transpose", "permute_dims"]


def test_channels_first_stays():
    mod = build([f32(1, 4, 5, 7)], lambda x: conv2d_transpose(x, WEIGHT))
    assert LegalizeLayouts().run(mod) is mod


# One node each: operator, shapes of data and weight, attributes.
CASES = {
    "transposed": ("ConvTranspose", (2, 4, 5, 7), (4, 6, 3, 3), {"strides": [2, 2], "pads": [1, 0, 1, 2]}),
    "transposed, output padding": (
        "ConvTranspose",
        (1, 3, 4, 5),
        (3, 5, 3, 2),
        {"strides": [3, 2], "output_padding": [1, 1]},
    ),
    "transposed, dilated": ("ConvTranspose", (1, 3, 6, 5), (3, 2, 3, 3), {"dilations": [2, 3]}),
    "transposed, grouped": ("ConvTranspose", (1, 6, 5, 5), (6, 2, 3, 3), {"group": 3, "strides": [2, 2]}),
    "transposed, depthwise": ("ConvTranspose", (1, 6, 5, 5), (6, 1, 2, 2), {"group": 6, "strides": [2, 2]}),
    "transposed, 1-d": ("ConvTranspose", (2, 3, 9), (3, 4, 4), {"strides": [2], "pads": [1, 1]}),
    "transposed, 3-d": ("ConvTranspose", (1, 2, 3, 4, 5), (2, 3, 2, 3, 2), {"strides": [1, 2, 2]}),
    "plain": ("Conv", (2, 4, 9, 7), (6, 4, 3, 3), {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
    "plain, dilated": ("Conv", (1, 4, 9, 9), (3, 4, 3, 2), {"dilations": [2, 3]}),
    "plain, grouped": ("Conv", (1, 6, 5, 5), (9, 2, 3, 3), {"group": 3}),
    "plain, depthwise": ("Conv", (1, 6, 9, 5), (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "plain, 1-d": ("Conv", (2, 3, 9), (4, 3, 4), {"strides": [2], "pads": [1, 2]}),
    "plain, 3-d": ("Conv", (1, 2, 5, 4, 5), (3, 2, 2, 3, 2), {"strides": [1, 2, 2]}),
}

# Element type, whether the weights are constant, and the error allowed, relative to the output's range.
KINDS = {"float64": ("float64", True, 1e-12), "float16": ("float16", True, 4e-3), "input": ("float32", False, 1e-5)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_convolutions(name, kind):
    op, data_shape, weight_shape, attrs = CASES[name]
    dtype, constant, tolerance = KINDS[kind]
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, data_shape).astype(dtype)
    w = rng.uniform(-1, 1, weight_shape).astype(dtype)
    channels = weight_shape[1] * attrs.get("group", 1) if op == "ConvTranspose" else weight_shape[0]
    b = rng.uniform(-1, 1, channels).astype(dtype)
    fixed = {"w": w, "b": b} if constant else {"b": b}
    feeds = {k: v for k, v in {"x": x, "w": w}.items() if k not in fixed}
    nodes = [helper.make_node(op, ["x", "w", "b"], ["c"], **attrs), helper.make_node("Relu", ["c"], ["y"])]
    check(nodes, feeds, fixed, expected(op, x, w, b, **attrs), tolerance)


def test_dynamic_size():
    rng = np.random.default_rng(1)
    w = rng.uniform(-1, 1, (3, 2, 3, 3))
    attrs = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    node = helper.make_node("ConvTranspose", ["x", "w"], ["c"], **attrs)
    nodes = [node, helper.make_node("Relu", ["c"], ["y"])]
    for shape in ((1, 3, 4, 5), (3, 3, 7, 2)):
        x = rng.uniform(-1, 1, shape)
        wanted = expected("ConvTranspose", x, w, np.zeros(2), **attrs)
        check(nodes, {"x": x}, {"w": w}, wanted, 1e-12, dims=("n", 3, "h", "w"))


def expected(op, x, w, b, strides=None, pads=None, dilations=None, group=1, output_padding=None) -> np.ndarray:
    """Relu of a convolution, summed kernel tap by kernel tap in float64; ONNX's reference evaluator knows no groups."""
    n, spatial, kernel = x.ndim - 2, x.shape[2:], w.shape[2:]
    s, d, extra = strides or [1] * n, dilations or [1] * n, output_padding or [0] * n
    begin, end = np.array(pads or [0] * 2 * n).reshape(2, n)
    data = x.reshape(x.shape[0], group, -1, *spatial).astype(np.float64)
    transposed = op == "ConvTranspose"
    weight = w.reshape(group, w.shape[0] // group, *w.shape[1:]).astype(np.float64)
    if transposed:
        full = [(spatial[a] - 1) * s[a] + (kernel[a] - 1) * d[a] + 1 + extra[a] for a in range(n)]
        result = np.zeros((x.shape[0], group, w.shape[1], *full))
    else:
        data = np.pad(data, [(0, 0)] * 3 + list(zip(begin, end, strict=True)))
        size = [(data.shape[3 + a] - (kernel[a] - 1) * d[a] - 1) // s[a] + 1 for a in range(n)]
        result = np.zeros((x.shape[0], group, w.shape[0] // group, *size))
    for tap in np.ndindex(*kernel):
        count = spatial if transposed else size
        at = tuple(slice(t * d[a], t * d[a] + (count[a] - 1) * s[a] + 1, s[a]) for a, t in enumerate(tap))
        if transposed:
            result[:, :, :, *at] += np.einsum("ngi...,gio->ngo...", data, weight[:, :, :, *tap])
        else:
            result += np.einsum("ngi...,goi->ngo...", data[:, :, :, *at], weight[:, :, :, *tap])
    if transposed:
        result = result[:, :, :, *(slice(begin[a], full[a] - end[a]) for a in range(n))]
    result = result.reshape(x.shape[0], -1, *result.shape[3:]) + b.reshape(-1, *[1] * n)
    return np.maximum(result, 0)


def check(nodes, feeds, fixed, wanted, tolerance, dims=None) -> None:
    """Compile a model of `nodes` and compare its output y with `wanted`, at one and two threads."""
    dtype = feeds["x"].dtype
    element = helper.np_dtype_to_tensor_dtype(dtype)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(k, element, dims or v.shape) for k, v in feeds.items()],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(v, k) for k, v in fixed.items()],
    )
    artifact = kompilo.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    for threads in (1, 2):
        found = kompilo.load(artifact, threads=threads).run(feeds)["y"]
        assert (found.shape, found.dtype) == (wanted.shape, dtype)
        assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()
