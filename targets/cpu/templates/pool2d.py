"""Maximum and average pooling over NHWC: vectors of channels in registers, borders apart from the interior.

Strategy:
1. One parallel loop over (image, output row); the window's rows are clipped once per output row.
2. Columns in three runs: the interior, whose windows lie wholly inside the image and are unrolled, and the two borders,
   whose windows are clipped at run time. No element is tested in the interior.
3. Channels in blocks of up to eight vectors, so that several maxima or sums are in flight at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import Stmt

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.target_spec import CpuSpec, TargetSpec
from ....compiler.schedule.template import Candidate, Config, Space, Template
from ....compiler.schedule.traits import Traits
from ...shared.conv_operands import Operands
from ...shared.index_math import ceil_div, floor_div, maximum, minimum, ramp, ranged, splat, split_index, unrolled
from ...shared.tir_loops import Index, i64, loop, seq, store
from .conv_borders import kernel_range
from .conv_traits import pool_traits

# Elements read below which one core is done before a second has woken (2 to 4 us).
PARALLEL_READS = 100_000
# TVM keeps buffers below 1024 bytes on the stack, where LLVM turns them into registers.
MAX_VECTORS = 8


class Pool2D(Template):
    """Pooling with a fused epilogue."""

    name = "pool2d"

    def match(self, op: OpSpec, target: TargetSpec) -> Space | None:
        """float32 NHWC without ceil_mode (the frontend has turned that into padding); channels must be static."""
        if op.kind != "pool2d" or not isinstance(target, CpuSpec) or op.attr("ceil_mode"):
            return None
        channels = op.anchor_type.shape[3]
        dtypes = {t.dtype for t in (*op.inputs, op.anchor_type, op.output)}
        if dtypes != {"float32"} or not isinstance(channels, int) or 0 in (*op.inputs[0].shape, *op.anchor_type.shape):
            return None
        if min(op.ints("padding")) < 0:
            return None
        most = max(1, min(MAX_VECTORS, channels // target.lanes("float32"), 960 // target.vector_bytes))
        return Space(Config.of(vectors=most), tuple(Config.of(vectors=v) for v in (1, 2, 4, 8) if v <= most))

    def build(self, op: OpSpec, target: TargetSpec, config: Config) -> Candidate:
        """The kernel; nothing is packed."""
        assert isinstance(target, CpuSpec)
        return Candidate(_Emitter(op, target, config.int("vectors")).function())

    def traits(self, op: OpSpec, target: TargetSpec, configs: Sequence[Config]) -> Traits:
        """Traits of `configs`."""
        assert isinstance(target, CpuSpec)
        return pool_traits(op, target, configs)


@dataclass
class _Window:
    """One axis of the pooling window."""

    size: int
    stride: int
    dilation: int
    pad: int

    def start(self, output: Index) -> Index:
        """First input position of the window of `output`, padding negative."""
        return output * self.stride - self.pad

    def interior(self, length: Index, outputs: Index) -> tuple[Index, Index]:
        """The outputs [first, last) whose windows lie inside an axis of `length` elements."""
        first = minimum(ceil_div(self.pad, self.stride), outputs)
        reach = (self.size - 1) * self.dilation
        last = floor_div(length - 1 - reach + self.pad, self.stride) + 1
        return first, maximum(first, minimum(last, outputs))


class _Emitter:
    """Generates the loops of one pooling operator."""

    def __init__(self, op: OpSpec, target: CpuSpec, vectors: int):
        self.op = op
        self.vectors = vectors
        self.lanes = target.lanes("float32")
        self.cores = target.cores
        self.operands = Operands(op, {})
        self.maximum = op.attr("mode") == "max"
        size, stride, dilation = op.ints("pool_size"), op.ints("strides"), op.ints("dilation")
        top, left, _, _ = op.ints("padding")
        self.vertical = _Window(size[0], stride[0], dilation[0], top)
        self.horizontal = _Window(size[1], stride[1], dilation[1], left)
        self.height, self.width, self.channels = (self.operands.size(d) for d in op.inputs[0].shape[1:])

    def function(self) -> tirx.PrimFunc:
        """The whole kernel."""
        batch, out_h, out_w, _ = (self.operands.size(d) for d in self.op.anchor_type.shape)
        first, last = self.horizontal.interior(self.width, out_w)

        def row(item: Index) -> Stmt:
            n, oh = split_index(item, [batch, out_h])
            kh, rows = kernel_range(self.vertical.start(oh), self.height, self.vertical.size, self.vertical.dilation)

            def border(ow: Index) -> Stmt:
                kw, cols = kernel_range(
                    self.horizontal.start(ow), self.width, self.horizontal.size, self.horizontal.dilation
                )
                return self._pixel(n, oh, ow, (kh, rows), (kw, cols))

            def inside(ow: Index) -> Stmt:
                return self._pixel(n, oh, ow, (kh, rows), (0, self.horizontal.size))

            runs = ((0, first, border), (first, last - first, inside), (last, out_w - last, border))
            return seq(*(ranged("ow", begin, count, body) for begin, count, body in runs if not _empty(count)))

        kind = "parallel" if self._worth_sharing() else "serial"
        return self.operands.function(loop("row", batch * out_h, row, kind))

    def _worth_sharing(self) -> bool:
        reads = self.vertical.size * self.horizontal.size
        for d in self.op.anchor_type.shape:
            reads *= d if isinstance(d, int) else 64
        return self.cores > 1 and reads >= PARALLEL_READS

    def _pixel(self, n: Index, oh: Index, ow: Index, rows: tuple[Index, Index], cols: tuple[Index, Index]) -> Stmt:
        """All channels of one output pixel, in blocks of vectors, then single vectors, then the rest."""
        channels = int(self.channels)
        pieces: list[Stmt] = []
        at = 0
        for vectors in (self.vectors, 1):
            width = vectors * self.lanes
            count = (channels - at) // width
            if count:

                def block(b: Index, start: int = at, vectors: int = vectors, width: int = width) -> Stmt:
                    return self._block((n, oh, ow), start + b * width, vectors, self.lanes, rows, cols)

                pieces.append(loop("block", count, block))
                at += count * width
        while at < channels:
            lanes = 1 << ((channels - at).bit_length() - 1)
            pieces.append(self._block((n, oh, ow), at, 1, lanes, rows, cols))
            at += lanes
        return seq(*pieces)

    def _block(
        self,
        position: tuple[Index, Index, Index],
        channel: Index,
        vectors: int,
        lanes: int,
        rows: tuple[Index, Index],
        cols: tuple[Index, Index],
    ) -> Stmt:
        n, oh, ow = position
        # Scope "global" and a small size put the buffer on the stack.
        acc = tirx.decl_buffer((vectors * lanes,), "float32", "acc", scope="global")
        start = tirx.const(-math.inf if self.maximum else 0.0, "float32")
        top, left = self.vertical.start(oh), self.horizontal.start(ow)

        def tap(kh: Index, kw: Index) -> Stmt:
            ih, iw = top + kh * self.vertical.dilation, left + kw * self.horizontal.dilation
            base = ((n * self.height + ih) * self.width + iw) * int(self.channels) + channel

            def one(v: Index) -> Stmt:
                old = tirx.BufferLoad(acc, [ramp(v * lanes, lanes)])
                new = tirx.BufferLoad(self.operands.data, [ramp(base + v * lanes, lanes)])
                return store(acc, [ramp(v * lanes, lanes)], self._combine(old, new))

            return unrolled("v", 0, vectors, one)

        def columns(kh: Index) -> Stmt:
            kw, count = cols
            if isinstance(kw, int) and isinstance(count, int):
                return unrolled("kw", kw, kw + count, lambda k: tap(kh, k))
            return ranged("kw", kw, count, lambda k: tap(kh, k))

        clear = unrolled("v", 0, vectors, lambda v: store(acc, [ramp(v * lanes, lanes)], splat(start, lanes)))
        factor = self._factor(rows[1], cols[1])

        def write(v: Index) -> Stmt:
            def lane(c: Index) -> Stmt:
                value = tirx.BufferLoad(acc, [i64(v * lanes + c)])
                value = value if factor is None else value * factor
                return self.operands.write(value, n, oh, ow, channel + v * lanes + c)

            return loop("lane", lanes, lane, "vectorized")

        reduce = ranged("kh", rows[0], rows[1], columns)
        return seq(tirx.AllocBuffer(acc), clear, reduce, unrolled("v", 0, vectors, write))

    def _combine(self, old: tirx.Expr, new: tirx.Expr) -> tirx.Expr:
        return tirx.max(old, new) if self.maximum else old + new

    def _factor(self, rows: Index, cols: Index) -> tirx.Expr | None:
        """What a sum is multiplied by to become a mean; None for the maximum."""
        if self.maximum:
            return None
        if self.op.attr("count_include_pad"):
            return tirx.const(1.0 / (self.vertical.size * self.horizontal.size), "float32")
        count = i64(rows * cols)
        if isinstance(count, tirx.IntImm):
            return tirx.const(1.0 / max(1, int(count)), "float32")
        return tirx.const(1.0, "float32") / tirx.Cast("float32", tirx.max(count, i64(1)))


def _empty(count: Index) -> bool:
    return isinstance(count, int) and count <= 0
