"""What the cost model sees of a candidate: numbers that mean the same for every operator, template and target.

They come from three places: the operator (`OPERATOR`), the target's facts (`TARGET`), and the traits its template
tells of the config (`CONFIG`, from `schedule.traits`). Costs are relative to the operator's ideal cycles (its FLOPs at
the peak rate of one core), and footprints relative to the caches, so that what was learned of one operator holds for
others. What a template does not tell is NaN, which XGBoost treats as missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from ..schedule.flops import flops
from ..schedule.op_spec import OpSpec, TensorType
from ..schedule.target import Target
from ..schedule.target_spec import TargetSpec
from ..schedule.template import Config, Template
from ..schedule.traits import TRAITS, Column
from .record import Point

KINDS = ("conv2d", "conv2d_transpose", "matmul", "pool2d")
# Bytes a cycle that a core gets from beyond its L2: the measure for traffic.
FAR_BYTES_PER_CYCLE = 6.0

Columns = dict[str, np.ndarray]


def _log(value: Column) -> np.ndarray:
    """log2(1 + value): counts and bytes of all magnitudes, 0 included."""
    return np.log2(1 + np.asarray(value, float))


def _ratio(value: Column, to: Column) -> np.ndarray:
    """log2 of a ratio of which one side may be 0."""
    return np.log2((np.asarray(value, float) + 1e-3) / (np.asarray(to, float) + 1e-3))


# Name -> of the operator.
OPERATOR: dict[str, Callable[[OpSpec], float]] = {
    "kind": lambda op: float(KINDS.index(op.kind)) if op.kind in KINDS else -1.0,
    "log_flops": lambda op: float(_log(flops(op) or prod(_sizes(op.anchor_type)))),
    "log_input": lambda op: float(_log(_bytes(op.inputs[0]))),
    "log_weights": lambda op: float(_log(_bytes(op.inputs[1]) if len(op.inputs) > 1 else 0)),
    "log_output": lambda op: float(_log(_bytes(op.output))),
    "depth": lambda op: float(_log((flops(op) or 0) / prod(_sizes(op.anchor_type)))),
    "columns": lambda op: float(_log(_sizes(op.anchor_type)[-1])),
    "pixels": lambda op: float(_log(prod(_sizes(op.anchor_type)[:-1]))),
    "row": lambda op: float(_log(_sizes(op.anchor_type)[-2] if len(op.anchor_type.shape) > 1 else 1)),
    "window": lambda op: float(prod(_sizes(op.inputs[1])[2:])) if op.kind.startswith("conv") else 1.0,
    "stride": lambda op: float(op.ints("strides")[-1]) if op.kind.startswith(("conv", "pool")) else 1.0,
    "groups": lambda op: float(_log(op.ints("groups")[0])) if op.kind.startswith("conv") else 0.0,
    "steps": lambda op: float(len(op.epilogue)),
    "extra_bytes": lambda op: float(_log(sum(_bytes(t) for t in op.inputs[2:]))),
    "constant": lambda op: float(len(op.constant) > 1 and op.constant[1]),
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

    def far(self, trait: str) -> np.ndarray:
        """Cycles to move the bytes of `trait` from beyond L2, relative to the ideal cycles."""
        return self[trait] / FAR_BYTES_PER_CYCLE / self.ideal


def _estimate(f: _Facts) -> np.ndarray:
    """A plain sum of what is known: arithmetic or its loads, the work around it, and traffic half hidden behind it."""
    busy = np.maximum(f["fma_cycles"], f["load_cycles"]) + f["edge_cycles"] + np.nan_to_num(f["transform_cycles"])
    moved = f["weight_traffic"] + f["input_traffic"] + np.nan_to_num(f["copied_bytes"])
    return (busy + 0.5 * moved / FAR_BYTES_PER_CYCLE) / f.ideal


# Name -> of a config.
CONFIG: dict[str, Callable[[_Facts], np.ndarray]] = {
    "tile_rows": lambda f: f["tile_rows"],
    "tile_vectors": lambda f: f["tile_vectors"],
    "accumulators": lambda f: f["tile_rows"] * f["tile_vectors"],
    "register_use": lambda f: ((f["tile_rows"] + 1) * f["tile_vectors"] + 1) / f.registers,
    "loads_per_fma": lambda f: (f["tile_rows"] + f["tile_vectors"]) / (f["tile_rows"] * f["tile_vectors"]),
    "fma": lambda f: _ratio(f["fma_cycles"], f.ideal),
    "loads": lambda f: _ratio(f["load_cycles"], f.ideal),
    "edges": lambda f: _ratio(f["edge_cycles"], f.ideal),
    "transforms": lambda f: f["transform_cycles"] / f.ideal,
    "estimate": lambda f: _ratio(_estimate(f), 1.0),
    "model": lambda f: _ratio(f["model_cycles"], f.ideal),
    "inner_trip": lambda f: _log(f["inner_trip"]),
    "tile_steps": lambda f: _log(f["tile_steps"]),
    "tiles": lambda f: _log(f["tiles"]),
    "tail_share": lambda f: f["tail_share"],
    "border_share": lambda f: f["border_share"],
    "lane_use": lambda f: f["lane_use"],
    "set_use": lambda f: f["set_use"],
    "multiply_share": lambda f: f["multiply_share"],
    "algorithm": lambda f: f["algorithm"],
    "items": lambda f: _log(f["items"]),
    "imbalance": lambda f: f["imbalance"],
    "item_cycles": lambda f: _log(f["fma_cycles"] / f["items"]),
    "copied": lambda f: f.far("copied_bytes"),
    "weight_traffic": lambda f: _ratio(f.far("weight_traffic"), 1.0),
    "input_traffic": lambda f: _ratio(f.far("input_traffic"), 1.0),
    "panel_traffic": lambda f: _ratio(f.far("panel_traffic"), 1.0),
    "panel_in_l1": lambda f: _ratio(f["panel_bytes"], f.l1),
    "panel_in_l2": lambda f: _ratio(f["panel_bytes"], f.l2),
    "panel_tiles": lambda f: _log(f["panel_tiles"]),
    "weights_in_l2": lambda f: _ratio(f["item_weight_bytes"], f.l2),
    "input_in_l1": lambda f: _ratio(f["item_input_bytes"], f.l1),
    "input_in_l2": lambda f: _ratio(f["item_input_bytes"], f.l2),
    "output_in_l2": lambda f: _ratio(f["item_output_bytes"], f.l2),
    "scratch_in_l2": lambda f: _ratio(f["scratch_bytes"], f.l2),
    "pass_in_l2": lambda f: _ratio(f["panel_bytes"] + f["item_input_bytes"], f.l2),
    "item_in_l2": lambda f: _ratio(f["item_weight_bytes"] + f["item_input_bytes"] + f["item_output_bytes"], f.l2),
    "weights_in_l3": lambda f: _ratio(f["item_weight_bytes"], f.l3),
    "fetch_weights": lambda f: f["fetch_weights"],
    "fetch_data": lambda f: f["fetch_data"],
}

FEATURE_NAMES: tuple[str, ...] = (
    *(f"op.{name}" for name in OPERATOR),
    *(f"target.{name}" for name in TARGET),
    *(f"config.{name}" for name in CONFIG),
)


def features(op: OpSpec, target: Target, points: Sequence[Point]) -> np.ndarray:
    """The features of `points` for `op`: float32 of shape (len(points), len(FEATURE_NAMES)).

    `op` is of known sizes, and each point of a template of `target` at its present version (KeyError otherwise).
    """
    result = np.empty((len(points), len(FEATURE_NAMES)), np.float32)
    fixed = [tell(op) for tell in OPERATOR.values()]
    fixed += [float(getattr(target.spec, name, np.nan)) for name in TARGET]
    result[:, : len(fixed)] = fixed
    templates = {(t.name, t.version): t for t in target.templates}
    groups: dict[tuple[str, int], list[int]] = {}
    for k, point in enumerate(points):
        groups.setdefault((point.template, point.version), []).append(k)
    for key, places in groups.items():
        traits = _traits(templates[key], op, target.spec, [points[k].config for k in places])
        facts = _Facts(op, target.spec, traits)
        with np.errstate(invalid="ignore", divide="ignore"):
            columns = [tell(facts) for tell in CONFIG.values()]
        result[places, len(fixed) :] = np.stack(columns, axis=1)
    return result


def ideal_cycles(op: OpSpec, spec: TargetSpec) -> float:
    """Cycles of `op`, of known sizes, at the peak rate of one core; elements of the result if FLOPs are not known."""
    work = float(flops(op) or prod(_sizes(op.anchor_type)))
    lanes = float(getattr(spec, "vector_bytes", 4)) / 4
    return max(work / (2 * lanes * float(getattr(spec, "fma_ports", 1))), 1.0)


def _traits(template: Template, op: OpSpec, spec: TargetSpec, configs: Sequence[Config]) -> Columns:
    """Every trait as a column; NaN where the template tells nothing."""
    told = template.traits(op, spec, configs)
    full = np.zeros(len(configs))
    return {name: full + told.get(name, np.nan) for name in TRAITS}


def _sizes(tensor: TensorType) -> tuple[int, ...]:
    return tuple(int(d) for d in tensor.shape)


def _bytes(tensor: TensorType) -> int:
    bits = int("".join(c for c in tensor.dtype if c.isdigit()) or "8")
    return prod(_sizes(tensor)) * bits // 8
