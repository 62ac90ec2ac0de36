"""Depthwise convolution of int8 NHWC data, a vector of channels at a time, widened to int32 lanes."""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.tirx import PrimFunc, Stmt

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import CpuSpec, TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ...shared.conv_operands import Operands
from ...shared.conv_shape import ConvShape, conv_sizes
from ...shared.index_math import bound_all, ramp, ranged, split_index
from ...shared.tir_loops import Index, loop, seq
from .conv_borders import kernel_range
from .cpu_costs import PARALLEL_FLOPS
from .tile_builder import RegisterTile


class Int8Depthwise(Template):
    """One output channel for each input channel; `lanes` are those of a vector."""

    name = "conv2d_int8_depthwise"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """One config; None unless data and weights are int8, sums int32, and groups are channels."""
        conv = conv_sizes(op)
        if conv is None or not isinstance(target, CpuSpec) or not conv.groups == conv.channels == conv.out_channels:
            return None
        if (op.inputs[0].dtype, op.inputs[1].dtype, op.anchor_type.dtype) != ("int8", "int8", "int32"):
            return None
        return Space(Config.of(lanes=target.lanes("int32")))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel, with weights as (height, width, channels)."""
        conv = conv_sizes(op)
        assert conv is not None, "match accepts only convolutions"
        size = conv.channels * conv.kernel[0] * conv.kernel[1]
        emitter = _Emitter(Operands(op, {1: size}), conv, config.int("lanes"))
        return Candidate(emitter.function(), {1: _pack})


def _pack(weight: np.ndarray) -> np.ndarray:
    """(channels, 1, height, width) -> (height * width * channels)."""
    return np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0)).reshape(-1)


class _Emitter:
    """Generates the loops: rows over threads, in them pixels, in them vectors of channels."""

    def __init__(self, operands: Operands, conv: ConvShape, lanes: int):
        self.operands, self.conv, self.lanes = operands, conv, lanes
        self.sizes = [operands.size(d) for d in conv.size]
        self.out = [operands.size(d) for d in conv.out_size]

    def function(self) -> PrimFunc:
        """The kernel."""
        extents = [self.operands.size(self.conv.batch), self.out[0]]
        kind = "parallel" if self.conv.flops() >= PARALLEL_FLOPS else "serial"
        rows = loop(
            "item",
            extents[0] * extents[1],
            lambda item: bound_all(["batch", "row"], split_index(item, extents), self._row),
            kind,
        )
        return self.operands.function(rows)

    def _row(self, position: list[Index]) -> Stmt:
        batch, row = position
        low, count = self._taps(0, row)
        return ranged("x", 0, self.out[1], lambda x: self._pixel(batch, row, x, (low, count)))

    def _taps(self, axis: int, at: Index) -> tuple[Index, Index]:
        """The kernel's positions that meet the image for the output position `at` of an axis."""
        conv = self.conv
        if not conv.padded[axis]:
            return 0, conv.kernel[axis]
        first = at * conv.stride[axis] - conv.pad[axis]
        return kernel_range(first, self.sizes[axis], conv.kernel[axis], conv.dilation[axis])

    def _pixel(self, batch: Index, row: Index, x: Index, rows: tuple[Index, Index]) -> Stmt:
        """All channels of an output pixel: whole vectors, then shorter and shorter ones."""
        taps = (*rows, *self._taps(1, x))
        channels, lanes = self.conv.channels, self.lanes
        full = channels // lanes

        def some(values: list[Index]) -> Stmt:
            def vector(channel: Index, width: int) -> Stmt:
                return self._vector((batch, row, x, channel), width, values)

            parts = [ranged("c", 0, full, lambda c: vector(c * lanes, lanes))] if full else []
            at = full * lanes
            while at < channels:
                width = 1 << ((channels - at).bit_length() - 1)
                parts.append(vector(at, width))
                at += width
            return seq(*parts)

        return bound_all(["top", "rows", "left", "cols"], list(taps), some)

    def _vector(self, position: tuple[Index, Index, Index, Index], lanes: int, taps: list[Index]) -> Stmt:
        """`lanes` channels of an output pixel."""
        batch, row, x, channel = position
        conv, tile = self.conv, RegisterTile(1, 1, lanes, "int32")
        top, rows, left, cols = taps

        def widened(buffer: tirx.Buffer, at: Index) -> tirx.Expr:
            dtype = f"int32x{lanes}" if lanes > 1 else "int32"
            return tirx.Cast(dtype, tirx.BufferLoad(buffer, [ramp(at, lanes)]))

        def product(kh: Index, kw: Index) -> Stmt:
            down = row * conv.stride[0] - conv.pad[0] + kh * conv.dilation[0]
            right = x * conv.stride[1] - conv.pad[1] + kw * conv.dilation[1]
            data = ((batch * self.sizes[0] + down) * self.sizes[1] + right) * conv.channels + channel
            weight = (kh * conv.kernel[1] + kw) * conv.channels + channel
            term = widened(self.operands.data, data) * widened(self.operands.weights, weight)
            return tile.accumulate(lambda p, c: term)

        sums = ranged("kh", top, rows, lambda kh: ranged("kw", left, cols, lambda kw: product(kh, kw)))
        end = tile.finish(
            lambda value, p, c: self.operands.write(value, batch, row, x, channel + c),
            lanes,
            len(self.operands.op.epilogue),
        )
        return seq(tile.declare(), tile.zero(), sums, end)
