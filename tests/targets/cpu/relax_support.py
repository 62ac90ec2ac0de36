"""Helpers for tests on Relax functions: build one, legalise and schedule it for the CPU, run it."""

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax, tirx

from kompilo.targets.cpu.target import CpuTarget

TARGETS = {name: CpuTarget.from_preset(name) for name in ("native,cores=1", "native,cores=2")}
RNG = np.random.default_rng(0)


def build_graph(shapes, dtypes, body: Callable[..., relax.Expr]) -> tvm.IRModule:
    """A Relax function of `body`; strings in `shapes` are symbolic dimensions."""
    builder = relax.BlockBuilder()
    names: dict[str, tirx.Var] = {}
    dims = [[names.setdefault(d, tirx.Var(d, "int64")) if isinstance(d, str) else d for d in s] for s in shapes]
    inputs = [
        relax.Var(f"x{k}", relax.TensorType(d, dtype)) for k, (d, dtype) in enumerate(zip(dims, dtypes, strict=True))
    ]
    with builder.function("main", inputs):
        with builder.dataflow():
            result = builder.normalize(body(*inputs))
            output = builder.emit_output(result)
        builder.emit_func_output(output)
    return builder.get()


def lower(module: tvm.IRModule, target: CpuTarget) -> tuple[tvm.IRModule, set[str]]:
    """Legalise, fuse and schedule; also the names of the rules that applied."""
    for step in (
        relax.transform.Normalize(),
        relax.transform.LegalizeOps(dict(target.legalizations())),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ):
        module = step(module)
    rules = set()
    functions = {}
    for name, func in module.functions.items():
        if isinstance(func, tirx.PrimFunc):
            func, rule = target.schedule(func)
            rules.add(rule)
        functions[name] = func
    return tvm.IRModule(functions), rules


def execute(module: tvm.IRModule, target: CpuTarget, args: list[np.ndarray]) -> list[np.ndarray]:
    machine = relax.VirtualMachine(tvm.compile(module, target.tvm_target()), tvm.cpu())
    result = machine["main"](*(tvm.runtime.tensor(a) for a in args))
    results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    return [r.numpy() for r in results]


def arguments(shapes, dtypes, sizes: dict[str, int]) -> list[np.ndarray]:
    concrete = [tuple(sizes[d] if isinstance(d, str) else d for d in s) for s in shapes]
    return [
        np.asarray(RNG.standard_normal(s) if "float" in d else RNG.integers(0, 7, s)).astype(d)
        for s, d in zip(concrete, dtypes, strict=True)
    ]
