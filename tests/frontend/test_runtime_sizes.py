"""Sizes that only a run knows: where operators cannot work with them, one sentence, and never numbers or a crash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import kompilo
from kompilo.compiler.errors import InputError, ModelError

from op_test import floats, i64, reference_outputs

Dims = Sequence[int | str]


@dataclass
class Case:
    """A node on float inputs x0, x1, ...; `fits` and `fails` are their shapes in two runs.

    The operands of the node are the inputs, then `const`, unless `operands` names them (x0, ..., c0, ...).
    """

    op: str
    inputs: Sequence[Dims]
    fits: Sequence[Sequence[int]]
    fails: Sequence[Sequence[int]]
    message: str
    const: Sequence[np.ndarray] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 18
    operands: Sequence[str] = ()

    def model(self) -> onnx.ModelProto:
        names = [f"x{i}" for i in range(len(self.inputs))]
        fixed = [f"c{i}" for i in range(len(self.const))]
        results = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(self.op, list(self.operands) or names + fixed, results, name="it", **self.attrs)
        return build([node], dict(zip(names, self.inputs, strict=True)), results, self.opset, self.const)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Dims],
    outputs: Sequence[str],
    opset: int = 18,
    const: Sequence[np.ndarray] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in inputs.items()],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        [numpy_helper.from_array(c, f"c{i}") for i, c in enumerate(const)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def feeds_of(shapes: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    return {f"x{i}": floats(*shape, seed=i) for i, shape in enumerate(shapes)}


CASES = {
    "reshape beyond the input": Case(
        "Reshape", [["n"]], [[40]], [[4]], r"`\[n\]` must have as many elements as `\[40\]`", [i64(40)]
    ),
    "reshape several axes": Case(
        "Reshape", [["n", 5]], [[8, 5]], [[1, 5]], r"n = 1 \(axis 0 of input 'x0'\)", [i64(40)]
    ),
    "reshape with -1": Case(
        "Reshape", [["n", "m"]], [[3, 5]], [[4, 5]], "`n \\* m` must be a multiple of 3", [i64(3, -1)]
    ),
    "reshape with 0 and -1": Case(
        "Reshape", [["n", "m"]], [[3, 4]], [[3, 5]], "`m` must be a multiple of 2", [i64(0, 2, -1)]
    ),
    "squeeze": Case("Squeeze", [["n", 3]], [[1, 3]], [[2, 3]], "`n` must be 1 for Squeeze node 'it'", [i64(0)]),
    "split sizes": Case("Split", [["n", 3]], [[5, 3]], [[6, 3]], "`n` must be 5", [i64(2, 3)], outputs=2),
    "split in halves": Case("Split", [["n"]], [[6]], [[5]], "`n` must be a multiple of 2", outputs=2, opset=13),
    "split in more parts than elements": Case(
        "Split", [["n"]], [[5]], [[1]], "`n` must be at least 2", attrs={"num_outputs": 2}, outputs=2
    ),
    "split that leaves nothing for the last part": Case(
        "Split", [["n"]], [[7]], [[5]], "must be at least 0", attrs={"num_outputs": 4}, outputs=4
    ),
    "space to depth": Case(
        "SpaceToDepth",
        [[1, 2, "h", "w"]],
        [[1, 2, 4, 6]],
        [[1, 2, 4, 5]],
        "`w` must be a multiple of 2",
        attrs={"blocksize": 2},
    ),
    "depth to space": Case(
        "DepthToSpace",
        [[1, "c", 3, 2]],
        [[1, 8, 3, 2]],
        [[1, 6, 3, 2]],
        "`c` must be a multiple of 4",
        attrs={"blocksize": 2},
    ),
    "add": Case(
        "Add",
        [["n", 3], ["m", 3]],
        [[2, 3], [2, 3]],
        [[2, 3], [4, 3]],
        r"`m` must equal `n` for Add node 'it' \(axis 0 of input 1\), "
        r"found m = 4 \(axis 0 of input 'x1'\) and n = 2 \(axis 0 of input 'x0'\)",
    ),
    "add of a constant": Case("Add", [["n", 3]], [[2, 3]], [[4, 3]], "`n` must be 2", [floats(2, 3)]),
    "where": Case(
        "Max", [["a", 2], ["b", 2], [3, 2]], [[3, 2]] * 3, [[3, 2], [2, 2], [3, 2]], "`b` must .* Max node 'it'"
    ),
    "concat": Case(
        "Concat", [["n", 3], ["m", 2]], [[2, 3], [2, 2]], [[2, 3], [1, 2]], "`m` must equal `n`", attrs={"axis": 1}
    ),
    "expand": Case("Expand", [["n", 1]], [[3, 1]], [[2, 1]], "`n` must be 3", [i64(3, 4)]),
    "matmul": Case(
        "MatMul", [["n", "k"], ["j", 4]], [[2, 3], [3, 4]], [[2, 3], [5, 4]], "`j` must equal `k` for MatMul node"
    ),
    "gemm": Case("Gemm", [["n", "k"]], [[2, 3]], [[2, 4]], "`k` must be 3", [floats(3, 4), floats(4)]),
    "conv": Case("Conv", [[1, "c", 5, 5]], [[1, 2, 5, 5]], [[1, 3, 5, 5]], "`c` must be 2", [floats(4, 2, 3, 3)]),
    "bias of a convolution": Case(
        "Conv",
        [[1, 2, 5], ["p"]],
        [[1, 2, 5], [3]],
        [[1, 2, 5], [1]],
        "`p` must be 3",
        [floats(3, 2, 3)],
        operands=("x0", "c0", "x1"),
    ),
    "statistics": Case(
        "BatchNormalization",
        [[1, "c", 2], ["p"]],
        [[1, 3, 2], [3]],
        [[1, 3, 2], [1]],
        "`p` must be 3 .* input 1",
        [np.ones(3, np.float32)],
        operands=("x0", "x1", "c0", "c0", "c0"),
    ),
    "layer normalization": Case(
        "LayerNormalization", [[2, "c"], ["p"]], [[2, 4], [4]], [[2, 4], [3]], "`p` must equal `c`"
    ),
    "einsum": Case(
        "Einsum",
        [["m", "k"], ["j", "n"]],
        [[2, 3], [3, 4]],
        [[2, 3], [5, 4]],
        "`j` must equal `k` for Einsum",
        attrs={"equation": "ij,jk->ik"},
    ),
    "diagonal": Case(
        "Einsum", [["m", "k"]], [[3, 3]], [[4, 3]], "`k` must equal `m`|`m` must equal `k`", attrs={"equation": "ii->i"}
    ),
    "top k": Case("TopK", [["n", "m"]], [[2, 5]], [[2, 2]], "`m` must be at least 3", [i64(3)], outputs=2),
    "gather": Case("Gather", [["n", 2]], [[4, 2]], [[3, 2]], "`n` must be at least 4", [i64(0, 3, -1)]),
    "gather from behind": Case("Gather", [["n", 2]], [[4, 2]], [[3, 2]], "`n` must be at least 4", [i64(-4)]),
    "gather elements": Case(
        "GatherElements", [["n", 2]], [[2, 2]], [[1, 2]], "`n` must be at least 2", [np.array([[0, 1], [0, -1]])]
    ),
    "gather nd": Case(
        "GatherND", [["n", 2]], [[2, 2]], [[1, 2]], "`n` must be at least 2", [np.array([[0, 1], [1, 0]])]
    ),
    "scatter nd": Case(
        "ScatterND", [["n", 2]], [[2, 2]], [[1, 2]], "`n` must be at least 2", [np.array([[0, 1], [1, 0]]), floats(2)]
    ),
    "reflect": Case("Pad", [["n"]], [[4]], [[3]], "`n` must be at least 4", [i64(3, 2)], attrs={"mode": "reflect"}),
    "edge of what a negative pad leaves": Case(
        "Pad", [["n"]], [[4]], [[2]], "`n - 2` must be at least 1", [i64(-2, 2)], attrs={"mode": "edge"}
    ),
    "wrap of what a negative pad leaves": Case(
        "Pad", [["n"]], [[4]], [[2]], "`n - 2` must be at least 1", [i64(-2, 2)], attrs={"mode": "wrap"}, opset=19
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_sizes_that_fit_and_sizes_that_do_not(case):
    model = case.model()
    module = kompilo.load(kompilo.compile(model), threads=1)
    feeds = feeds_of(case.fits)
    for got, wanted in zip(module.run(feeds).values(), reference_outputs(model, feeds), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=case.message):
        module.run(feeds_of(case.fails))
    with pytest.raises(ModelError):
        kompilo.compile(model, inputs={f"x{i}": shape for i, shape in enumerate(case.fails)})
    module.run(feeds)


def test_windows_that_do_not_divide_the_image():
    """The window partition of Swin transformers, with the number of windows computed from the image's height."""
    nodes = [
        helper.make_node("Shape", ["x0"], ["s"], start=1, end=2),
        helper.make_node("Div", ["s", "c0"], ["windows"]),
        helper.make_node("Concat", ["c1", "windows", "c2"], ["target"], axis=0),
        helper.make_node("Reshape", ["x0", "target"], ["parts"]),
        helper.make_node("Transpose", ["parts"], ["swapped"], perm=[0, 1, 3, 2, 4, 5]),
        helper.make_node("Reshape", ["swapped", "c3"], ["y"], name="windows"),
    ]
    const = [i64(8), i64(1), i64(8, 2, 8, 3), i64(-1, 64, 3)]
    model = build(nodes, {"x0": [1, "h", 16, 3]}, ["y"], const=const)
    module = kompilo.load(kompilo.compile(model), threads=1)
    feeds = feeds_of([[1, 24, 16, 3]])
    np.testing.assert_array_equal(module.run(feeds)["y"], reference_outputs(model, feeds)[0])
    with pytest.raises(InputError, match="must have as many elements as .* found h = 20"):
        module.run(feeds_of([[1, 20, 16, 3]]))


