"""Operators for the tensor-core templates, run by the CUDA shim on this machine's CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm

from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.compiler.schedule.template import Config, Template
from kompilo.targets.cuda.target import CudaTarget
from kompilo.targets.gpu.lowering import lowering_context, split
from kompilo.targets.gpu.target import gpu_module
from kompilo.targets.gpu.templates.tensor_core_tile import TensorTile

from gpu.cuda import run_cuda
from gpu.cuda_shim import Options

# Whatever the hardware leaves open; races are looked for in each, so that one program does for all.
EVERY_WAY = (
    Options(races=True),
    Options(races=True, delivery="early", order="backward"),
    Options(races=True, delivery="shuffled", order="shuffled", seed=3),
)
TILE = TensorTile(bm=32, bn=32, bk=32, wm=1, wn=2, stages=3).config()
ACCUMULATORS = {"int8": "int32", "uint8": "int32"}
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2, "int32": 0.0}
TFLOAT32 = 2e-3


@dataclass(frozen=True)
class Typed:
    """An operator of float32 by its shapes, with the types that its operands, sums and result shall have."""

    op: OpSpec
    a: str = "float16"
    b: str = ""
    result: str = ""

    @property
    def spec(self) -> OpSpec:
        """The operator with those types: sums are cast to the result's type first, as the model has it."""
        a, b = self.a, self.b or self.a
        sums = ACCUMULATORS.get(a, "float32")
        result = self.result or sums
        cast = (Step("astype", ("anchor",), result),) if result != sums else ()
        steps = tuple(_shifted(step, len(cast), result) for step in self.op.epilogue)
        inputs = [TensorType(t.shape, d) for t, d in zip(self.op.inputs, (a, b), strict=False)]
        inputs += [TensorType(t.shape, result) for t in self.op.inputs[2:]]
        attrs = dict(self.op.attrs) | ({"precision": "tf32"} if a == "float32" else {})
        return replace(
            self.op,
            inputs=tuple(inputs),
            attrs=tuple(sorted(attrs.items())),
            anchor_type=TensorType(self.op.anchor_type.shape, sums),
            output=TensorType(self.op.output.shape, result),
            epilogue=(*cast, *steps),
        )

    @property
    def tolerance(self) -> float:
        """Largest allowed error, relative to the largest expected value."""
        spec = self.spec
        return TFLOAT32 if self.a == "float32" else TOLERANCE[spec.output.dtype]


def _shifted(step: Step, by: int, dtype: str) -> Step:
    """A step as it is called behind `by` more."""

    def name(argument: str | float) -> str | float:
        if by and argument == "anchor":
            return "s0"
        return f"s{int(argument[1:]) + by}" if isinstance(argument, str) and argument[0] == "s" else argument

    return Step(step.op, tuple(name(a) for a in step.args), dtype)


def random_operands(op: OpSpec, **sizes: int) -> list[np.ndarray]:
    """Numbers for the operands that their types hold exactly, as float64."""
    rng = np.random.default_rng(0)
    found = []
    for t in op.inputs:
        shape = [d if isinstance(d, int) else sizes[d] for d in t.shape]
        if "int" in t.dtype:
            low, high = np.iinfo(t.dtype).min, np.iinfo(t.dtype).max
            found.append(rng.integers(low, high + 1, shape).astype("f8"))
        else:
            found.append(from_stored(to_stored(rng.standard_normal(shape), t.dtype), t.dtype))
    return found


def to_stored(x: np.ndarray, dtype: str) -> np.ndarray:
    """The array that holds numbers of `dtype`; bfloat16 as its bits, rounded to nearest even."""
    if dtype != "bfloat16":
        return x.astype(dtype)
    word = np.ascontiguousarray(x, "f4").view("uint32").astype("uint64")
    return ((word + 0x7FFF + (word >> 16 & 1)) >> 16).astype("uint16")


def from_stored(x: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers of an array of `to_stored`, as float64."""
    return ((x.astype("uint32") << 16).view("f4") if dtype == "bfloat16" else x).astype("f8")


def run(
    template: Template,
    op: OpSpec,
    operands: Sequence[np.ndarray],
    shape: Sequence[int],
    config: Config | None = TILE,
    preset: str | CudaTarget = "sm_80",
    options: Sequence[Options] = EVERY_WAY,
) -> list[np.ndarray]:
    """What the template's kernel makes of `operands` under each of `options`; unwritten elements are NaN or -1."""
    target = CudaTarget.from_preset(preset) if isinstance(preset, str) else preset
    mod, packers = module(template, op, config, target)
    stored = [to_stored(x, t.dtype) for x, t in zip(operands, op.inputs, strict=True)]
    args = [packers[k](x) if k in packers else x for k, x in enumerate(stored)]
    dtype = op.output.dtype
    with np.errstate(invalid="ignore"):
        out = to_stored(np.full(tuple(shape), -1 if "int" in dtype else np.nan), dtype)
    with lowering_context():
        runs = [run_cuda(mod, [*args, out], arch=target.spec.arch, options=o)[-1] for o in options]
    return [from_stored(found, dtype) for found in runs]


def small_gpu(preset: str, sms: int) -> CudaTarget:
    """A GPU of a preset's kind with a few SMs only, so that few tiles are several rounds."""
    return CudaTarget(replace(CudaTarget.from_preset(preset).spec, cores=sms))


def module(template: Template, op: OpSpec, config: Config | None, target: CudaTarget) -> tuple[tvm.IRModule, dict]:
    """The kernel before lowering, and the packers of its operands."""
    space = template.match(op, target.spec)
    assert space is not None, f"{template.name} refused {op}"
    candidate = template.build(op, target.spec, config or space.default)
    func = candidate.standalone.with_attr("tirx.is_scheduled", True)
    return gpu_module(tvm.IRModule({"main": func}), target), dict(candidate.packers)


def cubin(template: Template, op: OpSpec, config: Config | None, preset: str) -> bytes:
    """The machine code of the kernel."""
    target = CudaTarget.from_preset(preset)
    parts = split(module(template, op, config, target)[0], target.tvm_target())
    return target.device_code(parts.device)[1]
