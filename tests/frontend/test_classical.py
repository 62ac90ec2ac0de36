"""Classifiers as exporters write them: labels that are strings, and ZipMap at the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import kompilo
from kompilo.compiler.errors import ModelError
from kompilo.compiler.frontend.importer import import_model

from op_test import floats, reference_outputs

ML = "ai.onnx.ml"
LABELS = ["cat", "dog", "eel"]


def _model(strings: bool, zipped: bool, **zip_map: list) -> onnx.ModelProto:
    """A linear classifier of 4 features and 3 classes."""
    names = {"classlabels_strings": LABELS} if strings else {"classlabels_ints": [7, 8, 30]}
    model = {"coefficients": floats(12).tolist(), "intercepts": [0.1, 0.2, -0.3], "post_transform": "SOFTMAX"} | names
    nodes = [helper.make_node("LinearClassifier", ["x"], ["label", "scores"], name="FIT", domain=ML, **model)]
    zip_map = zip_map or ({"classlabels_strings": LABELS} if strings else {"classlabels_int64s": [7, 8, 30]})
    if zipped:
        nodes.append(helper.make_node("ZipMap", ["scores"], ["maps"], name="ZIP", domain=ML, **zip_map))
    key = TensorProto.STRING if strings else TensorProto.INT64
    value = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(key, value))
    outputs = [
        helper.make_tensor_value_info("label", key, [None]),
        onnx.ValueInfoProto(name="maps", type=maps)
        if zipped
        else helper.make_tensor_value_info("scores", TensorProto.FLOAT, None),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])]
    graph = helper.make_graph(nodes, "classifier", inputs, outputs)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(ML, 1)], ir_version=8
    )


@pytest.mark.parametrize("strings", [False, True], ids=["integers", "strings"])
@pytest.mark.parametrize("zipped", [False, True], ids=["tensor", "maps"])
def test_classifiers(tmp_path: Path, strings: bool, zipped: bool) -> None:
    pytest.importorskip("onnxruntime", reason="classifiers are compared with ONNX Runtime")
    model, x = _model(strings, zipped), floats(9, 4, seed=3)
    label, scores = reference_outputs(model, {"x": x})
    if zipped:
        scores = np.array([[row[key] for key in (LABELS if strings else (7, 8, 30))] for row in scores], np.float32)
    kompilo.compile(model).save(tmp_path / "m.kpo")
    results = kompilo.load(tmp_path / "m.kpo").run({"x": x})
    assert results["label"].tolist() == label.tolist()
    found = results["maps" if zipped else "scores"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, scores, atol=1e-6)


def test_zip_map_needs_labels() -> None:
    model = _model(strings=False, zipped=True)
    del model.graph.node[1].attribute[:]
    with pytest.raises(
        ModelError, match="ZipMap node 'ZIP' must have classlabels_int64s or classlabels_strings, found 0"
    ):
        import_model(model)


def test_names_that_are_taken() -> None:
    """What is put in has names of its own."""
    model = _model(strings=True, zipped=False)
    model.graph.node[0].input[0] = model.graph.input[0].name = "label_class"
    assert [i.name for i in kompilo.compile(model).inputs] == ["label_class"]
