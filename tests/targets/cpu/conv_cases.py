"""Convolutions for the template tests: OpSpecs, kernels run on numpy arrays, and a float64 reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm

from kompilo.compiler.schedule.op_spec import OpSpec, Step, TensorType
from kompilo.compiler.schedule.template import Config, Template
from kompilo.targets.cpu.spec import cpu_spec
from kompilo.targets.cpu.target import CpuTarget

Shape = tuple[int | str, ...]


def conv2d(
    data: Shape,
    weight: tuple[int, int, int, int],
    strides: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    epilogue: Sequence[str] = ("bias", "relu"),
    out: tuple[int | str, int | str] | None = None,
) -> OpSpec:
    """A conv2d of NHWC `data` with OIHW `weight`; `epilogue` names steps of EPILOGUES; `out` the symbolic output
    size."""
    kernel = weight[2:]
    size = out or tuple(
        (d + padding[a] + padding[a + 2] - (kernel[a] - 1) * dilation[a] - 1) // strides[a] + 1
        for a, d in enumerate(data[1:3])
    )
    anchor = TensorType((data[0], *size, weight[0]), "float32")
    inputs = [TensorType(data, "float32"), TensorType(weight, "float32")]
    steps: list[Step] = []
    for name in epilogue:
        EPILOGUES[name](anchor, inputs, steps)
    attrs = {
        "data_layout": "NHWC",
        "dilation": dilation,
        "groups": groups,
        "padding": padding,
        "strides": strides,
    }
    constant = (False, True, *("bias" in epilogue and t.shape[0] == weight[0] for t in inputs[2:]))
    return OpSpec("conv2d", tuple(inputs), constant, tuple(sorted(attrs.items())), anchor, anchor, tuple(steps))


def _last(steps: list[Step]) -> str:
    return f"s{len(steps) - 1}" if steps else "anchor"


def _with_operand(op: str, shape) -> object:
    def add(anchor: TensorType, inputs: list[TensorType], steps: list[Step]) -> None:
        inputs.append(TensorType(shape(anchor.shape), "float32"))
        steps.append(Step(op, (_last(steps), f"i{len(inputs) - 1}"), "float32"))

    return add


def _hard_swish(anchor: TensorType, inputs: list[TensorType], steps: list[Step]) -> None:
    x = _last(steps)
    steps.append(Step("add", (x, 3.0), "float32"))
    steps.append(Step("clip", (_last(steps), 0.0, 6.0), "float32"))
    steps.append(Step("multiply", (_last(steps), x), "float32"))
    steps.append(Step("multiply", (_last(steps), 1 / 6), "float32"))


EPILOGUES = {
    "bias": _with_operand("add", lambda s: (s[3],)),
    "bias4": _with_operand("add", lambda s: (1, 1, 1, s[3])),
    "residual": _with_operand("add", lambda s: s),
    "gate": _with_operand("multiply", lambda s: (s[0], 1, 1, s[3])),
    "pixel": _with_operand("multiply", lambda s: (*s[:3], 1)),
    "relu": lambda _, inputs, steps: steps.append(Step("nn.relu", (_last(steps),), "float32")),
    "sigmoid": lambda _, inputs, steps: steps.append(Step("sigmoid", (_last(steps),), "float32")),
    "hardswish": _hard_swish,
}

NUMPY_STEPS = {
    "add": np.add,
    "multiply": np.multiply,
    "nn.relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "clip": np.clip,
}


def random_inputs(op: OpSpec, seed: int = 0, **sizes: int) -> list[np.ndarray]:
    """Normal values for all operands; `sizes` gives the symbolic dimensions."""
    rng = np.random.default_rng(seed)
    shapes = [[d if isinstance(d, int) else sizes[d] for d in t.shape] for t in op.inputs]
    return [rng.standard_normal(s).astype("float32") for s in shapes]


def reference(op: OpSpec, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """The result of `op` in float64, by summing over the kernel's positions."""
    data, weight, *extra = (np.asarray(a, "float64") for a in inputs)
    anchor = (conv2d_transpose_anchor if op.kind == "conv2d_transpose" else conv2d_anchor)(op, data, weight)
    values: list[np.ndarray] = []
    operands = [data, weight, *extra]

    def argument(a: str | float) -> np.ndarray | float:
        if not isinstance(a, str):
            return a
        if a == "anchor":
            return anchor
        return (values if a[0] == "s" else operands)[int(a[1:])]

    for step in op.epilogue:
        values.append(NUMPY_STEPS[step.op](*(argument(a) for a in step.args)))
    return values[-1] if values else anchor


