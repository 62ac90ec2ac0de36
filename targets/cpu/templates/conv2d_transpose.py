"""Transposed NHWC convolution as ordinary convolutions, one for each position of an output pixel in the stride.

An output pixel in phase (r, s), the remainders of its row and column by the stride, takes input from a fixed subset of
the kernel's taps: all pixels of one phase form a stride-1 convolution with that smaller, flipped kernel, whose result
is stored with the stride. Where the kernel is as large as the stride, windows do not overlap and each phase has one
tap: the phases then become channels of a single pointwise convolution, whose result is scattered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod

import numpy as np
from tvm import tirx
from tvm.tirx import Stmt

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import CpuSpec, TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.conv_operands import Operands
from ...shared.conv_shape import ConvShape
from ...shared.index_math import ceil_div, floor_div, floor_mod, ranged
from ...shared.tir_loops import Index, seq, store
from .conv2d_direct import blocked_weights, blocking_of, direct_configs
from .conv2d_direct_nest import Blocking, DirectNest, Pass
from .conv_traits import direct_traits
from .packing import BlockedWeights
from .tile_builder import RegisterTile, on_stack


class TransposedConv2D(Template):
    """Any transposed 2-D convolution of float32 data with constant weights; the knobs are those of `DirectConv2D`."""

    name = "conv2d_transpose"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """The space of the pointwise convolution, or of the phase with most taps."""
        shape = _transposed_shape(op)
        if shape is None or not isinstance(target, CpuSpec):
            return None
        if shape.is_disjoint:
            configs = [c for c in direct_configs(shape.pointwise(), target) if _scatters(shape, c, target)]
            if configs:
                return Space(configs[0], tuple(configs))
        conv = shape.largest_phase()
        configs = [Config.of(**{**dict(c.knobs), "chunks": 1}) for c in direct_configs(conv, target)]
        return Space(configs[0], tuple(configs))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel, with IOHW weights packed for its phases."""
        shape = _transposed_shape(op)
        assert shape is not None, "match accepts only transposed convolutions"
        assert isinstance(target, CpuSpec)
        if shape.is_disjoint and _scatters(shape, config, target):
            return _build_disjoint(op, shape, target, config)
        return _build_phases(op, shape, target, config)

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of the pointwise convolution, or of the phase with most taps."""
        shape = _transposed_shape(op)
        assert shape is not None, "match accepts only transposed convolutions"
        assert isinstance(target, CpuSpec)
        disjoint = shape.is_disjoint and _scatters(shape, configs[0], target)
        return direct_traits(shape.pointwise() if disjoint else shape.largest_phase(), target, configs)


@dataclass(frozen=True)
class _Phase:
    """The output pixels of remainders `at`: their kernel taps, and how far the first reaches back into the input."""

    at: tuple[int, int]
    taps: tuple[tuple[int, ...], tuple[int, ...]]
    back: tuple[int, int]

    @property
    def kernel(self) -> tuple[int, int]:
        return max(1, len(self.taps[0])), max(1, len(self.taps[1]))


@dataclass(frozen=True)
class _TransposedShape:
    """Sizes of a transposed convolution: `conv` has them all but the output's, and the whole kernel."""

    conv: ConvShape
    output_size: tuple[int | str, int | str]

    @property
    def is_disjoint(self) -> bool:
        """Whether every output pixel takes input from exactly one tap of one input pixel, for all of them."""
        conv = self.conv
        whole = all(
            not (isinstance(out, int) and isinstance(size, int)) or out == size * stride
            for out, size, stride in zip(self.output_size, conv.size, conv.stride, strict=True)
        )
        return (
            conv.kernel == conv.stride
            and conv.dilation == (1, 1)
            and not any(conv.padded)
            and whole
            and conv.groups == 1
        )

    def pointwise(self) -> ConvShape:
        """The convolution from input pixels to all taps and output channels, (KH, KW, O) in this order."""
        conv = self.conv
        channels = conv.kernel[0] * conv.kernel[1] * conv.out_channels
        return replace(
            conv,
            out_size=conv.size,
            out_channels=channels,
            kernel=(1, 1),
            stride=(1, 1),
            pad=(0, 0),
            padded=(False, False),
        )

    def largest_phase(self) -> ConvShape:
        """The convolution of the phase with most taps, as large as the input."""
        phase = max(self.phases(), key=lambda p: prod(p.kernel))
        return replace(self.phase_shape(phase), padded=(True, True))

    def phases(self) -> list[_Phase]:
        """All phases, row by row."""
        conv = self.conv
        found = []
        for r in range(conv.stride[0]):
            for s in range(conv.stride[1]):
                taps, back = zip(*(self._axis(a, at) for a, at in enumerate((r, s))), strict=True)
                found.append(_Phase((r, s), taps, back))
        return found

    def runs(self, axis: int) -> list[range]:
        """The remainders of one axis in runs whose phases are the same convolution but for their weights.

        Code that loops over a run is made once for it: with a kernel of 64 and a stride of 32 there are 1024 phases.
        """
        out, stride = self.output_size[axis], self.conv.stride[axis]
        found: list[range] = []
        before = None
        for at in range(stride):
            taps, back = self._axis(axis, at)
            kind = (len(taps), back, -(-(out - at) // stride) if isinstance(out, int) else out)
            start = found.pop().start if kind == before else at
            found.append(range(start, at + 1))
            before = kind
        return found

    def _axis(self, axis: int, at: int) -> tuple[tuple[int, ...], int]:
        """Taps of one axis in the order of the input they read, and the padding of the convolution they form."""
        stride, dilation = self.conv.stride[axis], self.conv.dilation[axis]
        shift = at + self.conv.pad[axis]
        # Output pixel i * stride + at reads input i + (shift - k * dilation) / stride with tap k.
        taps = [k for k in range(self.conv.kernel[axis]) if (shift - k * dilation) % stride == 0]
        taps.reverse()
        return tuple(taps), -((shift - taps[0] * dilation) // stride) if taps else 0

    def phase_shape(self, phase: _Phase) -> ConvShape:
        """The stride-1 convolution of one phase; its output size is still to be filled in."""
        conv = self.conv
        steps = tuple(d // gcd(d, s) for d, s in zip(conv.dilation, conv.stride, strict=True))
        return replace(
            conv,
            kernel=phase.kernel,
            stride=(1, 1),
            dilation=steps,
            pad=phase.back,
            out_size=conv.size,
            padded=(True, True),
        )


def _transposed_shape(op: OpSpec) -> _TransposedShape | None:
    """The sizes of `op`, or None if it is no NHWC float32 transposed convolution with constant weights."""
    if op.kind != "conv2d_transpose" or len(op.inputs) < 2 or not op.constant[1]:
        return None
    data, weight = op.inputs[0], op.inputs[1]
    if {data.dtype, weight.dtype, op.anchor_type.dtype} != {"float32"} or not weight.is_static:
        return None
    if dict(op.attrs).get("data_layout", "NHWC") != "NHWC" or len(data.shape) != 4 or 0 in op.anchor_type.shape:
        return None
    padding, stride, dilation = op.ints("padding"), op.ints("strides"), op.ints("dilation")
    groups = op.ints("groups")[0]
    batch, height, width, channels = data.shape
    if min(padding) < 0 or not isinstance(channels, int) or 0 in data.shape:
        return None
    conv = ConvShape(
        batch=batch,
        size=(height, width),
        channels=channels,
        out_size=(height, width),
        out_channels=int(weight.shape[1]) * groups,
        kernel=(int(weight.shape[2]), int(weight.shape[3])),
        stride=(stride[0], stride[1]),
        pad=(padding[0], padding[1]),
        padded=(padding[0] + padding[2] > 0, padding[1] + padding[3] > 0),
        dilation=(dilation[0], dilation[1]),
        groups=groups,
    )
    if any(op.ints("output_padding")):
        conv = replace(conv, padded=(True, True))
    return _TransposedShape(conv, (op.anchor_type.shape[1], op.anchor_type.shape[2]))


def _scatters(shape: _TransposedShape, config: Config, target: CpuSpec) -> bool:
    """Whether each block of the pointwise convolution holds all taps, or channels of a single one."""
    block = config.int("vectors") * target.lanes("float32")
    return block >= shape.pointwise().out_channels or shape.conv.out_channels % block == 0


def _build_disjoint(op: OpSpec, shape: _TransposedShape, target: CpuSpec, config: Config) -> Candidate:
    conv = shape.pointwise()
    weights = blocked_weights(conv, target, config)
    operands = Operands(op, {1: weights.size})
    nest = _ScatterNest(operands, conv, weights, blocking_of(conv, config), shape.conv)

    def pack(weight: np.ndarray) -> np.ndarray:
        return weights.pack(weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0], 1, 1))

    return Candidate(operands.function(nest.body()), {1: pack})


def _build_phases(op: OpSpec, shape: _TransposedShape, target: CpuSpec, config: Config) -> Candidate:
    phases = {p.at: p for p in shape.phases()}
    order, loops, offset = [], [], 0
    sizes = {p: blocked_weights(shape.phase_shape(phases[p]), target, config).size for p in phases}
    operands = Operands(op, {1: sum(sizes.values())})
    for rows in shape.runs(0):
        for cols in shape.runs(1):
            loops.append(_run_of_phases(operands, shape, target, config, (rows, cols), offset))
            order += [phases[r, s] for r in rows for s in cols]
            offset += sum(sizes[r, s] for r in rows for s in cols)

    def pack(weight: np.ndarray) -> np.ndarray:
        streams = [blocked_weights(shape.phase_shape(p), target, config) for p in order]
        groups = shape.conv.groups
        return np.concatenate([w.pack(phase_weights(weight, p, groups)) for p, w in zip(order, streams, strict=True)])

    return Candidate(operands.function(seq(*loops)), {1: pack})


def _run_of_phases(
    operands: Operands,
    shape: _TransposedShape,
    target: CpuSpec,
    config: Config,
    run: tuple[range, range],
    weights_at: int,
) -> Stmt | None:
    """Loops over the phases of `run` (see `_TransposedShape.runs`), whose weights follow each other from `weights_at`.

    None if they have no output pixels: the output is smaller than the stride.
    """
    rows, cols = run
    phase = next(p for p in shape.phases() if p.at == (rows.start, cols.start))
    conv, stride = shape.phase_shape(phase), shape.conv.stride
    weights = blocked_weights(conv, target, config)

    def sizes(at: tuple[Index, Index]) -> tuple[Index, Index]:
        # All phases of a run have as many pixels where that is known.
        firsts = (run[a].start if isinstance(out, int) else at[a] for a, out in enumerate(shape.output_size))
        outs = (operands.size(out) for out in shape.output_size)
        height, width = (ceil_div(out - first, s) for out, first, s in zip(outs, firsts, stride, strict=True))
        return height, width

    def one(at: tuple[Index, Index]) -> Stmt:
        names = (f"phase{rows.start}_{cols.start}_{axis}" for axis in "hw")
        sized = replace(conv, out_size=tuple(map(operands.define, names, sizes(at))))
        blocking = blocking_of(sized, config)
        blocking = replace(blocking, staged=False) if _in_place(sized) else blocking
        number = (at[0] - rows.start) * len(cols) + (at[1] - cols.start)
        return _PhaseNest(operands, sized, weights, blocking, weights_at + number * weights.size, at, stride).body()

    if any(isinstance(size, int) and size == 0 for size in sizes((rows.start, cols.start))):
        return None
    return ranged("r", rows.start, len(rows), lambda r: ranged("s", cols.start, len(cols), lambda s: one((r, s))))


def _in_place(conv: ConvShape) -> bool:
    return isinstance(conv.out_size[1], int) and isinstance(conv.size[1], int)


def phase_weights(weight: np.ndarray, phase: _Phase, groups: int) -> np.ndarray:
    """IOHW weights -> the OIHW weights of one phase; a phase without taps (stride > kernel) gets a zero."""
    per_in, per_out = weight.shape[0] // groups, weight.shape[1]
    taps = weight[:, :, list(phase.taps[0])][:, :, :, list(phase.taps[1])]
    if 0 in taps.shape:
        taps = np.zeros((*weight.shape[:2], *phase.kernel), weight.dtype)
    grouped = taps.reshape(groups, per_in, per_out, *taps.shape[2:])
    return grouped.transpose(0, 2, 1, 3, 4).reshape(groups * per_out, per_in, *taps.shape[2:])


class _PhaseNest(DirectNest):
    """The convolution of one phase, stored with the stride."""

    def __init__(
        self,
        operands: Operands,
        conv: ConvShape,
        weights: BlockedWeights,
        blocking: Blocking,
        weights_at: Index,
        at: tuple[Index, Index],
        stride: tuple[int, int],
    ):
        super().__init__(operands, conv, weights, blocking, weights_at)
        self.at, self.out_stride = at, stride

    def finish(self, tile: RegisterTile, batch: Index, row: Index, col: Index, work: Pass, valid: Index | None) -> Stmt:
        """Epilogue and store at the phase's output pixels."""
        (r, s), (down, right) = self.at, self.out_stride

        def write(value: tirx.Expr, p: Index, c: Index) -> Stmt:
            return self.operands.write(value, batch, row * down + r, (col + p) * right + s, work.channel + c)

        return tile.finish(write, work.channels, len(self.operands.op.epilogue), valid)


class _ScatterNest(DirectNest):
    """A pointwise convolution whose channels are (kernel row, kernel column, output channel)."""

    def __init__(
        self, operands: Operands, conv: ConvShape, weights: BlockedWeights, blocking: Blocking, transposed: ConvShape
    ):
        super().__init__(operands, conv, weights, blocking)
        self.kernel, self.channels = transposed.kernel, transposed.out_channels

    def finish(self, tile: RegisterTile, batch: Index, row: Index, col: Index, work: Pass, valid: Index | None) -> Stmt:
        """Epilogue and store of each tap at its place; the input is never copied, so that all pixels are valid."""
        (kernel_h, kernel_w), channels = self.kernel, self.channels
        if work.channels <= channels and channels % (self.weights.block) == 0:
            tap, first = floor_div(work.channel, channels), floor_mod(work.channel, channels)
            down, right = floor_div(tap, kernel_w), floor_mod(tap, kernel_w)

            def write(value: tirx.Expr, p: Index, c: Index) -> Stmt:
                at_row, at_col = row * kernel_h + down, (col + p) * kernel_w + right
                return self.operands.write(value, batch, at_row, at_col, first + c)

            return tile.finish(write, work.channels, len(self.operands.op.epilogue))
        use = self._write_rows if channels < tile.lanes // 2 else self._write_taps
        return tile.through_memory(lambda memory, base, count: use(tile, memory, count, (batch, row, col + base)))

    def _write_taps(self, tile: RegisterTile, memory: tirx.Buffer, count: int, at: tuple[Index, Index, Index]) -> Stmt:
        """Each tap of each pixel, in vectors of output channels."""
        (kernel_h, kernel_w), channels = self.kernel, self.channels
        batch, row, col = at

        def tap(q: Index, kh: int, kw: int) -> Stmt:
            def write(value: tirx.Expr, c: Index) -> Stmt:
                return self.operands.write(value, batch, row * kernel_h + kh, (col + q) * kernel_w + kw, c)

            return tile.lanes_of(memory, q * tile.width + (kh * kernel_w + kw) * channels, channels, write)

        def pixel(q: Index) -> Stmt:
            return seq(*(tap(q, kh, kw) for kh in range(kernel_h) for kw in range(kernel_w)))

        return ranged("q", 0, count, pixel)

    def _write_rows(self, tile: RegisterTile, memory: tirx.Buffer, count: int, at: tuple[Index, Index, Index]) -> Stmt:
        """Few output channels: gather the tap rows of all pixels, which are contiguous in the output, into vectors."""
        (kernel_h, kernel_w), channels = self.kernel, self.channels
        batch, row, col = at
        run = kernel_w * channels
        line = on_stack(count * run, "line")

        def kernel_row(kh: int) -> Stmt:
            def gather(q: Index) -> Stmt:
                source: Callable[[Index], Index] = lambda k: q * tile.width + kh * run + k  # noqa: E731
                return ranged("k", 0, run, lambda k: store(line, [q * run + k], tirx.BufferLoad(memory, [source(k)])))

            def write(value: tirx.Expr, k: Index) -> Stmt:
                at_col = col * kernel_w + floor_div(k, channels)
                return self.operands.write(value, batch, row * kernel_h + kh, at_col, floor_mod(k, channels))

            return seq(ranged("q", 0, count, gather), tile.lanes_of(line, 0, count * run, write))

        return seq(tirx.AllocBuffer(line), *(kernel_row(kh) for kh in range(kernel_h)))
