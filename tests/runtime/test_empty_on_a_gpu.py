"""Tensors of no elements on the GPU that stand-ins play: nothing is launched for them, and results are the CPU's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_on_a_gpu import artifact_of, logged, on_gpu

from kompilo.compiler.artifact.artifact import Artifact

from gpu.shim_support import needs_shim
from shim_target import install_shim_targets

pytestmark = needs_shim
ROWS, COLUMNS = 6, 64

# What is computed of rows `r`, of which there may be none: name -> operator, attributes, inputs.
OF_ROWS = {
    "map": ("Exp", {}, ["r"]),
    "transposed": ("Transpose", {"perm": [1, 0]}, ["r"]),
    "sums": ("ReduceSum", {"keepdims": 0}, ["r", "last"]),
    "softmax": ("Softmax", {}, ["r"]),
    "running": ("CumSum", {}, ["r", "last"]),
    "product": ("MatMul", {}, ["r", "w"]),
    "total": ("ReduceSum", {"keepdims": 0}, ["r", "first"]),
    "mean": ("ReduceMean", {"keepdims": 0}, ["r", "first"]),
    "largest": ("ReduceMax", {"keepdims": 0}, ["r", "first"]),
    "gram": ("MatMul", {}, ["transposed", "r"]),
    "wide": ("MatMul", {}, ["v", "transposed"]),
    "batch": ("Unsqueeze", {}, ["r", "first"]),
    "attention": ("Attention", {"q_num_heads": 4, "kv_num_heads": 4}, ["batch", "batch", "batch"]),
}
# What is not asked of the rows: attention over none that the model says is not imported.
UNASKED = {"static": ("Attention",), "data": (), "open": ()}
# How many results are empty where there are no rows.
EMPTY = {"static": 8, "data": 9, "open": 9}


def model_of(kind: str) -> bytes:
    """What OF_ROWS says of rows that are a "static" slice of x, one of "open" size, or those that "data" selects."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n" if kind == "open" else ROWS, COLUMNS])]
    constants = {"last": np.array([1]), "first": np.array([0]), "two": np.array([2]), "end": np.array([1 << 40])}
    constants["w"] = np.random.default_rng(0).standard_normal((COLUMNS, 24)).astype("f4")
    constants["v"] = constants["w"][:, :20].T.copy()
    if kind == "static":
        rows = [helper.make_node("Slice", ["x", "two", "two"], ["r"])]
    elif kind == "open":
        rows = [helper.make_node("Slice", ["x", "two", "end"], ["r"])]
    else:
        inputs.append(helper.make_tensor_value_info("keep", TensorProto.BOOL, [ROWS]))
        rows = [helper.make_node("Compress", ["x", "keep"], ["r"], axis=0)]
    results = {name: what for name, what in OF_ROWS.items() if what[0] not in UNASKED[kind]}
    nodes = [helper.make_node(op, operands, [name], **how) for name, (op, how, operands) in results.items()]
    made = helper.make_model(
        helper.make_graph(
            [*rows, *nodes],
            "g",
            inputs,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=10,
    )
    return bytes(made.SerializeToString())


RUN = """
cpu, gpu = kompilo.load(path, "cpu"), kompilo.load(path)
assert gpu.target.key != "cpu", gpu.target
kind = os.path.basename(path)
for rows in ROWS_OF_RUNS:
    feeds = {"x": np.random.default_rng(1).standard_normal((FED, 64)).astype("f4")}
    if "open" in kind:
        feeds["x"] = feeds["x"][:rows + 2]
    if "data" in kind:
        feeds["keep"] = np.arange(FED) < rows
    expected, found = cpu.run(feeds), gpu.run(feeds)
    for name, value in expected.items():
        assert found[name].shape == value.shape, (name, found[name].shape, value.shape)
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=2e-5, err_msg=name)
    say(rows, sum(value.size == 0 for value in found.values()))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    with pytest.MonkeyPatch.context() as patch:
        install_shim_targets(folder / "path", patch)
        return {kind: artifact_of(model_of(kind), folder / f"{kind}.kpo") for kind in EMPTY}


@pytest.mark.parametrize(("kind", "runs"), [("static", [0]), ("open", [0, 5, 0]), ("data", [0, 3])])
def test_empty_tensors_are_as_on_the_cpu(files, tmp_path, kind, runs):
    script = RUN.replace("ROWS_OF_RUNS", str(runs)).replace("FED", str(ROWS))
    kernels = [o.template for o in Artifact.open(files[kind]).targets[0].operators]
    assert kind != "data" or {"attention_simt", "matmul_simt"} <= set(kernels)
    lines = on_gpu(files[kind], script, tmp_path).splitlines()
    assert lines == [f"{rows} {0 if rows else EMPTY[kind]}" for rows in runs]
    assert not logged(tmp_path, "bad pointer")
    assert all("0" not in line.split()[2:8] for line in logged(tmp_path, "launch"))
