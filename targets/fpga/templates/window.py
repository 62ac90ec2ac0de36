"""Sliding windows over a picture that is read once, in order: line buffers for the rows before, registers for the
columns before.

A nest's iterations are the padded picture's pixels, row by row, and within a pixel its groups of channels. With a
stride s the coordinates are split, y = s * yo + yi, so that which windows count stays a comparison of loop variables.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..kernel.affine import Affine, var
from ..kernel.builder import Named, NestBuilder, array, at_least, below, both, const, equals, load, op
from ..kernel.ir import Array, Expr, Loop
from ..kernel.types import Value

# Line buffers of more words than this go to block RAM.
_LUTRAM_WORDS = 64


@dataclass(frozen=True)
class Picture:
    """A picture [h, w, c] under a kernel kh x kw with stride and zero padding, the same both ways."""

    h: int
    w: int
    c: int
    kh: int
    kw: int
    stride: int = 1
    pad: int = 0

    @property
    def out_h(self) -> int:
        """Rows of the result."""
        return (self.h + 2 * self.pad - self.kh) // self.stride + 1

    @property
    def out_w(self) -> int:
        """Columns of the result."""
        return (self.w + 2 * self.pad - self.kw) // self.stride + 1


@dataclass(frozen=True)
class Window:
    """The windows of a nest: `value[r, j, s]` with lanes over rows, columns and channels of a group.

    `y`, `x` are the result's coordinates; the value counts where `valid` holds. `group` is the group of channels.
    """

    value: Named
    lanes: tuple[Loop, Loop, Loop]
    y: Affine
    x: Affine
    group: Affine
    valid: Expr
    arrays: tuple[Array, ...]


def slide(nest: NestBuilder, source: Array, p: Picture, lanes: int, outside: Value = 0) -> Window:
    """Adds loops and statements to `nest` that form the windows of `source`; pixels outside have the value
    `outside`."""
    groups = -(-p.c // lanes)
    yo, yi = nest.serial("yo", -(-(p.h + 2 * p.pad) // p.stride)), nest.serial("yi", p.stride)
    width = -(-(p.w + 2 * p.pad) // p.stride)
    xo, xi = nest.serial("xo", width), nest.serial("xi", p.stride)
    group = nest.serial("group", groups)
    y, x, s = yo * p.stride + yi, xo * p.stride + xi, var("s")
    over = Loop("s", lanes)
    inside = both(at_least(y, p.pad), below(y, p.h + p.pad), at_least(x, p.pad), below(x, p.w + p.pad))
    if p.c % lanes:
        inside = both(inside, below(group * lanes + s, p.c))
    pixel: Expr = load(source, y - p.pad, x - p.pad, group * lanes + s, guard=inside)
    if outside:
        pixel = op("select", inside, pixel, const(outside, source.dtype))
    new = nest.let("pixel", pixel, [over])
    column, lines = _column(nest, new, p, (width * p.stride, groups, lanes), x, group, source)
    value, columns = _columns(nest, column, p, (groups, lanes), group, source)
    first_y, first_x = (p.kh - 1) // p.stride, (p.kw - 1) // p.stride
    valid = both(
        equals(yi, (p.kh - 1) % p.stride), equals(xi, (p.kw - 1) % p.stride),
        at_least(yo, first_y), at_least(xo, first_x), below(yo, p.out_h + first_y), below(xo, p.out_w + first_x),
    )  # fmt: skip
    shape = (Loop("r", p.kh), Loop("j", p.kw), over)
    return Window(value, shape, yo - first_y, xo - first_x, group, valid, (*lines, *columns))


def _column(
    nest: NestBuilder, new: Named, p: Picture, sizes: tuple[int, int, int], x: Affine, group: Affine, source: Array
) -> tuple[Named, tuple[Array, ...]]:
    """The pixels above and the new one, [kh, lanes]; the line buffers move up by one."""
    over, s = Loop("s", sizes[2]), var("s")
    if p.kh == 1:
        return nest.let("column", new[s], [Loop("r", 1), over]), ()
    words = sizes[0] * sizes[1]
    memory = "lutram" if words <= _LUTRAM_WORDS else "bram"
    shape, factors = (p.kh - 1, *sizes), (p.kh - 1, 1, 1, sizes[2])
    lines = array("lines", shape, str(source.dtype), memory, factors)
    above = nest.let("above", load(lines, var("r"), x, group, s), [Loop("r", p.kh - 1), over])
    column = nest.stack("column", [*(above[r, s] for r in range(p.kh - 1)), new[s]], [over])
    nest.store(lines, [var("r"), x, group, s], column[var("r") + 1, s], [Loop("r", p.kh - 1), over])
    return column, (lines,)


def _columns(
    nest: NestBuilder, column: Named, p: Picture, sizes: tuple[int, int], group: Affine, source: Array
) -> tuple[Named, tuple[Array, ...]]:
    """The columns to the left and the new one, [kh, kw, lanes]; those kept move left by one."""
    over, r, s = Loop("s", sizes[1]), var("r"), var("s")
    if p.kw == 1:
        return nest.let("window", column[r, s], [Loop("r", p.kh), Loop("j", 1), over]), ()
    shape, factors = (p.kh, p.kw - 1, *sizes), (p.kh, p.kw - 1, 1, sizes[1])
    kept = array("kept", shape, str(source.dtype), "register" if sizes[0] == 1 else "lutram", factors)
    before = nest.let("before", load(kept, r, var("j"), group, s), [Loop("r", p.kh), Loop("j", p.kw - 1), over])
    parts = [*(before[r, j, s] for j in range(p.kw - 1)), column[r, s]]
    window = nest.stack("window", parts, [Loop("r", p.kh), over], axis=1)
    lanes = [Loop("r", p.kh), Loop("j", p.kw - 1), over]
    nest.store(kept, [r, var("j"), group, s], window[r, var("j") + 1, s], lanes)
    return window, (kept,)
