"""Kernels of GPU templates and rules, run on this machine's CPU through OpenCL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import te, tirx

from kompilo.compiler.schedule.op_spec import OpSpec, TensorType
from kompilo.compiler.schedule.template import Config, Template
from kompilo.targets.cuda.target import CudaTarget
from kompilo.targets.gpu.lowering import lowering_context
from kompilo.targets.gpu.target import GpuTarget, gpu_module

from gpu.opencl import missing, run_opencl

TARGET = CudaTarget.from_preset("sm_80")
needs_opencl = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def run_template(
    template: Template,
    op: OpSpec,
    inputs: Sequence[np.ndarray],
    shape: Sequence[int],
    config: Config | None = None,
    target: GpuTarget = TARGET,
    platform: str = "pocl",
) -> np.ndarray:
    """What the template's kernel makes of `inputs`; NaN where it wrote nothing."""
    space = template.match(op, target.spec)
    assert space is not None, f"{template.name} refused {op}"
    candidate = template.build(op, target.spec, config or space.default)
    args = [candidate.packers[k](a) if k in candidate.packers else a for k, a in enumerate(inputs)]
    func = candidate.standalone.with_attr("tirx.is_scheduled", True)
    out = np.full(tuple(shape), np.nan, "float32")
    return _run(gpu_module(tvm.IRModule({"main": func}), target), [*args, out], platform)


def run_rule(
    func: tvm.tirx.PrimFunc, inputs: Sequence[np.ndarray], out: np.ndarray, platform: str = "pocl"
) -> tuple[np.ndarray, str]:
    """What the generic rules make of `func` over `inputs` and `out`, and the rule's name."""
    scheduled, rule = TARGET.schedule(func.with_attr("global_symbol", "main"))
    mod = gpu_module(tvm.IRModule({"main": scheduled}), TARGET)
    return _run(mod, [*inputs, out], platform), rule


def _run(mod: tvm.IRModule, args: Sequence[np.ndarray], platform: str) -> np.ndarray:
    with lowering_context():
        return run_opencl(exact_constants(mod), args, platform=platform)[-1]


def exact_constants(mod: tvm.IRModule) -> tvm.IRModule:
    """Constants by their bits: TVM writes those of OpenCL with seven digits, which the polynomials do not survive."""

    def bits(node: tirx.FloatImm) -> tirx.Expr:
        if str(node.ty.dtype) != "float32" or float(f"{node.value:e}") == node.value:
            return node
        return tirx.call_pure_extern("float32", "as_float", int(np.float32(node.value).view("int32")))

    changed = {g: f.with_body(tvm_ffi.structural_map(f.body, (tirx.FloatImm, bits))) for g, f in mod.functions_items()}
    return tvm.IRModule(changed)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest expected value; NaN where the kernel wrote nothing."""
    return float(np.max(np.abs(found - expected)) / max(np.max(np.abs(expected)), 1e-30))


def spread(items: Sequence[Config], count: int) -> list[Config]:
    """`count` of the configs, evenly spread over their order, the first among them."""
    step = max(1, len(items) // count)
    return list(items)[::step][:count]


def matmul(a, b, result, constant=False, lhs=None, rhs=None, out=None, steps=(), extra=()):
    """A matmul OpSpec; `lhs`, `rhs`, `out` are permutations, `extra` shapes of the epilogue's operands."""
    rank = max(len(a), len(b))
    perms = {"lhs_perm": lhs or tuple(range(len(a))), "rhs_perm": rhs or tuple(range(len(b)))}
    perms["out_perm"] = out or tuple(range(rank))
    stored = tuple(result[axis] for axis in perms["out_perm"])
    inputs = tuple(TensorType(tuple(s), "float32") for s in (a, b, *extra))
    known = (False, constant, *(True for _ in extra))
    types = TensorType(tuple(result), "float32"), TensorType(stored, "float32")
    return OpSpec("matmul", inputs, known, tuple(sorted(perms.items())), *types, tuple(steps))


def compute(build, *shapes, dtype="float32"):
    """A PrimFunc of a tensor expression over inputs of these shapes."""
    sizes = [[tirx.const(d, "int64") if isinstance(d, int) else d for d in s] for s in shapes]
    inputs = [te.placeholder(s, dtype, name=f"x{k}") for k, s in enumerate(sizes)]
    return te.create_prim_func([*inputs, build(*inputs)])


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
