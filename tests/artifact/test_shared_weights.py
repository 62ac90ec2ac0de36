"""Equal weights are stored once, equal meaning bit by bit."""

import numpy as np

import kompilo
from kompilo.compiler.artifact.shared_weights import SharedWeights


def test_equal_bits_share_a_place():
    weights = SharedWeights()
    a = np.array([[1, np.nan, 0.0]], np.float32)
    unlike = [a.reshape(3), a.view(np.int32), np.array([[1, np.nan, -0.0]], np.float32), a.astype(np.float64)]
    assert [weights.place(x) for x in (a, a.copy(), a[:, ::-1], a[:, ::-1].copy())] == [0, 0, 1, 1]
    assert [weights.place(x) for x in unlike] == [2, 3, 4, 5]
    assert [weights.place(np.zeros(s, np.int8)) for s in ((0, 4), (4, 0), (0, 4), ())] == [6, 7, 6, 8]
    assert all(x.flags.c_contiguous for x in weights.arrays)


def test_targets_share_what_they_pack_alike(tmp_path):
    from onnx import TensorProto, helper, numpy_helper

    table = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"]), helper.make_node("Relu", ["rows"], ["y"])],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    artifact = kompilo.compile(model, target=["cpu:avx2", "cpu:skylake-avx512"])
    assert [t.weights for t in artifact.targets] == [(0,), (0,)]
    artifact.save(tmp_path / "m.kpo")
    ids = np.array([5, 0, 999])
    np.testing.assert_array_equal(kompilo.load(tmp_path / "m.kpo", device="cpu:avx2")(ids), table[ids])