def conv2d_anchor(op: OpSpec, data: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The convolution alone."""
    (sh, sw), (dh, dw), pad = op.ints("strides"), op.ints("dilation"), op.ints("padding")
    groups = op.ints("groups")[0]
    data = np.pad(data, ((0, 0), (pad[0], pad[2]), (pad[1], pad[3]), (0, 0)))
    out_c, in_c, kh, kw = weight.shape
    out_h, out_w = (data.shape[1] - (kh - 1) * dh - 1) // sh + 1, (data.shape[2] - (kw - 1) * dw - 1) // sw + 1
    result = np.zeros((data.shape[0], out_h, out_w, out_c))
    per = out_c // groups
    for g in range(groups):
        part = data[..., g * in_c : (g + 1) * in_c]
        for i in range(kh):
            for j in range(kw):
                window = part[
                    :, i * dh : i * dh + (out_h - 1) * sh + 1 : sh, j * dw : j * dw + (out_w - 1) * sw + 1 : sw
                ]
                result[..., g * per : (g + 1) * per] += window @ weight[g * per : (g + 1) * per, :, i, j].T
    return result


def conv2d_transpose_anchor(op: OpSpec, data: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The transposed convolution alone: every input pixel adds its kernel to the output; then padding is cut off."""
    (sh, sw), (dh, dw), pad = op.ints("strides"), op.ints("dilation"), op.ints("padding")
    groups, (extra_h, extra_w) = op.ints("groups")[0], op.ints("output_padding")
    n, h, w, c = data.shape
    _, out_c, kh, kw = weight.shape
    full = np.zeros(
        (n, (h - 1) * sh + (kh - 1) * dh + 1 + extra_h, (w - 1) * sw + (kw - 1) * dw + 1 + extra_w, groups * out_c)
    )
    per = c // groups
    for g in range(groups):
        for i in range(kh):
            for j in range(kw):
                part = data[..., g * per : (g + 1) * per] @ weight[g * per : (g + 1) * per, :, i, j]
                rows, cols = slice(i * dh, i * dh + (h - 1) * sh + 1, sh), slice(j * dw, j * dw + (w - 1) * sw + 1, sw)
                full[:, rows, cols, g * out_c : (g + 1) * out_c] += part
    return full[:, pad[0] : full.shape[1] - pad[2], pad[1] : full.shape[2] - pad[3]]


class Kernel:
    """A template's code for one OpSpec, compiled for this machine (or a preset it can run)."""

    def __init__(self, template: Template, op: OpSpec, config: Config | None = None, preset: str | None = None):
        self.op, target = op, CpuTarget(cpu_spec(preset))
        if config is None:
            space = template.match(op, target.spec)
            assert space is not None, f"{template.name} refused {op}"
            config = space.default
        self.candidate = template.build(op, target.spec, config)
        self.library = tvm.compile(tvm.IRModule({"main": self.candidate.func}), target.tvm_target())

    def __call__(self, inputs: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
        packers = self.candidate.packers
        args = [tvm.runtime.tensor(packers[k](a) if k in packers else a) for k, a in enumerate(inputs)]
        # NaN shows outputs that were never written.
        out = tvm.runtime.tensor(np.full(tuple(shape), np.nan, "float32"))
        self.library["main"](*args, out)
        return out.numpy()


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest expected value; NaN where the kernel wrote nothing."""
    return float(np.max(np.abs(found - expected)) / max(np.max(np.abs(expected)), 1e-30))


def check(
    template: Template,
    op: OpSpec,
    config: Config | None = None,
    preset: str | None = None,
    tolerance: float = 2e-6,
    **sizes: int,
) -> None:
    """Run `op` through `template` and compare with the reference."""
    inputs = random_inputs(op, **sizes)
    expected = reference(op, inputs)
    error = relative_error(Kernel(template, op, config, preset)(inputs, expected.shape), expected)
    assert error < tolerance, f"{op}: error {error:.1e}"
