"""One-line operator tests: build a one-node model, import it, run it, and compare with ONNX Runtime.

    check_op("Add", [floats(2, 3), floats(3)])
    check_op("Slice", [floats(4, 5), i64(1), i64(3)], const=(1, 2), dynamic=True)

The model takes the whole way: passes, templates, code, loader.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from onnx.reference import ReferenceEvaluator

import kompilo
from kompilo.compiler.artifact.artifact import Artifact
from kompilo.compiler.artifact.shared_weights import SharedWeights
from kompilo.compiler.driver import compile_module
from kompilo.compiler.frontend.importer import ImportedModel, import_model
from kompilo.compiler.schedule.selection import Selector
from kompilo.compiler.schedule.target import find_target

# The newest opset and IR version that the pinned ONNX Runtime reads for all operators.
DEFAULT_OPSET = 21


def floats(*shape: int, low: float = -2.0, high: float = 2.0, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Uniform random numbers; the same for the same arguments."""
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(dtype)


def ints(*shape: int, low: int = -5, high: int = 6, dtype: str = "int64", seed: int = 0) -> np.ndarray:
    """Uniform random integers in [low, high)."""
    return np.random.default_rng([seed, *shape]).integers(low, high, shape).astype(dtype)


def bools(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(0, 2, shape).astype(bool)


def i64(*values: int) -> np.ndarray:
    """A vector of int64."""
    return np.array(values, np.int64)


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    *,
    const: Sequence[str] = (),
    dynamic: bool | Sequence[str] | Mapping[str, Sequence[int]] = False,
    opset: int = DEFAULT_OPSET,
    domain: str = "",
    version: int = 1,
    ir_version: int = 10,
) -> onnx.ModelProto:
    """A model of `nodes`: tensors in `const` become initializers, the dimensions of `dynamic` inputs are left open, or
    those of them that it gives for an input."""
    if not isinstance(dynamic, Mapping):
        dynamic = {name: range(inputs[name].ndim) for name in (inputs if dynamic is True else dynamic or ())}
    infos = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(x.dtype),
            [f"{name}{axis}" if axis in dynamic.get(name, ()) else size for axis, size in enumerate(x.shape)],
        )
        for name, x in inputs.items()
        if name not in const
    ]
    graph = helper.make_graph(
        list(nodes),
        "test",
        infos,
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [onnx.numpy_helper.from_array(inputs[name], name) for name in const],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, version)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def run_imported(imported: ImportedModel, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Compile the module for this machine with all passes and templates, and run it on one thread."""
    weights = SharedWeights()
    code = compile_module(imported.mod, "cpu", Selector(find_target("cpu")), weights)
    module = kompilo.load(Artifact(imported.inputs, imported.outputs, (code,), weights.arrays, {}), threads=1)
    results = module.run({spec.name: feeds[spec.name] for spec in imported.inputs})
    return [results[spec.name] for spec in imported.outputs]


def reference_outputs(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], reference: str = "ort"
) -> list[np.ndarray]:
    """What ONNX Runtime ("ort") or ONNX's reference evaluator ("onnx") computes."""
    if reference == "onnx":
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return [np.asarray(r) for r in ReferenceEvaluator(model).run(None, dict(feeds))]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # Optimizations fuse and reorder: they are ONNX Runtime's, not the operator's.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def check_model(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    *,
    reference: str | Sequence[np.ndarray] = "ort",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> ImportedModel:
    """Import `model`, run it, and compare dtypes, shapes and numbers with the reference (or the given arrays)."""
    imported = import_model(model, shapes)
    expected = reference_outputs(model, feeds, reference) if isinstance(reference, str) else list(reference)
    actual = run_imported(imported, feeds)
    assert len(actual) == len(expected) == len(imported.outputs)
    for spec, got, want in zip(imported.outputs, actual, expected, strict=True):
        assert got.dtype == want.dtype == np.dtype(spec.dtype), f"{spec.name}: {got.dtype}, expected {want.dtype}"
        assert got.shape == want.shape, f"{spec.name}: shape {got.shape}, expected {want.shape}"
        for found, real in zip(spec.shape, want.shape, strict=True):
            assert not isinstance(found, int) or found == real, (
                f"{spec.name}: inferred {spec.shape}, found {want.shape}"
            )
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol, err_msg=spec.name, equal_nan=True)
    return imported


def check_op(
    op: str,
    inputs: Sequence[np.ndarray | None],
    attrs: Mapping[str, Any] | None = None,
    *,
    opset: int = DEFAULT_OPSET,
    domain: str = "",
    version: int = 1,
    outputs: int | Sequence[str] = 1,
    const: Sequence[int] = (),
    dynamic: bool | Sequence[int] | Mapping[int, Sequence[int]] = False,
    reference: str | Sequence[np.ndarray] = "ort",
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> ImportedModel:
    """Test one operator.

    Args:
        op: operator type, with its `domain` of opset `version`, at `opset`.
        inputs: arrays; None omits an optional input.
        attrs: attributes by name.
        outputs: outputs to ask for, or their names, "" for one that is not wanted.
        const: indices of the inputs that are initializers.
        dynamic: True or the indices of the inputs whose dimensions are left open at import; which, if a dict.
        reference: "ort", "onnx", or the expected arrays.
    """
    named = {f"x{i}": np.asarray(x) for i, x in enumerate(inputs) if x is not None}
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)] if isinstance(outputs, int) else list(outputs)
    node = helper.make_node(op, names, results, domain=domain, **(attrs or {}))
    fixed = [f"x{i}" for i in const]
    axes = {f"x{i}": dynamic[i] for i in dynamic} if isinstance(dynamic, Mapping) else None
    loose = dynamic if isinstance(dynamic, bool) else axes or [f"x{i}" for i in dynamic]
    wanted = [name for name in results if name]
    model = make_model([node], named, wanted, const=fixed, dynamic=loose, opset=opset, domain=domain, version=version)
    feeds = {n: x for n, x in named.items() if n not in fixed}
    return check_model(model, feeds, reference=reference, rtol=rtol, atol=atol)


def check_variants(
    op: str,
    x: np.ndarray,
    variants: Sequence[Mapping[str, Any]],
    *,
    domain: str,
    version: int = 1,
    outputs: int = 1,
    dynamic: bool = False,
    atol: float = 1e-5,
) -> None:
    """Like `check_op`, for one model in which a node for each of `variants`, which are attributes, reads `x`."""
    results = [[f"y{i}_{k}" for k in range(outputs)] for i in range(len(variants))]
    nodes = [helper.make_node(op, ["x"], out, domain=domain, **a) for out, a in zip(results, variants, strict=True)]
    wanted = [name for out in results for name in out]
    model = make_model(nodes, {"x": x}, wanted, dynamic=dynamic, domain=domain, version=version)
    check_model(model, {"x": x}, atol=atol)
