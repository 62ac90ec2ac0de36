"""int8 convolution with int32 sums: Y[oh, ow, co] = sum of X[y, x, ci] W[co, kh, kw, ci]; channels last, any stride
and padding.

Two nests that run at once: one reads the picture once and forms windows (line buffers), the other multiplies a
window of si channels with the weights of so outputs every cycle, and keeps it while it goes through the groups of
outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....compiler.schedule.template import Config, Space
from ..kernel.affine import Affine, var
from ..kernel.builder import Named, NestBuilder, array, both, equals, kernel, load, op, reduce
from ..kernel.ir import Array, Expr, Kernel, Loop, Stream
from ..kernel.types import scalar
from ..spec import FpgaSpec
from .base import KernelTemplate, check_knob, check_sizes, lane_space, powers_to
from .gemm_int import within
from .window import Picture, slide


@dataclass(frozen=True)
class ConvProblem:
    """A picture, and `out_c` channels of the result."""

    picture: Picture
    out_c: int


class ConvInt(KernelTemplate[ConvProblem]):
    """Knobs: si lanes over input channels, so over output channels; each takes kh * kw multipliers."""

    name = "conv_int"

    def space(self, problem: ConvProblem, spec: FpgaSpec) -> Space:
        p = problem.picture
        choices = {"si": powers_to(p.c), "so": powers_to(problem.out_c)}
        return lane_space(choices, ("si", "so"), max(1, spec.budget("dsp") // (p.kh * p.kw)))

    def build(self, problem: ConvProblem, config: Config) -> Kernel:
        p, out = problem.picture, problem.out_c
        check_sizes(self.name, problem, h=p.h, w=p.w, c=p.c, out_c=out, out_h=p.out_h, out_w=p.out_w)
        si = check_knob(self.name, "si", config.int("si"), p.c)
        so = check_knob(self.name, "so", config.int("so"), out)
        source = array("X", (p.h, p.w, p.c), "int8", factors=(1, 1, si), role="in")
        weights = array("W", (out, p.kh, p.kw, p.c), "int8", factors=(so, p.kh, p.kw, si), role="in")
        result = array("Y", (p.out_h, p.out_w, out), "int32", factors=(1, 1, so), role="out")
        windows = Stream("windows", (p.kh, p.kw, si), scalar("int8"), depth=4)
        slider = NestBuilder("slide")
        window = slide(slider, source, p, si)
        r, j, s = (var(lane.var) for lane in window.lanes)
        slider.push(windows, window.value[r, j, s], window.lanes, guard=window.valid)
        product, local = self._product(problem, windows, weights, result, si, so)
        arrays = [source, weights, result, *window.arrays, *local]
        return kernel(self.name, arrays, [slider.nest(), product.nest()], [windows])

    def _product(
        self, problem: ConvProblem, windows: Stream, weights: Array, result: Array, si: int, so: int
    ) -> tuple[NestBuilder, list[Array]]:
        p = problem.picture
        nest = NestBuilder("product")
        y, x = nest.serial("y", p.out_h), nest.serial("x", p.out_w)
        og, group = nest.serial("og", -(-problem.out_c // so)), nest.serial("group", -(-p.c // si))
        held, local = _hold(nest, windows, og, -(-problem.out_c // so), group, -(-p.c // si))
        c, channel = og * so + var("o"), group * si + var("s")
        outputs, inputs = within(c, problem.out_c, so), within(channel, p.c, si)
        guard = both(outputs, inputs) if outputs is not None or inputs is not None else None
        weight = load(weights, c, var("r"), var("j"), channel, guard=guard)
        term = op("mul", held[var("r"), var("j"), var("s")], weight, dtype=scalar("int32"))
        terms = reduce("add", [Loop("r", p.kh), Loop("j", p.kw), Loop("s", si)], term)
        sums = array("sums", (so,), "int32", "register")
        lanes = [Loop("o", so)]
        total = nest.accumulate("total", sums, [var("o")], terms, equals(group, 0), lanes)
        last = both(equals(group, -(-p.c // si) - 1), outputs)
        nest.store(result, [y, x, c], total[var("o")], lanes, guard=last)
        return nest, [*local, sums]

    def reference(self, problem: ConvProblem, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        p, x, w = problem.picture, inputs["X"], inputs["W"]
        out = np.zeros((p.out_h, p.out_w, problem.out_c), np.int32)
        for r, j, piece in windows_of(x, p):
            out += piece.astype(np.int32) @ w[:, r, j].astype(np.int32).T
        return {"Y": out}


def _hold(
    nest: NestBuilder, windows: Stream, og: Affine, groups_out: int, group: Affine, groups_in: int
) -> tuple[Named, list[Array]]:
    """The windows of a pixel: popped for the first group of outputs, kept for the others."""
    if groups_out == 1:
        return nest.pop("window", windows), []
    kh, kw, si = windows.shape
    first: Expr = equals(og, 0)
    memory = "register" if groups_in == 1 else "lutram"
    kept = array("held", (groups_in, kh, kw, si), "int8", memory, (1, kh, kw, si))
    lanes = [Loop("r", kh), Loop("j", kw), Loop("s", si)]
    at = [group, *(var(lane.var) for lane in lanes)]
    old = nest.let("old", load(kept, *at), lanes)
    fresh = nest.pop("fresh", windows, first)
    r, j, s = (var(lane.var) for lane in lanes)
    window = nest.let("window", op("select", first, fresh[r, j, s], old[r, j, s]), lanes)
    nest.store(kept, at, fresh[r, j, s], lanes, guard=first)  # not `window`: a select in the loop costs a cycle
    return window, [kept]


def windows_of(x: np.ndarray, p: Picture, outside: int = 0) -> list[tuple[int, int, np.ndarray]]:
    """For each place of the kernel, the pixels that it meets: [out_h, out_w, c]."""
    padded = np.pad(x, ((p.pad, p.pad), (p.pad, p.pad), (0, 0)), constant_values=outside)
    rows, columns = p.stride * p.out_h, p.stride * p.out_w
    return [
        (r, j, padded[r : r + rows : p.stride, j : j + columns : p.stride][: p.out_h, : p.out_w])
        for r in range(p.kh)
        for j in range(p.kw)
    ]
