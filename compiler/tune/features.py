"""What the cost model sees of a candidate: numbers that mean the same for every operator, template and target.

They come from three places: the operator (`OPERATOR`), the target's facts (`TARGET`), and the traits its template
tells of the config (`CONFIG`, from `schedule.traits`). Costs are relative to the operator's ideal cycles (its FLOPs at
the peak rate of one core), and footprints relative to the caches, so that what was learned of one operator holds for
others. What a template does not tell is NaN, which XGBoost treats as missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from ..device_code import Usage
from ..schedule.flops import flops, peak_dtype
from ..schedule.op_spec import OpSpec, TensorType
from ..schedule.target import Target
from ..schedule.target_spec import TargetSpec
from ..schedule.traits import TRAITS
from .record import Point

KINDS = ("conv2d", "conv2d_transpose", "matmul", "pool2d", "attention")
# Bytes a cycle that a core gets from beyond its L2: the measure for traffic.
FAR_BYTES_PER_CYCLE = 6.0
# The part of the time of that traffic which a plain estimate counts: the rest hides behind arithmetic.
EXPOSED = 0.5

Columns = dict[str, np.ndarray]


# Name -> of the operator. Trees only compare, so that nothing need be scaled.
OPERATOR: dict[str, Callable[[OpSpec], float]] = {
    "kind": lambda op: KINDS.index(op.kind) if op.kind in KINDS else -1,
    "flops": lambda op: flops(op) or prod(_sizes(op.anchor_type)),
    "input_bytes": lambda op: _bytes(op.inputs[0]),
    "weight_bytes": lambda op: _bytes(op.inputs[1]) if len(op.inputs) > 1 else 0,
    "output_bytes": lambda op: _bytes(op.output),
    "depth": lambda op: (flops(op) or 0) / prod(_sizes(op.anchor_type)),
    "columns": lambda op: _sizes(op.anchor_type)[-1],
    "pixels": lambda op: prod(_sizes(op.anchor_type)[:-1]),
    "row": lambda op: _sizes(op.anchor_type)[-2] if len(op.anchor_type.shape) > 1 else 1,
    "window": lambda op: prod(_sizes(op.inputs[1])[2:]) if op.kind.startswith("conv") else 1,
    "stride": lambda op: op.ints("strides")[-1] if op.kind.startswith(("conv", "pool")) else 1,
    "groups": lambda op: op.ints("groups")[0] if op.kind.startswith("conv") else 0,
    "steps": lambda op: len(op.epilogue),
    "extra_bytes": lambda op: sum(_bytes(t) for t in op.inputs[2:]),
    "constant": lambda op: len(op.constant) > 1 and op.constant[1],
}

# Name -> of the target; NaN where the target has no such thing.
TARGET = (
    "cores",
    "vector_bytes",
    "vector_registers",
    "fma_ports",
    "l1_bytes",
    "l2_bytes",
    "l3_bytes",
)


class _Facts:
    """Traits of some configs beside the facts of their operator and target, for the table `CONFIG`."""

    def __init__(self, op: OpSpec, spec: TargetSpec, traits: Columns):
        self.traits = traits
        self.registers = float(getattr(spec, "vector_registers", np.nan))
        self.l1, self.l2, self.l3 = (float(getattr(spec, f"l{n}_bytes", np.nan)) for n in (1, 2, 3))
        self.ideal = ideal_cycles(op, spec)

    def __getitem__(self, trait: str) -> np.ndarray:
        return self.traits[trait]

    def cost(self, trait: str) -> np.ndarray:
        """The cycles of `trait` relative to the ideal cycles."""
        return self.traits[trait] / self.ideal

    def far(self, trait: str) -> np.ndarray:
        """Cycles to move the bytes of `trait` from beyond L2, relative to the ideal cycles."""
        return self.traits[trait] / (FAR_BYTES_PER_CYCLE * self.ideal)


def _estimate(f: _Facts) -> np.ndarray:
    """A plain sum of what is known: arithmetic or its loads, the work around it, and traffic half hidden behind it.

    Templates of devices tell the sum themselves.
    """
    if not np.isnan(f["device_cycles"]).all():
        return f.cost("device_cycles")
    busy = np.maximum(f["fma_cycles"], f["load_cycles"]) + f["edge_cycles"] + f["transform_cycles"]
    moved = f["weight_traffic"] + f["input_traffic"] + f["copied_bytes"]
    return (busy + EXPOSED * moved / FAR_BYTES_PER_CYCLE) / f.ideal


# Name -> of a config.
CONFIG: dict[str, Callable[[_Facts], np.ndarray]] = {
    "tile_rows": lambda f: f["tile_rows"],
    "tile_vectors": lambda f: f["tile_vectors"],
    "accumulators": lambda f: f["tile_rows"] * f["tile_vectors"],
    "register_use": lambda f: ((f["tile_rows"] + 1) * f["tile_vectors"] + 1) / f.registers,
    "loads_per_fma": lambda f: 1 / f["tile_rows"] + 1 / f["tile_vectors"],
    "fma": lambda f: f.cost("fma_cycles"),
    "loads": lambda f: f.cost("load_cycles"),
    "edges": lambda f: f.cost("edge_cycles"),
    "transforms": lambda f: f.cost("transform_cycles"),
    "estimate": _estimate,
    "inner_trip": lambda f: f["inner_trip"],
    "tile_steps": lambda f: f["tile_steps"],
    "tiles": lambda f: f["tiles"],
    "tail_share": lambda f: f["tail_share"],
    "border_share": lambda f: f["border_share"],
    "lane_use": lambda f: f["lane_use"],
    "set_use": lambda f: f["set_use"],
    "multiply_share": lambda f: f["multiply_share"],
    "algorithm": lambda f: f["algorithm"],
    "items": lambda f: f["items"],
    "imbalance": lambda f: f["imbalance"],
    "item_cycles": lambda f: f["fma_cycles"] / f["items"],
    "copied": lambda f: f.far("copied_bytes"),
    "weight_traffic": lambda f: f.far("weight_traffic"),
    "input_traffic": lambda f: f.far("input_traffic"),
    "panel_traffic": lambda f: f.far("panel_traffic"),
    "panel_in_l1": lambda f: f["panel_bytes"] / f.l1,
    "panel_in_l2": lambda f: f["panel_bytes"] / f.l2,
    "panel_tiles": lambda f: f["panel_tiles"],
    "weights_in_l2": lambda f: f["item_weight_bytes"] / f.l2,
    "input_in_l1": lambda f: f["item_input_bytes"] / f.l1,
    "input_in_l2": lambda f: f["item_input_bytes"] / f.l2,
    "output_in_l2": lambda f: f["item_output_bytes"] / f.l2,
    "scratch_in_l2": lambda f: f["scratch_bytes"] / f.l2,
    "pass_in_l2": lambda f: (f["panel_bytes"] + f["item_input_bytes"]) / f.l2,
    "item_in_l2": lambda f: (f["item_weight_bytes"] + f["item_input_bytes"] + f["item_output_bytes"]) / f.l2,
    "weights_in_l3": lambda f: f["item_weight_bytes"] / f.l3,
    "fetch_weights": lambda f: f["fetch_weights"],
    "fetch_data": lambda f: f["fetch_data"],
}

# Name -> of a config of a device with programs of its own: by its template's estimate until there is code to read.
DEVICE: dict[str, Callable[[_Facts], np.ndarray]] = {
    "device": lambda f: f.cost("device_cycles"),
    "registers": lambda f: f["registers"],
    "spills": lambda f: f["spill_bytes"],
    "block_bytes": lambda f: f["block_bytes"],
    "occupancy": lambda f: f["occupancy"],
}

FEATURE_NAMES: tuple[str, ...] = (
    *(f"op.{name}" for name in OPERATOR),
    *(f"target.{name}" for name in TARGET),
    *(f"config.{name}" for name in CONFIG),
)
_DEVICE_NAMES: tuple[str, ...] = (*FEATURE_NAMES, *(f"device.{name}" for name in DEVICE))


def feature_names(target: Target) -> tuple[str, ...]:
    """The columns of `features` for `target`."""
    return _DEVICE_NAMES if target.drives_device else FEATURE_NAMES


def features(
    op: OpSpec, target: Target, points: Sequence[Point], usages: Mapping[Point, Usage] | None = None
) -> np.ndarray:
    """The features of `points` for `op`: float32 of shape (len(points), len(feature_names(target))).

    `op` is of known sizes, and each point of a template of `target` at its present version (KeyError otherwise). What
    `usages` tells of a point's code replaces what its template estimates.
    """
    tables = [CONFIG, DEVICE] if target.drives_device else [CONFIG]
    result = np.empty((len(points), len(feature_names(target))), np.float32)
    fixed = [tell(op) for tell in OPERATOR.values()]
    fixed += [float(getattr(target.spec, name, np.nan)) for name in TARGET]
    result[:, : len(fixed)] = fixed
    traits = traits_of(op, target, points)
    for k, point in enumerate(points):
        if usages and point in usages:
            used = usages[point]
            known = (used.registers, used.spill_bytes, used.shared_bytes, used.occupancy)
            for name, value in zip(("registers", "spill_bytes", "block_bytes", "occupancy"), known, strict=True):
                traits[name][k] = value
    facts = _Facts(op, target.spec, traits)
    for k, tell in enumerate((tell for table in tables for tell in table.values()), len(fixed)):
        result[:, k] = tell(facts)
    return result


def ideal_cycles(op: OpSpec, spec: TargetSpec) -> float:
    """Cycles of `op`, of known sizes, at the peak rate of one core, or of all of a device; elements of the result if
    FLOPs are not known."""
    work = float(flops(op) or prod(_sizes(op.anchor_type)))
    peak: Callable[[str], float] | None = getattr(spec, "peak_flops", None)
    if peak is not None:
        return max(work / peak(peak_dtype(op)) * float(getattr(spec, "clock_hz", 1.0)), 1.0)
    lanes = float(getattr(spec, "vector_bytes", 4)) / 4
    return max(work / (2 * lanes * float(getattr(spec, "fma_ports", 1))), 1.0)


def idle_factors(op: OpSpec, target: Target, points: Sequence[Point]) -> np.ndarray:
    """What to multiply times of one core with to compare points on all cores, float64 of shape (len(points),).

    It is the time of the busiest core relative to an even share: with one work item, all cores but one are idle. 1 for
    targets that are timed as a whole, and for templates that tell nothing. KeyError as for `features`.
    """
    if not target.timed_on_one_core or target.spec.cores == 1:
        return np.ones(len(points))
    return np.nan_to_num(traits_of(op, target, points)["imbalance"], nan=1.0)


def traits_of(op: OpSpec, target: Target, points: Sequence[Point]) -> Columns:
    """Every trait as a column with a value for each point; NaN where its template tells nothing."""
    templates = {(t.name, t.version): t for t in target.templates}
    groups: dict[tuple[str, int], list[int]] = {}
    for k, point in enumerate(points):
        groups.setdefault((point.template, point.version), []).append(k)
    columns = np.full((len(TRAITS), len(points)), np.nan)
    for key, group in groups.items():
        places = np.array(group)
        told = templates[key].traits(op, target.spec, [points[k].config for k in group])
        for column, name in zip(columns, TRAITS, strict=True):
            if name in told:
                column[places] = told[name]
    return dict(zip(TRAITS, columns, strict=True))


def _sizes(tensor: TensorType) -> tuple[int, ...]:
    return tuple(int(d) for d in tensor.shape)


def _bytes(tensor: TensorType) -> int:
    bits = int("".join(c for c in tensor.dtype if c.isdigit()) or "8")
    return prod(_sizes(tensor)) * bits // 8
