"""ONNX's Attention from the model to the GPU that stand-ins play: fused, causal, grouped, of open sizes, in float16."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from test_on_a_gpu import artifact_of, on_gpu

from kompilo.compiler.artifact.artifact import Artifact

from gpu.shim_support import needs_shim
from shim_target import install_shim_targets

pytestmark = needs_shim
HEADS, OWN, DEPTH = 4, 2, 16


def model() -> bytes:
    """Causal attention of (1, n, heads * depth); two heads of queries have keys and values in common."""
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=HEADS, kv_num_heads=OWN, is_causal=1)
    tensor = helper.make_tensor_value_info
    inputs = [tensor(n, TensorProto.FLOAT16, (1, "n", h * DEPTH)) for n, h in (("q", HEADS), ("k", OWN), ("v", OWN))]
    outputs = [tensor("y", TensorProto.FLOAT16, (1, "n", HEADS * DEPTH))]
    made = helper.make_model(
        helper.make_graph([node], "g", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=10,
    )
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


RUN = """
model = kompilo.load(path)
assert model.target.key != "cpu", model.target
for n in (21, 5):
    rng = np.random.default_rng(n)
    q, k, v = (rng.standard_normal((1, n, h * 16)).astype("f2") for h in (4, 2, 2))
    (y,) = model.run({"q": q, "k": k, "v": v}).values()
    heads = lambda x, h: x.astype("f8").reshape(n, h, 16).transpose(1, 0, 2)
    q, k, v = heads(q, 4), np.repeat(heads(k, 2), 2, 0), np.repeat(heads(v, 2), 2, 0)
    s = np.where(np.tri(n, dtype=bool), q @ k.transpose(0, 2, 1) / 4, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    expected = (p / p.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(1, n, 64)
    say(np.abs(y - expected).max() <= 4e-3)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    with pytest.MonkeyPatch.context() as patch:
        install_shim_targets(folder / "path", patch)
        return artifact_of(model(), folder / "attention.kpo")


def test_one_kernel_is_right(file, tmp_path):
    gpu, cpu = Artifact.open(file).targets
    assert [o.template for o in gpu.operators] == ["attention_tensor_core"]
    assert not [o for o in cpu.operators if o.kind == "attention"]
    assert on_gpu(file, RUN, tmp_path).split() == ["True", "True"]