@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_division_of_sizes_by_a_size_that_is_zero(op):
    nodes = [
        helper.make_node("Shape", ["x1"], ["k"]),
        helper.make_node("Sub", ["k", "c0"], ["divisor"], name="less"),
        helper.make_node("Shape", ["x0"], ["n"]),
        helper.make_node(op, ["n", "divisor"], ["part"], name="divide"),
        helper.make_node("ConstantOfShape", ["part"], ["y"]),
    ]
    model = build(nodes, {"x0": ["n"], "x1": ["k"]}, ["y"], const=[i64(3)])
    module = kompilo.load(kompilo.compile(model), threads=1)
    assert module(floats(7), floats(5)).shape == ((3,) if op == "Div" else (1,))
    with pytest.raises(InputError, match=f"`k - 3` must be at least 1 for {op} node 'divide'.* found k = 3"):
        module(floats(7), floats(3))


@pytest.mark.parametrize("shift", [-1, -3, 2])
def test_roll(shift):
    """torch.roll: the place to cut at is the shift modulo the size, which has the sign of the size."""
    nodes = [
        helper.make_node("Shape", ["x0"], ["n"]),
        helper.make_node("Mod", ["c0", "n"], ["at"]),
        helper.make_node("Slice", ["x0", "at", "n"], ["first"]),
        helper.make_node("Slice", ["x0", "c1", "at"], ["second"]),
        helper.make_node("Concat", ["first", "second"], ["y"], axis=0),
    ]
    model = build(nodes, {"x0": ["n"]}, ["y"], const=[i64(shift), i64(0)])
    module = kompilo.load(kompilo.compile(model), threads=1)
    for size in (7, 2, 1):
        np.testing.assert_array_equal(module(floats(size)), np.roll(floats(size), -shift))


