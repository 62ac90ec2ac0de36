"""Kernels of operators that look at a window of each channel by itself: depthwise convolution and pooling, NHWC.

1. A thread computes `pixels` neighbours of a row, `lanes` channels each, in registers. Neighbouring threads have
   neighbouring channels, so that loads and stores are whole vectors side by side.
2. A column of the image is loaded once for all pixels whose windows contain it.
3. What lies outside of the image is skipped by conditions; there are none where nothing is padded.
Windows too wide to be unrolled are walked by loops, for one pixel at a time. float16 is summed up in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import Stmt

from ....compiler.schedule.op_spec import OpSpec
from ....compiler.schedule.template import Config, Space
from ...shared.conv_operands import Operands
from ...shared.index_math import ceil_div, split_index, unrolled
from ...shared.tir_loops import Index, i64, loop, seq, store
from ..estimates import UNKNOWN_IMAGE, estimated
from ..launch import allocated, launch, registers
from ..spec import GpuSpec
from .vectors import VECTOR_BYTES, dtype_bytes, load_vector, store_vector

# Taps of a window that are unrolled at most.
_UNROLLED = 64
# Columns of such a window: their weights are kept in registers.
_WIDEST = 16
# Multiply-adds of a thread that are unrolled at most; beyond, those rows of the window that lie inside of the image are
# walked by a loop. (Unrolled kernels of 5 x 5 taps, 8 pixels, 4 channels take NVRTC 4 s each, LLVM for AMD's GPUs 8 s.)
_STRAIGHT = 512
_THREADS = 128


@dataclass(frozen=True)
class Window:
    """Sizes of the operator; pairs are (vertical, horizontal)."""

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]
    padded: tuple[bool, bool]
    dtype: str = "float32"

    @property
    def lanes(self) -> int:
        """Channels of a vector, of 16 bytes at most."""
        most = VECTOR_BYTES // dtype_bytes(self.dtype)
        return next(n for n in (8, 4, 2, 1) if n <= most and self.channels % n == 0)

    @property
    def is_small(self) -> bool:
        """Whether the window is unrolled."""
        return self.kernel[0] * self.kernel[1] <= _UNROLLED and self.kernel[1] <= _WIDEST


def as_float(value: tirx.Expr) -> tirx.Expr:
    """`value` in float32, in which windows are summed up."""
    return value if str(value.ty.dtype) == "float32" else value.astype("float32")


def takes(op: OpSpec, operands: int) -> bool:
    """Whether the first `operands` inputs of `op` are of one type, float32 or float16, and all others such too."""
    types = {t.dtype for t in op.inputs[:operands]}
    others = {t.dtype for t in (*op.inputs, op.anchor_type, op.output)}
    return len(types) == 1 and others <= {"float32", "float16"}


def window_space(window: Window, outputs: tuple[int | str, ...], spec: GpuSpec) -> Space:
    """Pixels that a thread computes: several where the rest still fills the GPU. `outputs` is the result's shape."""
    known = [estimated(d, UNKNOWN_IMAGE) for d in outputs]
    if not window.is_small:
        return Space(Config.of(pixels=1))
    threads = known[0] * known[1] * known[2] * (known[3] // window.lanes)
    options = [p for p in (1, 2, 4, 8) if p == 1 or (p <= known[2] and p * window.lanes <= 32)]
    filling = [p for p in options if threads // p >= spec.sms * spec.threads_per_sm]
    return Space(Config.of(pixels=max(filling, default=1)), tuple(Config.of(pixels=p) for p in options))


@dataclass
class WindowNest:
    """The kernel. `tap(acc, value, weight)` is the accumulator after one element of the window.

    `weights(kh, kw)` says where the weights of one place in the window begin, a vector for all channels; None: there
    are none, and `tap` gets 1.
    """

    op: OpSpec
    operands: Operands
    window: Window
    size: tuple[Index, Index]
    outputs: list[Index]
    pixels: int
    start: float
    tap: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], tirx.Expr]
    weights: Callable[[Index, Index], Index] | None = None
    counted: bool = False
    scale: float | None = None

    def kernel(self) -> Stmt:
        """The whole kernel."""
        window = self.window
        batch, out_h, out_w = self.outputs
        grid = [batch, out_h, ceil_div(out_w, self.pixels), window.channels // window.lanes]
        total: Index = 1
        for extent in grid:
            total = total * extent

        def thread(block: Index, lane: Index) -> Stmt:
            item = i64(block * _THREADS + lane)
            names = [tirx.Var(name, "int64") for name in ("image", "row", "column", "channel")]
            n, row, columns, vectors = split_index(item, grid)
            values = [n, row, columns * self.pixels, vectors * window.lanes]
            body = self._thread(*names)
            bound = [tirx.Bind(name, i64(value)) for name, value in zip(names, values, strict=True)]
            return tirx.IfThenElse(item < total, seq(*bound, body), None)

        return launch(ceil_div(total, _THREADS), _THREADS, thread)

    def _thread(self, n: Index, row: Index, column: Index, channel: Index) -> Stmt:
        window, lanes, pixels = self.window, self.window.lanes, self.pixels
        acc = registers(pixels * lanes, "float32", "acc")
        seen = registers(lanes, window.dtype, "seen")
        count = registers(pixels, "float32", "count")
        factors = registers(lanes * (window.kernel[1] if window.is_small else 1), window.dtype, "factors")
        top, left = row * window.stride[0] - window.pad[0], column * window.stride[1] - window.pad[1]
        clear = unrolled("i", 0, pixels * lanes, lambda i: store(acc, [i], tirx.const(self.start, "float32")))
        none = unrolled("i", 0, pixels, lambda i: store(count, [i], tirx.const(0.0, "float32")))

        def line(kh: Index, at: Index) -> Stmt:
            buffers = (acc, seen, count, factors)
            start = tirx.Var("line", "int64")
            bound = tirx.Bind(start, i64(((n * self.size[0] + at) * self.size[1]) * window.channels + channel))
            if not window.is_small:
                return seq(bound, self._each_column(buffers, (start, left, channel), kh))
            # A row's weights serve all pixels, and are not loaded again within each column's condition.
            fetch = [self._weight(factors, kw, kh, kw, channel) for kw in range(window.kernel[1])]
            return seq(bound, *fetch, self._columns(buffers, (start, left)))

        walk = self._rows(top, line)
        writes = [self._write(acc, count, p, (n, row, column + p, channel)) for p in range(pixels)]
        return allocated(
            [acc, seen, *([count] if self.counted else []), *([factors] if self.weights else [])],
            clear,
            none if self.counted else None,
            walk,
            *writes,
        )

    def _rows(self, top: Index, line: Callable[[Index, Index], Stmt]) -> Stmt:
        """`line(kh, row)` for each row of the window that lies inside of the image."""
        window, taps, step = self.window, self.window.kernel[0], self.window.dilation[0]
        if window.is_small and taps * window.kernel[1] * self.pixels * window.lanes <= _STRAIGHT:
            each = [self._if_inside(0, top + kh * step, lambda at, kh=kh: line(kh, at)) for kh in range(taps)]
            return seq(*each)
        if not window.padded[0]:
            return loop("kh", taps, lambda kh: line(kh, top + kh * step))
        first, last = tirx.Var("first_tap", "int64"), tirx.Var("last_tap", "int64")
        bounds = [
            tirx.Bind(first, tirx.max(i64(0), tirx.truncdiv(i64(step - 1) - top, i64(step)))),
            tirx.Bind(last, tirx.min(i64(taps), tirx.truncdiv(i64(self.size[0]) - top + (step - 1), i64(step)))),
        ]
        return seq(*bounds, loop("kh", last - first, lambda kh: line(first + kh, top + (first + kh) * step)))

    def _if_inside(self, axis: int, position: Index, body: Callable[[Index], Stmt]) -> Stmt:
        """`body` where `position` is inside of the image; always, where windows never leave it."""
        if not self.window.padded[axis]:
            return body(position)
        inside = tirx.all(i64(position) >= 0, i64(position) < self.size[axis])
        return tirx.IfThenElse(inside, body(position), None)

    def _load(self, seen: tirx.Buffer, start: Index, column: Index) -> Stmt:
        """The channels at `column` of the line that begins at `start`."""
        return load_vector(seen, 0, self.operands.data, start + column * self.window.channels, self.window.lanes)

    def _columns(self, buffers: tuple[tirx.Buffer, ...], at: tuple[Index, Index]) -> Stmt:
        """One row of the window: each column of the image that any pixel needs."""
        window = self.window
        start, left = at
        reach = (self.pixels - 1) * window.stride[1] + (window.kernel[1] - 1) * window.dilation[1]
        statements = []
        for offset in range(reach + 1):
            uses = [
                (p, kw)
                for p in range(self.pixels)
                for kw in range(window.kernel[1])
                if p * window.stride[1] + kw * window.dilation[1] == offset
            ]
            if not uses:
                continue

            def visit(column: Index, uses: list[tuple[int, int]] = uses) -> Stmt:
                taps = [self._tap(buffers, p, kw) for p, kw in uses]
                return seq(self._load(buffers[1], start, column), *taps)

            statements.append(self._if_read(offset, left + offset, visit))
        return seq(*statements)

    def _if_read(self, offset: int, column: Index, visit: Callable[[Index], Stmt]) -> Stmt:
        """As `_if_inside`; besides, the last thread of a row may have pixels that do not exist."""
        exact = isinstance(self.outputs[2], int) and self.outputs[2] % self.pixels == 0
        if self.window.padded[1] or exact:
            return self._if_inside(1, column, visit)
        return tirx.IfThenElse(i64(column) < self.size[1], visit(column), None)

    def _each_column(self, buffers: tuple[tirx.Buffer, ...], at: tuple[Index, ...], kh: Index) -> Stmt:
        start, left, channel = at

        def tap(kw: Index) -> Stmt:
            def visit(column: Index) -> Stmt:
                fetch = self._weight(buffers[3], 0, kh, kw, channel)
                return seq(fetch, self._load(buffers[1], start, column), self._tap(buffers, 0, 0))

            return self._if_inside(1, left + kw * self.window.dilation[1], visit)

        return loop("kw", self.window.kernel[1], tap)

    def _weight(self, factors: tirx.Buffer, number: int, kh: Index, kw: Index, channel: Index) -> Stmt | None:
        """Load the weights at (kh, kw) as vector `number` of `factors`."""
        lanes = self.window.lanes
        if self.weights is None:
            return None
        return load_vector(factors, number * lanes, self.operands.weights, self.weights(kh, kw) + channel, lanes)

    def _tap(self, buffers: tuple[tirx.Buffer, ...], pixel: int, number: int) -> Stmt:
        acc, seen, count, factors = buffers
        lanes = self.window.lanes
        one = tirx.const(1.0, "float32")
        statements = []
        for k in range(lanes):
            place = [i64(pixel * lanes + k)]
            weight = as_float(tirx.BufferLoad(factors, [i64(number * lanes + k)])) if self.weights else one
            value = self.tap(tirx.BufferLoad(acc, place), as_float(tirx.BufferLoad(seen, [i64(k)])), weight)
            statements.append(store(acc, place, value))
        if self.counted:
            statements.append(store(count, [pixel], tirx.BufferLoad(count, [i64(pixel)]) + one))
        return seq(*statements)

    def _write(self, acc: tirx.Buffer, count: tirx.Buffer, pixel: int, at: tuple[Index, ...]) -> Stmt:
        n, row, column, channel = at
        lanes, channels = self.window.lanes, self.window.channels
        results = []
        for k in range(lanes):
            value = tirx.BufferLoad(acc, [i64(pixel * lanes + k)])
            if self.scale is not None:
                value = value * tirx.const(self.scale, "float32")
            if self.counted:
                value = value / tirx.max(tirx.BufferLoad(count, [i64(pixel)]), tirx.const(1.0, "float32"))
            value = value if self.op.anchor_type.dtype == "float32" else value.astype(self.op.anchor_type.dtype)
            results.append(self.operands.result(value, n, row, column, channel + k))
        place = ((n * self.outputs[1] + row) * self.outputs[2] + column) * channels + channel
        write = store_vector(self.operands.flat(-1), place, results)
        exact = isinstance(self.outputs[2], int) and self.outputs[2] % self.pixels == 0
        return write if exact else tirx.IfThenElse(i64(column) < self.outputs[2], write, None)
