"""Kernels for AMD's matrix units: carried out by documented instructions, or compiled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from matrix_core_emulation import bfloat16_bits, emulated, from_bfloat16

from kompilo.compiler.schedule.op_spec import OpSpec
from kompilo.compiler.schedule.template import Config, Template
from kompilo.targets.gpu.lowering import lowering_context, split
from kompilo.targets.gpu.target import gpu_module
from kompilo.targets.rocm.codegen import code_object, is_risky
from kompilo.targets.rocm.target import RocmTarget

from gpu.cuda import run_cuda
from gpu.cuda_shim import Options

# Rounding of the operands, and of results of that type, relative to the largest result.
ROUNDING = {"float32": 3e-6, "float16": 2e-3, "bfloat16": 1.6e-2}
# An int32 that no test expects.
UNWRITTEN = -(1 << 30)


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    return bfloat16_bits(values) if dtype == "bfloat16" else values.astype(dtype)


def read(array: np.ndarray, dtype: str) -> np.ndarray:
    return from_bfloat16(array) if dtype == "bfloat16" else array


def emulate(
    template: Template,
    op: OpSpec,
    inputs: Sequence[np.ndarray],
    shape: Sequence[int],
    arch: str,
    config: Config | None = None,
    options: Options | None = None,
) -> np.ndarray:
    """What the kernel makes of `inputs` by documented instructions; NaN or UNWRITTEN where it wrote nothing."""
    target = RocmTarget.from_preset(arch)
    candidate = template.build(op, target.spec, config or template.match(op, target.spec).default)
    arrays = [candidate.packers.get(k, lambda a: a)(a) for k, a in enumerate(inputs)]
    arrays = [stored(a, t.dtype) for a, t in zip(arrays, op.inputs, strict=True)]
    blank = np.nan if op.output.dtype in ROUNDING else UNWRITTEN
    out = stored(np.full(tuple(shape), blank, "float64"), op.output.dtype)
    func = emulated(candidate.standalone).with_attr("tirx.is_scheduled", True)
    with lowering_context():
        done = run_cuda(gpu_module(tvm.IRModule({"main": func}), target), [*arrays, out], options=options)
    return read(done[-1], op.output.dtype)


def compile_op(template: Template, op: OpSpec, arch: str, config: Config | None = None) -> bytes:
    """The code object of the template's kernel."""
    target = RocmTarget.from_preset(arch)
    candidate = template.build(op, target.spec, config or template.match(op, target.spec).default)
    mod = tvm.IRModule({"main": candidate.standalone.with_attr("tirx.is_scheduled", True)})
    device = split(gpu_module(mod, target), target.tvm_target()).device
    assert not is_risky(device, arch)
    return code_object(device, target.tvm_target())