def test_absolute_clipped_and_squared_sizes():
    nodes = [
        helper.make_node("Shape", ["x0"], ["n"]),
        helper.make_node("Sub", ["n", "c0"], ["less"]),
        helper.make_node("Abs", ["less"], ["distance"]),
        helper.make_node("Clip", ["distance", "c1", "c2"], ["clipped"]),
        helper.make_node("Pow", ["clipped", "c3"], ["square"]),
        helper.make_node("ConstantOfShape", ["square"], ["y"]),
    ]
    const = [i64(5), np.array(1), np.array(3), i64(2)]
    model = build(nodes, {"x0": ["n"]}, ["y"], const=const)
    module = kompilo.load(kompilo.compile(model), threads=1)
    assert [module(floats(n)).shape[0] for n in (1, 3, 5, 7, 9)] == [9, 4, 1, 4, 9]


def test_indices_of_max_pool_that_are_symbolic_in_shape():
    window = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("MaxPool", ["x0"], ["p", "i"], **window),
        helper.make_node("MaxUnpool", ["p", "i"], ["y"], **window),
    ]
    model = build(nodes, {"x0": [1, 1, "h", "w"]}, ["y"])
    module, feeds = kompilo.load(kompilo.compile(model), threads=1), feeds_of([[1, 1, 4, 6]])
    np.testing.assert_array_equal(module.run(feeds)["y"], reference_outputs(model, feeds)[0])


def test_number_of_elements_that_wraps_around_in_64_bits():
    nodes = [
        helper.make_node("Shape", ["x1"], ["n"]),
        helper.make_node("Shape", ["x2"], ["k"]),
        helper.make_node("Concat", ["n", "k", "c0"], ["target"], axis=0),
        helper.make_node("Reshape", ["x0", "target"], ["y"]),
    ]
    sizes = {"x0": 2**22, "x1": 2**22 + 4098, "x2": 2**22 - 4094}
    last = 2**20
    assert sizes["x1"] * sizes["x2"] * last == 2**64 + sizes["x0"]
    model = build(nodes, {"x0": ["m"], "x1": ["n"], "x2": ["k"]}, ["y"], const=[i64(last)])
    module = kompilo.load(kompilo.compile(model), threads=1)
    with pytest.raises(InputError, match="must have as many elements"):
        module.run({name: np.zeros(size, np.float32) for name, size in sizes.items()})
    with pytest.raises(ModelError, match="cannot be reshaped"):
        kompilo.compile(Case("Reshape", [["n", "m"]], [], [], "", [i64(0, 2**62 + 1)]).model())


