"""The examples of CONTRIBUTING.md are true: each is run as the file that it claims to be."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper
from tvm import relax

from kompilo.compiler.driver import compile as compile_model
from kompilo.compiler.errors import TargetError
from kompilo.compiler.frontend.converters import registry, schemas
from kompilo.compiler.passes.base import run_passes
from kompilo.compiler.schedule import target as targets
from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.compiler.schedule.target import find_target

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
PACKAGES = {"compiler": "kompilo.compiler", "targets": "kompilo.targets", "kompilo_fleet": "kompilo_fleet"}


@pytest.fixture
def example(monkeypatch):
    """`example("a/b.py")` gives the module that the block after that file name defines."""

    def load(path: str) -> ModuleType:
        block = re.search(rf"^`{re.escape(path)}`.*?^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
        assert block, f"CONTRIBUTING.md has no example {path}"
        first, _, rest = path.removesuffix(".py").partition("/")
        name = f"{PACKAGES[first]}.{rest.replace('/', '.')}"
        module = ModuleType(name)
        module.__package__ = name.rpartition(".")[0]
        # Dataclasses look their own module up.
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(block[1], path, "exec"), module.__dict__)
        return module

    return load


def test_operator(example, monkeypatch):
    registry.load_converters()  # into the real table, ahead of the copy
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    monkeypatch.setattr(schemas, "_SCHEMAS", dict(schemas._SCHEMAS))
    example("compiler/frontend/converters/microsoft/scaled_silu.py")
    graph = helper.make_graph(
        [helper.make_node("ScaledSiLU", ["x"], ["y"], domain="com.microsoft", alpha=1.5)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    x = np.random.default_rng(0).standard_normal((2, 3), dtype=np.float32)
    from kompilo.compiler.runtime.module import load

    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(load(compile_model(model))(x), expected, atol=1e-6)


def test_pass(example):
    abs_of_relu = example("compiler/passes/abs_of_relu.py").AbsOfRelu()
    x = relax.Var("x", relax.TensorType((4,), "float32"))

    def module(function) -> tvm.IRModule:
        builder = relax.BlockBuilder()
        with builder.function("main", [x]):
            with builder.dataflow():
                out = builder.emit_output(relax.op.add(relax.op.abs(builder.emit(function(x))), x))
            builder.emit_func_output(out)
        return builder.get()

    before = module(relax.op.nn.relu)
    after = run_passes(before, [abs_of_relu])
    assert "abs" in before.script()
    assert "abs" not in after.script()
    other = module(relax.op.negative)
    assert run_passes(other, [abs_of_relu]).same_as(other)


@pytest.mark.parametrize("columns", [16, 96])
def test_template(example, columns):
    template = example("targets/cpu/templates/outer_product.py").OuterProduct()
    target = find_target("cpu")
    kinds = [TensorType(s, "float32") for s in ((5, 1), (1, columns), (columns,), (5, columns))]
    op = OpSpec(
        kind="matmul",
        inputs=tuple(kinds[:3]),
        constant=(False, False, False),
        attrs=(("lhs_perm", (0, 1)), ("out_perm", (0, 1)), ("rhs_perm", (0, 1))),
        anchor_type=kinds[3],
        output=kinds[3],
        epilogue=(Step("add", ("anchor", "i2"), "float32"), Step("nn.relu", ("s0",), "float32")),
    )
    space = template.match(op, target.spec)
    a, b, bias = (np.random.default_rng(k).standard_normal(t.shape, dtype=np.float32) for k, t in enumerate(kinds[:3]))
    for config in space:
        func = template.build(op, target.spec, config).func.with_attr("global_symbol", "main")
        built = tvm.compile(func.with_attr("tirx.is_scheduled", True), target=target.tvm_target())
        out = tvm.runtime.empty((5, columns), "float32")
        built["main"](*(tvm.runtime.tensor(v) for v in (a, b, bias)), out)
        np.testing.assert_allclose(out.numpy(), np.maximum(a @ b + bias, 0), atol=1e-6)
    assert template.match(replace(op, inputs=(kinds[3], *kinds[1:3])), target.spec) is None


def test_target(example, monkeypatch):
    class Entry:
        name = "fleet"

        def load(self):
            return example("kompilo_fleet/target.py").FleetTarget

    monkeypatch.setattr(targets, "entry_points", lambda **_: [Entry()])
    found = find_target("fleet")
    assert (found.spec.key, found.spec.vector_bytes) == ("fleet-avx2-2c", 32)
    with pytest.raises(TargetError, match="target fleet: expected no preset, found 'big'"):
        find_target("fleet:big")
