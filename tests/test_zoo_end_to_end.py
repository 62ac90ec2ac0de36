"""Every model of the zoo, from its ONNX file to an artifact on disk and back, against ONNX Runtime."""

from __future__ import annotations

import pytest
from zoo_check import check

import kompilo
from kompilo.models import zoo

# Sizes that a model compiled once with dynamic dimensions runs with: a typical one, a larger batch, an odd size.
DYNAMIC_SHAPES: dict[str, tuple[dict[str, tuple[int, ...]], ...]] = {
    "magika": ({"bytes": (1, 2048)}, {"bytes": (3, 2048)}),
    "ppocr_det": ({"x": (1, 3, 64, 96)}, {"x": (2, 3, 96, 160)}, {"x": (1, 3, 320, 320)}),
    "ppocr_rec": ({"x": (1, 3, 48, 320)}, {"x": (2, 3, 48, 104)}, {"x": (1, 3, 48, 49)}),
    "ppocr_cls": ({"x": (1, 3, 48, 192)}, {"x": (3, 3, 48, 101)}),
    "minilm_l3": (
        {"input_ids": (1, 128), "attention_mask": (1, 128)},
        {"input_ids": (4, 17), "attention_mask": (4, 17)},
        {"input_ids": (2, 1), "attention_mask": (2, 1)},
    ),
    "mnist": ({"image": (1, 1, 28, 28)}, {"image": (7, 1, 28, 28)}),
}


@pytest.mark.parametrize("name", zoo.names())
def test_agrees_with_onnxruntime(name, tmp_path, reference, zoo_model):
    model = zoo_model(name)
    path = tmp_path / f"{name}.kpo"
    kompilo.compile(f"zoo:{name}", inputs=model.shapes).save(path)
    module = kompilo.load(path, threads=1)
    assert [(s.name, s.shape, s.dtype) for s in module.inputs] == [
        (i.name, i.sample_shape, i.dtype) for i in model.inputs
    ]
    for seed in (0, 1):
        check(model, module, reference, model.sample_inputs(seed))
    for feeds in model.real_inputs():
        if {k: v.shape for k, v in feeds.items()} == model.shapes:
            check(model, module, reference, feeds)


@pytest.mark.parametrize("name", sorted(DYNAMIC_SHAPES))
def test_dynamic_shapes(name, reference, zoo_model):
    """One artifact, several sizes; the real inputs have sizes of their own and run here."""
    model = zoo_model(name)
    module = kompilo.load(kompilo.compile(f"zoo:{name}"), threads=1)
    assert any(isinstance(d, str) for spec in module.inputs for d in spec.shape)
    for shapes in DYNAMIC_SHAPES[name]:
        check(model, module, reference, model.sample_inputs(shapes=shapes))
    for feeds in model.real_inputs():
        check(model, module, reference, feeds)


def test_every_dynamic_model_is_run_with_several_sizes():
    assert set(DYNAMIC_SHAPES) == {name for name in zoo.names() if zoo.find(name).dynamic}


def test_threads_give_the_same_result(reference, zoo_model):
    model = zoo_model("squeezenet")
    artifact = kompilo.compile("zoo:squeezenet")
    for threads in (1, 2):
        check(model, kompilo.load(artifact, threads=threads), reference, model.sample_inputs(5))