def test_squeeze_without_axes_of_open_sizes():
    with pytest.raises(ModelError, match="axes are required where the size of an axis is open"):
        kompilo.compile(Case("Squeeze", [["n", 1]], [], [], "").model())


def squeezed(declared: Sequence[str], after: Sequence[onnx.NodeProto] = ()) -> onnx.ModelProto:
    """Squeeze of (n, 1) without axes, then the nodes `after` it; the output is declared with these dimensions."""
    model = build(
        [helper.make_node("Squeeze", ["x0"], ["y" if not after else "s"], name="it"), *after], {"x0": ["n", 1]}, ["y"]
    )
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, list(declared)))
    return model


def test_squeeze_without_axes_goes_by_the_declared_outputs():
    x = floats(1, 1)
    scalar = kompilo.load(kompilo.compile(squeezed([])), threads=1)
    np.testing.assert_array_equal(scalar(x), x[0, 0])
    with pytest.raises(InputError, match="`n` must be 1 for Squeeze node 'it'"):
        scalar(floats(3, 1))
    vector = kompilo.load(kompilo.compile(squeezed(["n"])), threads=1)
    np.testing.assert_array_equal(vector(floats(3, 1)), floats(3, 1)[:, 0])
    with pytest.raises(InputError, match="`n` must be at least 2 for Squeeze node 'it'"):
        vector(x)


def test_squeeze_without_axes_whose_outputs_do_not_tell():
    flat = [helper.make_node("Flatten", ["s"], ["y"], axis=0)]
    with pytest.raises(ModelError, match="axes are required where the size of an axis is open"):
        kompilo.compile(squeezed(["a", "b"], flat))


def test_positions_beside_sizes_of_other_inputs():
    """A table cut to an open length is taken to have it; kernels of other lengths are no part of that."""
    table = floats(1, 64, 4, seed=5)
    nodes = [
        helper.make_node("Shape", ["x0"], ["n"], start=1, end=2),
        helper.make_node("Slice", ["c0", "c1", "n", "c2"], ["positions"]),
        helper.make_node("Add", ["x0", "positions"], ["sum"]),
        helper.make_node("Softmax", ["x1"], ["weights"], axis=2),
        helper.make_node("Mul", ["sum", "weights"], ["y0"]),
    ]
    model = build(nodes, {"x0": [1, "n", 4], "x1": [1, 1, 4]}, ["y0"], const=[table, i64(0), i64(1)])
    module = kompilo.load(kompilo.compile(model), threads=1)
    for n in (5, 64):
        feeds = feeds_of([(1, n, 4), (1, 1, 4)])
        np.testing.assert_allclose(module.run(feeds)["y0"], reference_outputs(model, feeds)[0], rtol=1e-5, atol=1e-6)


def test_slice_to_nothing_of_an_open_axis():
    model = Case("Slice", [["n", 2]], [], [], "", [i64(0), i64(0)]).model()
    assert kompilo.load(kompilo.compile(model), threads=1)(floats(6, 2)).shape == (0, 2)


@pytest.mark.parametrize("op", ["Gather", "GatherElements", "GatherND", "ScatterElements"])
def test_indices_into_an_empty_axis_are_refused(op):
    """There is nothing that an index could be clamped to."""
    rows = helper.make_tensor_value_info("x", TensorProto.FLOAT, [0, 4])
    places = helper.make_tensor_value_info("i", TensorProto.INT64, [3, 1])
    updates = helper.make_tensor_value_info("u", TensorProto.FLOAT, [3, 1])
    names = ["x", "i", "u"] if op.startswith("Scatter") else ["x", "i"]
    node = helper.make_node(op, names, ["y"], name="it")
    graph = helper.make_graph([node], "g", [rows, places, updates], [helper.make_empty_tensor_value_info("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(ModelError, match=f"{op} node 'it'"):
        kompilo.compile(model)


def test_more_tiles_than_an_index_counts_are_refused():
    node = helper.make_node("Tile", ["x0", "c0"], ["y0"], name="it")
    model = build([node], {"x0": ["n"]}, ["y0"], const=[i64(2**31)])
    with pytest.raises(ModelError, match=r"expected fewer than 2\^31 repeats of axis 0, found 2147483648"):
        kompilo.compile(model)
