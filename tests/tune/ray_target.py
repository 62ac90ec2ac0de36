"""A target for nodes of a cluster on one machine: its key, the template's conduct, and its records are what tests say.

The variables are those of the process that asks: each node of a test's cluster has its own.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

from kompilo.compiler.schedule.op_spec import OpSpec, TensorType
from kompilo.compiler.schedule.target_spec import TargetSpec
from kompilo.compiler.schedule.template import Candidate, Config, Space, Template
from kompilo.compiler.tune.record import Point
from kompilo.targets.cpu.target import CpuTarget
from kompilo.targets.cpu.templates.matmul_tile import MatmulTile

KEY = "cpu-test-nodes"
ACTS = ("quick", "slow", "failing")


class ConductTemplate(Template):
    """The tiled matmul, built at once, after a second, or not at all."""

    name = "conduct"
    version = 1

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        return Space(Config.of(act="quick"), tuple(Config.of(act=act) for act in ACTS))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        if config["act"] == "failing":
            raise RuntimeError("as asked")
        if config["act"] == "slow":
            time.sleep(1.0)
        space = MatmulTile().match(op, target)
        assert space is not None
        return MatmulTile().build(op, target, space.default)


class RayTestTarget(CpuTarget):
    """The local CPU under another key."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.spec = replace(self.spec, key=os.environ.get("RAY_TEST_KEY", KEY))

    @property
    def templates(self) -> tuple[Template, ...]:  # type: ignore[override]
        return (ConductTemplate(),)


def point(act: str) -> Point:
    """The point that behaves as `act` says."""
    return Point(ConductTemplate.name, ConductTemplate.version, Config.of(act=act))


def matmul(m: int) -> OpSpec:
    """(m, 29) x constant (29, 47)."""
    types = TensorType((m, 29), "float32"), TensorType((29, 47), "float32")
    result = TensorType((m, 47), "float32")
    attrs = (("lhs_perm", (0, 1)), ("out_perm", (0, 1)), ("rhs_perm", (0, 1)))
    return OpSpec("matmul", types, (False, True), attrs, result, result)
