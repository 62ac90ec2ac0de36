"""Tensors stored in files of their own: read from the model's folder, and from nowhere else."""

import numpy as np
import onnx
import pytest
from onnx import helper

from kompilo.compiler.errors import ModelError
from kompilo.compiler.frontend.importer import import_model

from op_test import floats, make_model, run_imported


@pytest.fixture
def external(tmp_path):
    """A model file whose weights lie in weights.bin, and a function that edits the model."""
    proto = make_model(
        [helper.make_node("Add", ["x", "w"], ["a"]), helper.make_node("Mul", ["a", "v"], ["y"])],
        {"x": floats(2, 300), "w": floats(300), "v": floats(300, seed=1)},
        ["y"],
        const=("w", "v"),
    )
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)

    def edit(change):
        edited = onnx.load(path, load_external_data=False)
        change(edited.graph.initializer[0])
        path.write_bytes(edited.SerializeToString())

    return path, edit


def set_location(value):
    def change(initializer):
        next(e for e in initializer.external_data if e.key == "location").value = value

    return change


def test_external_data(external):
    x = floats(2, 300)
    (y,) = run_imported(import_model(external[0]), {"x": x})
    np.testing.assert_allclose(y, (x + floats(300)) * floats(300, seed=1), rtol=1e-6)


def test_external_data_missing(external):
    (external[0].parent / "weights.bin").unlink()
    with pytest.raises(ModelError, match="External data file 'weights.bin' of tensor 'w' is missing"):
        import_model(external[0])


def test_external_data_truncated(external):
    weights = external[0].parent / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="'weights.bin' is truncated: tensor 'v' needs 1200 bytes"):
        import_model(external[0])


def test_external_data_of_a_model_without_a_folder(external):
    with pytest.raises(ModelError, match="stored in file 'weights.bin', but the model was not given as a file"):
        import_model(external[0].read_bytes())


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "", "sub/../../weights.bin"])
def test_external_data_outside_the_folder(external, location):
    external[1](set_location(location))
    with pytest.raises(ModelError, match="not inside the model's folder"):
        import_model(external[0])


def test_external_data_behind_a_link(external, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.bin"
    outside.write_bytes(bytes(4000))
    (external[0].parent / "link.bin").symlink_to(outside)
    external[1](set_location("link.bin"))
    with pytest.raises(ModelError, match="not inside the model's folder"):
        import_model(external[0])


def test_tensors_of_attributes_are_read_like_initializers(external):
    """From the model's folder, wherever the process runs, and nowhere else."""
    path, _ = external
    stored = onnx.load(path, load_external_data=False)
    weight = next(t for t in stored.graph.initializer if t.name == "w")
    stored.graph.initializer.remove(weight)
    stored.graph.node.append(helper.make_node("Constant", [], ["w"], "c", value=weight))
    path.write_bytes(stored.SerializeToString())
    x = floats(2, 300)
    (y,) = run_imported(import_model(path), {"x": x})
    np.testing.assert_allclose(y, (x + floats(300)) * floats(300, seed=1), rtol=1e-6)
    set_location("../weights.bin")(stored.graph.node[-1].attribute[0].t)
    path.write_bytes(stored.SerializeToString())
    with pytest.raises(ModelError, match=r"Constant node 'c', attribute 'value': .* not inside the model's folder"):
        import_model(path)


def test_external_data_with_a_wrong_length(external):
    def change(initializer):
        next(e for e in initializer.external_data if e.key == "length").value = "7"

    external[1](change)
    with pytest.raises(ModelError, match="Tensor 'w' has 7 bytes in 'weights.bin', expected 1200"):
        import_model(external[0])
