"""Helpers for tests of graph passes: build a small Relax module, look at its operators, run it with plain TVM."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax

from kompilo.compiler.knobs import Knobs
from kompilo.compiler.passes.base import Pass, PassRunner
from kompilo.compiler.passes.graph import Graph

Body = Callable[..., "relax.Expr | Sequence[relax.Expr]"]


def build(params: Sequence[tuple[Sequence[object], str]], body: Body) -> tvm.IRModule:
    """A module whose `main` takes tensors of the given (shape, dtype) and returns what `body(*tensors)` returns.

    `body` returns an expression or a list of them; every call in it becomes a binding of its own.
    """
    inputs = [relax.Var(f"x{k}", relax.TensorType(tuple(s), d)) for k, (s, d) in enumerate(params)]
    builder = relax.BlockBuilder()
    with builder.function("main", inputs):
        with builder.dataflow():
            result = body(*inputs)
            many = isinstance(result, list | tuple)
            value = relax.Tuple([builder.emit(r) for r in result]) if many else builder.emit(result)
            out = builder.emit_output(value)
        builder.emit_func_output(out)
    return builder.get()


def f32(*dims: object) -> tuple[tuple[object, ...], str]:
    """(shape, "float32")."""
    return dims, "float32"


def const(value: object, dtype: str = "float32") -> relax.Expr:
    """A tensor constant of exactly `dtype`."""
    return relax.const(np.asarray(value, dtype=dtype), dtype)


def random(seed: int, *dims: int, low: float = -1.0, high: float = 1.0) -> relax.Expr:
    """A float32 constant of uniform random numbers."""
    return const(np.random.default_rng(seed).uniform(low, high, dims))


def ops(mod: tvm.IRModule) -> list[str]:
    """Operator names of the bindings of `main`, in order, without the final tuple or alias."""
    return [n.op for n in Graph.of(mod).nodes if n.op not in ("tuple", "alias", "get_item")]


def apply(mod: tvm.IRModule, *passes: Pass) -> tvm.IRModule:
    """The module after `passes`, verified after each."""
    return PassRunner(Knobs()).run(mod, passes)[0]


def run(mod: tvm.IRModule, *inputs: np.ndarray) -> list[np.ndarray]:
    """Outputs of `main` as plain TVM computes them, unoptimised."""
    executable = tvm.compile(_channels_first_transposed_convolutions(mod), "llvm")
    vm = relax.VirtualMachine(executable, tvm.cpu())
    result = vm["main"](*(tvm.runtime.tensor(x) for x in inputs))
    return [r.numpy() for r in (result if not isinstance(result, tvm.runtime.Tensor) else [result])]


def inputs_for(mod: tvm.IRModule, sizes: dict[str, int] | None = None, seed: int = 0) -> list[np.ndarray]:
    """Random inputs for `main`: uniform in (-1, 1) for floats, small integers otherwise; `sizes` binds symbolic
    dimensions."""
    rng = np.random.default_rng(seed)
    arrays = []
    for param in mod["main"].params:
        dims = [int(d) if isinstance(d, tvm.tirx.IntImm) else (sizes or {})[d.name] for d in param.ty.shape]
        dtype = str(param.ty.dtype)
        array = rng.uniform(-1, 1, dims) if dtype.startswith("float") else rng.integers(0, 5, dims)
        arrays.append(array.astype(dtype))
    return arrays


def check(
    mod: tvm.IRModule, *passes: Pass, sizes: dict[str, int] | None = None, rtol: float = 1e-5, atol: float = 1e-5
) -> tvm.IRModule:
    """Apply `passes`, compare the results before and after on random inputs, and return the module after them."""
    after = apply(mod, *passes)
    arrays = inputs_for(mod, sizes)
    for expected, found in zip(run(mod, *arrays), run(after, *arrays), strict=True):
        assert expected.dtype == found.dtype
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)
    return after


def _channels_first_transposed_convolutions(mod: tvm.IRModule) -> tvm.IRModule:
    """Plain TVM has no channels-last conv2d_transpose: put permute_dims around them."""
    graph = Graph.of(mod)

    def rule(graph: Graph, node: object) -> relax.Expr | None:
        a = node.attrs
        if a.data_layout != "NHWC":
            return None
        data = graph.emit(relax.op.permute_dims(node.args[0], (0, 3, 1, 2)))
        names = ("strides", "padding", "output_padding", "dilation", "groups")
        options = {k: getattr(a, k) for k in names}
        result = graph.emit(relax.op.nn.conv2d_transpose(data, node.args[1], **options))
        return relax.op.permute_dims(result, (0, 2, 3, 1))

    graph.apply({"nn.conv2d_transpose": (rule,)})
    return graph.to_module()
