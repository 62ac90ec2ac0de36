"""From a float module and calibration samples to a quantized module, for any target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, sym, tirx

from ...calibration.ranges import MINMAX, measure_ranges
from ...errors import InputError
from ...schedule.requantize import LARGEST
from ...size_requirements import ATTRIBUTE as REQUIREMENTS
from ...size_requirements import input_sizes, requirements_of
from ..base import run_passes
from ..graph import Graph
from ..pipeline import simplify
from .plan import make_plan
from .rewrite import Quantize

# Makes a function of inputs by name that gives the outputs of a module of float32.
Build = Callable[[tvm.IRModule], Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]]


@dataclass(frozen=True)
class Report:
    """What became integer.

    Attributes:
        integer: operator -> how many of them compute in integers.
        floats: (operator, reason, number) of those that stay float32.
        values: number of int8 values whose ranges were measured.
    """

    integer: Mapping[str, int]
    floats: tuple[tuple[str, str, int], ...]
    values: int

    def as_dict(self) -> dict[str, object]:
        """As JSON values."""
        rows = [{"operator": op, "reason": reason, "count": n} for op, reason, n in self.floats]
        return {"integer": dict(self.integer), "float": rows, "values": self.values}


@dataclass(frozen=True)
class QuantizedModule:
    """`mod` as docs/quantization.md describes it, and what became of its operators."""

    mod: tvm.IRModule
    report: Report
    method: str
    samples: int

    def as_dict(self) -> dict[str, object]:
        """All but the module, as JSON values."""
        return {"method": self.method, "samples": self.samples, **self.report.as_dict()}


def quantize_module(
    mod: tvm.IRModule, samples: Sequence[dict[str, np.ndarray]], build: Build, method: str = MINMAX
) -> QuantizedModule:
    """Quantize an imported module (float32, channels first).

    Args:
        mod: as the frontend makes it.
        samples: calibration data, see `calibration.samples`: inputs in the order of the module's, all of one shape.
        build: compiles a float module, whose sizes are those of the samples, to measure ranges with.
        method: one of `calibration.ranges.METHODS`.
    Raises:
        InputError: samples that make values NaN or infinite.
        KompiloError: as `build` and its function do.
    """
    mod = simplify(mod)
    graph = Graph.of(mod)
    if graph is None:
        return QuantizedModule(mod, Report({}, (), 0), method, len(samples))
    plan = make_plan(graph)
    measured = plan.measured
    ranges = np.zeros(0)
    if measured:
        shapes = [value.shape for value in samples[0].values()]
        ranges = measure_ranges(build(with_sizes(with_outputs(mod, measured), shapes)), samples, method)
    scales = plan.scales(dict(zip(measured, map(float, ranges), strict=True)), LARGEST)
    mod = run_passes(mod, [Quantize(plan, scales)])
    floats = tuple((op, reason, n) for (op, reason), n in sorted(plan.floats.items()))
    return QuantizedModule(mod, Report(dict(sorted(plan.integer.items())), floats, len(measured)), method, len(samples))


def with_outputs(mod: tvm.IRModule, values: Sequence[relax.Var]) -> tvm.IRModule:
    """`mod` whose `main` returns a tuple of `values`, variables of its dataflow block or parameters."""
    main = mod["main"]
    outputs = [relax.Var(f"value{k}", value.ty) for k, value in enumerate(values)]
    added = [relax.VarBinding(o, v) for o, v in zip(outputs, values, strict=True)]
    blocks = [
        relax.DataflowBlock([*block.bindings, *added]) if isinstance(block, relax.DataflowBlock) else block
        for block in main.body.blocks
    ]
    body = relax.SeqExpr(blocks, relax.Tuple(outputs))
    changed = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs, global_infos=mod.global_infos)
    changed["main"] = relax.Function(
        main.params, body, relax.TupleType([v.ty for v in values]), main.is_pure, main.attrs
    )
    return relax.transform.DeadCodeElimination()(relax.transform.Normalize()(changed))


def with_sizes(mod: tvm.IRModule, shapes: Sequence[Sequence[int]]) -> tvm.IRModule:
    """`mod` for inputs of these shapes only, which compiles faster than one for any.

    Raises InputError if the sizes break a condition of the model.
    """
    main = mod["main"]
    if not input_sizes(main):
        return mod
    sizes: dict[tirx.Var, tirx.IntImm] = {}
    for param, shape in zip(main.params, shapes, strict=True):
        for dim, size in zip(param.ty.shape, shape, strict=True):
            if isinstance(dim, tirx.Var):
                sizes[dim] = tirx.IntImm("int64", int(size))
    for requirement in requirements_of(main):
        condition = tvm_ffi.structural_map(requirement.condition, (tvm.ir.Var, lambda v: sizes.get(v, v)), order="post")
        if not sym.Analyzer().can_prove(condition):
            raise InputError(f"calibration: the sizes of the samples do not fit the model: {requirement.message}.")
    if main.attrs and REQUIREMENTS in main.attrs:
        mod = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs, global_infos=mod.global_infos)
        mod["main"] = main.without_attr(REQUIREMENTS)
    return relax.transform.BindSymbolicVars({v.name: n for v, n in sizes.items()}, "main")(mod)
