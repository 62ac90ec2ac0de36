"""Golden texts: the IR of one small model after each phase of the pipeline, for a named CPU.

Loops are left out: they change with every improvement of a template, and its own tests look at what they compute.
"""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kompilo.compiler.driver import ir_after
from kompilo.compiler.passes.pipeline import phase_names

TARGET = "cpu:avx2,cores=2"
PHASES = ("import", *phase_names())


def small_model() -> onnx.ModelProto:
    """Pad - Conv - BatchNormalization - Relu - GlobalAveragePool - Flatten - Gemm - Softmax."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return rng.random(shape, dtype=np.float32) + np.float32(0.5)

    parameters = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "w": random(16, 8, 3, 3),
        "scale": random(16),
        "shift": random(16),
        "mean": random(16),
        "var": random(16),
        "fc": random(16, 10),
        "bias": random(10),
    }
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("Conv", ["padded", "w"], ["conv"], kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["conv", "scale", "shift", "mean", "var"], ["normal"]),
        helper.make_node("Relu", ["normal"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 14, 14])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(value, name) for name, value in parameters.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("phase", PHASES)
def test_ir_after(phase, golden):
    """The graph, its operators in order and layout, and which template or rule made each kernel."""
    golden(f"{PHASES.index(phase)}_{phase}.txt", summary(ir_after(small_model(), phase, TARGET, records=False)))


def summary(script: str) -> str:
    """The text of the Relax function `main` in the script of a module, and a line for each of the other functions."""
    head, main = script.split("    @R.function\n")
    kernels = re.findall(r"    def (\w+)\(.*\n +T\.func_attr\((.*)\)", head)
    lines = [f"kernel {name}: {made_by(attributes)}" for name, attributes in kernels]
    lines += [line for line in main.splitlines() if line.strip() and not line.startswith("#")]
    return "\n".join(lines) + "\n"


def made_by(attributes: str) -> str:
    """The template or generic rule among a kernel's attributes."""
    found = re.search(r'"kompilo.template": "(\w+)"', attributes)
    return found[1] if found else "not scheduled"
