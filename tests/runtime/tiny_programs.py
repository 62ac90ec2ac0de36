"""Artifacts of a few operators, built with TVM directly: what the loader needs to be tested without the compiler."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx
from tvm.relax import op

from kompilo.compiler.artifact.artifact import Artifact, TargetCode
from kompilo.compiler.runtime.host import architecture, cpu_flags
from kompilo.compiler.tensor_spec import TensorSpec

MCPU = "x86-64-v3" if "avx2" in cpu_flags() else ""
FEATURES = ("avx2",) if MCPU else ()

Spec = tuple[str, tuple[int | str, ...], str]


def program(
    body: Callable[..., Any],
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    weights: Sequence[np.ndarray] = (),
    builder: relax.BlockBuilder | None = None,
) -> Artifact:
    """An artifact whose function applies `body(*inputs, *weights)`: a Relax expression or a tuple of them."""
    builder = builder or relax.BlockBuilder()
    sizes: dict[str, tirx.Var] = {}

    def variable(name: str, shape: Sequence[int | str], dtype: str) -> relax.Var:
        dims = [sizes.setdefault(d, tirx.Var(d, "int64")) if isinstance(d, str) else d for d in shape]
        return relax.Var(name, relax.TensorType(dims, dtype))

    parameters = [variable(*spec) for spec in inputs]
    parameters += [variable(f"w{i}", w.shape, w.dtype.name) for i, w in enumerate(weights)]
    with builder.function("main", parameters):
        with builder.dataflow():
            result = body(*parameters)
            result = relax.Tuple(list(result)) if isinstance(result, tuple) else result
            result = builder.emit_output(result)
        builder.emit_func_output(result)
    library = _library(builder.get())
    code = TargetCode("cpu", f"cpu-{architecture()}", f"{architecture()}-linux-gnu", library, FEATURES)
    return Artifact(_specs(inputs), _specs(outputs), (code,), list(weights), {})


def _specs(specs: Sequence[Spec]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(*spec) for spec in specs)


def _library(mod: tvm.IRModule) -> bytes:
    target = {"kind": "llvm", "mcpu": MCPU} if MCPU else {"kind": "llvm"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lib.so"
        tvm.compile(mod, tvm.target.Target(target)).export_library(str(path))
        return path.read_bytes()


@cache
def affine() -> Artifact:
    """z = (x + w) * v; x, z: float32[4, 8]."""
    weights = [np.full((4, 8), 3, np.float32), np.arange(32, dtype=np.float32).reshape(4, 8)]
    return program(
        lambda x, w, v: op.multiply(op.add(x, w), v), [("x", (4, 8), "float32")], [("z", (4, 8), "float32")], weights
    )


def affine_result(x: np.ndarray) -> np.ndarray:
    return (x + np.float32(3)) * np.arange(32, dtype=np.float32).reshape(4, 8)


@cache
def double(dtype: str, shape: tuple[int | str, ...] = (4, 8)) -> Artifact:
    """y = x + x (not x for bool)."""
    spec = (shape, dtype)
    return program(lambda x: op.logical_not(x) if dtype == "bool" else op.add(x, x), [("x", *spec)], [("y", *spec)])


@cache
def two_inputs() -> Artifact:
    """total, difference of a, b: float32[N, 8]; the second input's rows are N too."""
    spec = (("N", 8), "float32")
    return program(
        lambda a, b: (op.add(a, b), op.subtract(a, b)),
        [("a", *spec), ("b", *spec)],
        [("total", *spec), ("difference", *spec)],
    )


@cache
def outer() -> Artifact:
    """y = x x^T: float32[N, 8] -> float32[N, N], whose size is the square of the input's."""
    return program(
        lambda x: op.matmul(x, op.permute_dims(x)), [("x", ("N", 8), "float32")], [("y", ("N", "N"), "float32")]
    )


@cache
def aliases() -> Artifact:
    """Outputs that are an input, its reshape, a weight, and the same tensor twice."""
    weight = np.arange(8, dtype=np.float32)

    def body(x: Any, w: Any) -> tuple[Any, ...]:
        total = op.add(x, w)
        return x, op.reshape(x, (8,)), w, total, total

    outputs = [("same", (1, 8)), ("flat", (8,)), ("weight", (8,)), ("once", (1, 8)), ("twice", (1, 8))]
    return program(body, [("x", (1, 8), "float32")], [(name, shape, "float32") for name, shape in outputs], [weight])


@cache
def parallel(rows: int = 64, columns: int = 4096) -> Artifact:
    """y = 2 x + 1, float32[rows, columns], one row after the other in TVM's thread pool."""
    x = te.placeholder((rows, columns), name="x")
    y = te.compute(
        (rows, columns), lambda i, j: x[i, j] * tirx.const(2, "float32") + tirx.const(1, "float32"), name="y"
    )
    schedule = tvm.s_tir.Schedule(te.create_prim_func([x, y]))
    row, column = schedule.get_loops(schedule.get_sblock("y"))
    schedule.parallel(row)
    schedule.vectorize(schedule.split(column, [None, 8])[1])
    builder = relax.BlockBuilder()
    kernel = builder.add_func(schedule.mod["main"].with_attr("global_symbol", "rows"), "rows")
    shape = (rows, columns)
    return program(
        lambda x: relax.call_tir(kernel, [x], relax.TensorType(shape, "float32")),
        [("x", shape, "float32")],
        [("y", shape, "float32")],
        builder=builder,
    )
