"""Activations of float32 arrays, an element per lane and cycle: exp, sigmoid, tanh, SiLU, GELU (both forms), relu."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....compiler.errors import KompiloError
from ....compiler.schedule.template import Config, Space
from ..kernel.affine import var
from ..kernel.builder import NestBuilder, array, kernel, load
from ..kernel.ir import Kernel, Loop
from ..spec import FpgaSpec
from .base import KernelTemplate, check_knob, check_sizes, lane_space, powers_to
from .float_math import FUNCTIONS, Numpy, Pipeline
from .gemm_int import within
from .row_sums import most_lanes

# Float products of a lane at most (those of GELU).
_LANE_PRODUCTS = 25


@dataclass(frozen=True)
class ActivationProblem:
    """`size` float32 elements A; `kind` is one of float_math.FUNCTIONS. Y has the same size."""

    size: int
    kind: str


class Activation(KernelTemplate[ActivationProblem]):
    """Knob: lanes, elements per cycle."""

    name = "activation"

    def space(self, problem: ActivationProblem, spec: FpgaSpec) -> Space:
        lanes = powers_to(min(problem.size, 64))
        return lane_space({"lanes": lanes}, ("lanes",), most_lanes(spec, _LANE_PRODUCTS))

    def build(self, problem: ActivationProblem, config: Config) -> Kernel:
        check_sizes(self.name, problem, size=problem.size)
        if problem.kind not in FUNCTIONS:
            found = f"{', '.join(FUNCTIONS)}, found {problem.kind!r}"
            raise KompiloError(f"FPGA template activation: expected one of {found}.")
        lanes = check_knob(self.name, "lanes", config.int("lanes"), problem.size)
        source, result = (
            array(name, (problem.size,), "float32", factors=(lanes,), role=role)
            for name, role in (("A", "in"), ("Y", "out"))
        )
        nest, over = NestBuilder("map"), [Loop("lane", lanes)]
        index = nest.serial("i", -(-problem.size // lanes)) * lanes + var("lane")
        guard = within(index, problem.size, lanes)
        pipeline = Pipeline(nest, over)
        value = FUNCTIONS[problem.kind](pipeline, pipeline.name(load(source, index, guard=guard)))
        nest.store(result, [index], value, over, guard=guard)
        return kernel(self.name, [source, result], [nest.nest()])

    def reference(self, problem: ActivationProblem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"Y": FUNCTIONS[problem.kind](Numpy(), inputs["A"])}
