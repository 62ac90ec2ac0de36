"""A private copy of a work item's input window, zeros in place of padding."""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm import tirx
from tvm.tirx import Stmt

from ...shared.conv_shape import ConvShape
from ...shared.index_math import maximum, minimum, ranged, when
from ...shared.tir_loops import Index, i64, local, seq, store


@dataclass(frozen=True)
class Stage:
    """The input of `rows` x `cols` output pixels of one group: an array [input rows][input columns][pitch].

    `pitch` >= channels of a group; a little more than them avoids that neighbouring pixels meet in the same cache sets.
    `flip` are bits that are inverted in each number (of integers), the zeros of padding included.
    """

    conv: ConvShape
    rows: int
    cols: int
    pitch: int
    dtype: str = "float32"
    flip: int = 0
    buffer: tirx.Buffer = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "buffer", local(self.size, self.dtype, "stage"))

    @property
    def extent(self) -> tuple[int, int]:
        """Input rows and columns held."""
        conv = self.conv
        return tuple(
            (n - 1) * conv.stride[a] + (conv.kernel[a] - 1) * conv.dilation[a] + 1
            for a, n in enumerate((self.rows, self.cols))
        )

    @property
    def row_pitch(self) -> int:
        """Elements from one row to the next."""
        return self.extent[1] * self.pitch

    @property
    def size(self) -> int:
        """Elements in all."""
        return self.extent[0] * self.row_pitch

    def fill(
        self, data: tirx.Buffer, offset: Index, size: tuple[Index, Index], first: tuple[Index, Index], out_rows: Index
    ) -> Stmt:
        """Copy the window from image position `first`, which may lie outside, of the image at `data[offset:]`.

        `size` is the image's (height, width); `out_rows` how many output rows are wanted, at most `rows`.
        """
        conv = self.conv
        channels, pixel = conv.group_in, conv.channels
        rows = (out_rows - 1) * conv.stride[0] + (conv.kernel[0] - 1) * conv.dilation[0] + 1
        cols = self.extent[1]
        zero = tirx.const(self.flip, self.dtype)

        def value(at: Index) -> tirx.Expr:
            found = tirx.BufferLoad(data, [at])
            return found ^ tirx.const(self.flip, self.dtype) if self.flip else found

        left = minimum(cols, maximum(0, 0 - first[1]))
        right = maximum(left, minimum(cols, size[1] - first[1]))

        def clear(at: Index, begin: Index, end: Index) -> Stmt | None:
            if isinstance(begin, int) and isinstance(end, int) and begin >= end:
                return None
            return ranged(
                "z", 0, (end - begin) * self.pitch, lambda i: store(self.buffer, [at + begin * self.pitch + i], zero)
            )

        def copy(at: Index, source: Index) -> Stmt:
            if self.pitch == channels == pixel:
                start = left * pixel
                body = lambda i: store(self.buffer, [at + start + i], value(source + start + i))  # noqa: E731
                return ranged("i", 0, (right - left) * pixel, body)

            def one(x: Index) -> Stmt:
                to, come = at + x * self.pitch, source + x * pixel
                return ranged("c", 0, channels, lambda c: store(self.buffer, [to + c], value(come + c)))

            return ranged("x", left, right - left, one)

        def row(r: Index) -> Stmt:
            at = r * self.row_pitch
            source = offset + ((first[0] + r) * size[1] + first[1]) * pixel
            inside = seq(clear(at, 0, left), copy(at, source), clear(at, right, cols))
            if not conv.padded[0]:
                return inside
            at_row = i64(first[0] + r)
            return when(tirx.all(at_row >= 0, at_row < size[0]), inside, clear(at, 0, cols))

        return ranged("r", 0, rows, row)
