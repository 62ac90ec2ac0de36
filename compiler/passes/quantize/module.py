"""From a float module and calibration samples to a quantized module, for any target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from ...calibration.ranges import MINMAX, measure_ranges
from ...schedule.requantize import LARGEST
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
        samples: calibration data, see `calibration.samples`.
        build: compiles a float module, to measure ranges with.
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
    ranges = measure_ranges(build(with_outputs(mod, measured)), samples, method) if measured else np.zeros(0)
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
