"""Which parts of a kernel meet the image at its borders."""

from __future__ import annotations

from ...shared.conv_shape import ConvShape
from ...shared.index_math import ceil_div, maximum, minimum
from ...shared.tir_loops import Index

# For every kernel column the range of a tile's pixels whose input exists; None where all of them do.
Borders = tuple[tuple[int, int], ...] | None


def border_runs(conv: ConvShape, tile: int) -> list[tuple[int, int, int, Borders]]:
    """The tiles of an output row of static width, in runs: (first pixel, tiles, pixels of a tile, borders)."""
    width, out_w = int(conv.size[1]), int(conv.out_size[1])
    runs: list[tuple[int, int, int, Borders]] = []
    for start in range(0, out_w, tile):
        pixels = min(tile, out_w - start)
        edges = tuple(
            _valid_pixels(start, pixels, conv.stride[1], kw * conv.dilation[1] - conv.pad[1], width)
            for kw in range(conv.kernel[1])
        )
        borders = None if all(e == (0, pixels) for e in edges) else edges
        if runs and runs[-1][2:] == (pixels, borders):
            first, count, _, _ = runs[-1]
            runs[-1] = (first, count + 1, pixels, borders)
        else:
            runs.append((start, 1, pixels, borders))
    return runs


def kernel_range(start: Index, size: Index, kernel: int, dilation: int) -> tuple[Index, Index]:
    """First tap inside the image and their number, for a window starting at `start` of an axis of `size` elements."""
    low = maximum(0, ceil_div(0 - start, dilation))
    high = minimum(kernel, ceil_div(size - start, dilation))
    return low, maximum(0, high - low)


def _valid_pixels(start: int, pixels: int, stride: int, shift: int, width: int) -> tuple[int, int]:
    """The range of p in [0, pixels) with 0 <= (start + p) * stride + shift < width."""
    low = max(0, -((start * stride + shift) // stride))
    high = min(pixels, -(-(width - shift) // stride) - start)
    return (low, high) if low < high else (0, 0)
