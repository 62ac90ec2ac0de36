"""GridSample and RoiAlign: reading a feature map at coordinates that are themselves data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tvm import ir, relax, te, tirx

from ..dtypes import is_float
from ..symbols import as_expr
from .data_movement import index_at
from .registry import converter
from .runtime_checks import with_sizes

if TYPE_CHECKING:
    from ..node import Node

_GRID_MODES = {"bilinear": "linear", "bicubic": "cubic"}
_CUBIC_A = -0.75


def _real(value: float, like: ir.Expr) -> ir.Expr:
    return tirx.const(value, str(like.ty.dtype))


@converter("GridSample", since=16)
def grid_sample(node: Node) -> relax.Expr:
    """Sample (N, C, spatial...) at grid (N, out spatial..., rank) of coordinates in [-1, 1], the last axis first."""
    rank = node.rank(0) - 2
    mode = node.attr("mode", "linear")
    mode, padding = _GRID_MODES.get(mode, mode), node.attr("padding_mode", "zeros")
    if mode not in _TAPS or padding not in ("zeros", "border", "reflection"):
        raise node.error(f"mode {mode!r} with padding_mode {padding!r} is not known")
    if rank < 1 or node.rank(1) != rank + 2 or node.shape(1)[-1] != rank:
        raise node.error(f"the grid needs a last dimension of {rank}, found shape {node.shape(1)}")
    if not is_float(node.dtype(0)):
        raise node.error(f"the input needs floating-point elements, found {node.dtype(0)}")
    align = bool(node.attr("align_corners", 0))

    def compute(x: te.Tensor, grid: te.Tensor) -> te.Tensor:
        sizes, dtype = list(x.shape[2:]), str(x.dtype)
        bounds = [_bounds(size.astype(dtype), align) for size in sizes]

        def place(i: int) -> te.Tensor:
            """Coordinate `i` of each output point, in pixels: a stage of its own, because each tap reads it."""

            def coordinate(n: tirx.Var, *at: tirx.Var) -> ir.Expr:
                pixel = _denormalized(grid(n, *at, rank - 1 - i).astype(dtype), sizes[i].astype(dtype), align)
                pixel = tirx.nearbyint(pixel) if mode == "nearest" else pixel
                return _reflected(pixel, bounds[i]) if padding == "reflection" else pixel

            return te.compute(grid.shape[:-1], coordinate, name=f"place{i}")

        places = [place(i) for i in range(rank)]

        def value(n: tirx.Var, c: tirx.Var, *at: tirx.Var) -> ir.Expr:
            axes = [axis_taps(mode, places[i](n, *at), sizes[i], bounds[i], padding) for i in range(rank)]
            terms = []
            for choice in itertools.product(*axes):
                inside = tirx.all(*[tap[2] for tap in choice])
                element = tirx.if_then_else(inside, x(n, c, *[tap[0] for tap in choice]), tirx.const(0, dtype))
                for tap in choice:
                    element = element * tap[1]
                terms.append(element)
            return sum(terms[1:], terms[0])

        return te.compute((x.shape[0], x.shape[1], *grid.shape[1:-1]), value, name="grid_sample")

    grid = with_sizes(node, 1, {0: node.shape(0)[0]}, "grids")
    return node.te(compute, node.inputs[0], grid, name="grid_sample")


Bounds = tuple[ir.Expr, ir.Expr]


def _denormalized(g: ir.Expr, size: ir.Expr, align: bool) -> ir.Expr:
    """From [-1, 1], which spans the pixels' centres (align) or their outer edges, to pixels."""
    one, two = _real(1, g), _real(2, g)
    return (g + one) / two * (size - one) if align else ((g + one) * size - one) / two


def _bounds(size: ir.Expr, align: bool) -> Bounds:
    half, one = _real(0.5, size), _real(1, size)
    return (_real(0, size), size - one) if align else (-half, size - half)


def _reflected(place: ir.Expr, bounds: Bounds) -> ir.Expr:
    """Reflect at the bounds until inside: a triangle wave of twice their distance."""
    low, high = bounds
    span = tirx.max(high - low, _real(1e-6, place))
    beyond = tirx.max(low - place, place - high)
    turns = tirx.floor(beyond / span)
    rest = beyond - turns * span
    odd = turns - tirx.floor(turns / _real(2, place)) * _real(2, place) != _real(0, place)
    from_low, from_high = low + rest, high - rest
    below = tirx.Select(odd, from_high, from_low)
    above = tirx.Select(odd, from_low, from_high)
    return tirx.Select(place < low, below, tirx.Select(place > high, above, place))


Tap = tuple[ir.Expr, ir.Expr, ir.Expr]


def axis_taps(mode: str, place: ir.Expr, size: ir.Expr, bounds: Bounds, padding: str) -> list[Tap]:
    """(index, weight, is inside) of each element that is read along one axis."""
    low = tirx.floor(place)
    first, weights = _TAPS[mode](place - low)
    taps = []
    for t, weight in enumerate(weights):
        position = low + _real(first + t, low)
        if padding == "reflection":
            position = _reflected(position, bounds)
        index = position.astype("int64")
        if padding == "zeros":
            taps.append((index, weight, tirx.all(index >= 0, index < size)))
        else:
            clamped = tirx.min(tirx.max(index, tirx.const(0, "int64")), size - 1)
            taps.append((clamped, weight, tirx.const(True, "bool")))
    return taps


def _cubic(s: ir.Expr) -> tuple[int, Sequence[ir.Expr]]:
    a, one = _real(_CUBIC_A, s), _real(1, s)

    def near(d: ir.Expr) -> ir.Expr:
        return ((a + _real(2, s)) * d - (a + _real(3, s))) * d * d + one

    def far(d: ir.Expr) -> ir.Expr:
        return ((a * d - _real(5, s) * a) * d + _real(8, s) * a) * d - _real(4, s) * a

    return -1, [far(s + one), near(s), near(one - s), far(_real(2, s) - s)]


# mode -> (first tap relative to the floor, weights) as a function of the distance from the floor.
_TAPS: dict[str, Callable[[ir.Expr], tuple[int, Sequence[ir.Expr]]]] = {
    "nearest": lambda s: (0, [_real(1, s)]),
    "linear": lambda s: (0, [_real(1, s) - s, s]),
    "cubic": _cubic,
}


@converter("RoiAlign", since=16)
def roi_align(node: Node) -> relax.Expr:
    return _roi_align(node, node.attr("coordinate_transformation_mode", "half_pixel"))


@converter("RoiAlign", since=10)
def roi_align_10(node: Node) -> relax.Expr:
    return _roi_align(node, "output_half_pixel")


def _roi_align(node: Node, coordinates: str) -> relax.Expr:
    """Average (or greatest weighted tap) of bilinear samples on a grid inside each bin of each region."""
    mode, ratio = node.attr("mode", "avg"), node.attr("sampling_ratio", 0)
    if mode not in ("avg", "max") or coordinates not in ("half_pixel", "output_half_pixel"):
        raise node.error(f"mode {mode!r} with coordinate_transformation_mode {coordinates!r} is not known")
    bins = (node.attr("output_height", 1), node.attr("output_width", 1))
    scale = node.attr("spatial_scale", 1.0)

    def compute(x: te.Tensor, rois: te.Tensor, batch: te.Tensor) -> te.Tensor:
        dtype = str(x.dtype)

        def extent(r: tirx.Var, axis: int) -> Bounds:
            """Start and length of region `r` along spatial axis 0 (height) or 1 (width), in pixels."""
            offset = tirx.const(0.5 if coordinates == "half_pixel" else 0.0, dtype)
            start, end = (rois(r, i).astype(dtype) * tirx.const(scale, dtype) - offset for i in (1 - axis, 3 - axis))
            length = end - start
            return start, length if coordinates == "half_pixel" else tirx.max(length, tirx.const(1, dtype))

        def samples(r: tirx.Var, axis: int) -> ir.Expr:
            if ratio > 0:
                return tirx.const(ratio, "int32")
            per_bin = tirx.ceil(extent(r, axis)[1] / tirx.const(bins[axis], dtype)).astype("int32")
            # An empty region still has one, masked, sample: a reduction over nothing would leave the output unwritten.
            return tirx.max(per_bin, tirx.const(1, "int32"))

        def value(r: tirx.Var, c: tirx.Var, *at: tirx.Var) -> ir.Expr:
            counts = [samples(r, axis) for axis in (0, 1)]
            grid = [te.reduce_axis((0, count), name=f"s{i}") for i, count in enumerate(counts)]
            taps, valid = [], []
            for axis in (0, 1):
                start, length = extent(r, axis)
                step = length / tirx.const(bins[axis], dtype)
                fraction = (grid[axis].astype(dtype) + tirx.const(0.5, dtype)) * step / counts[axis].astype(dtype)
                own, inside = _roi_taps(start + at[axis].astype(dtype) * step + fraction, x.shape[2 + axis])
                taps.append(own)
                valid += [inside] if ratio > 0 else [inside, length > tirx.const(0, dtype)]
            weighted = [
                wy * wx * x(index_at(batch(r), x.shape[0]), c, y, x_) for y, wy in taps[0] for x_, wx in taps[1]
            ]
            zero = tirx.const(0, dtype)
            if mode == "max":
                best = weighted[0]
                for term in weighted[1:]:
                    best = tirx.max(best, term)
                return te.max(tirx.if_then_else(tirx.all(*valid), best, zero), axis=grid)
            count = (counts[0] * counts[1]).astype(dtype)
            return te.sum(tirx.if_then_else(tirx.all(*valid), sum(weighted, zero) / count, zero), axis=grid)

        return te.compute((rois.shape[0], x.shape[1], *bins), value, name="roi_align")

    batch = with_sizes(node, 2, {0: node.shape(1)[0]}, "regions")
    return node.te(compute, node.inputs[0], node.inputs[1], batch, name="roi_align")


def _roi_taps(place: ir.Expr, size: ir.Expr) -> tuple[list[Bounds], ir.Expr]:
    """Two (index, weight) pairs along one axis, and whether the coordinate lies within one pixel of the image."""
    extent = size.astype(str(place.ty.dtype))
    inside = tirx.all(place >= _real(-1, place), place <= extent)
    place = tirx.min(tirx.max(place, _real(0, place)), extent - _real(1, place))
    low = tirx.floor(place)
    index = low.astype("int64")
    rest = place - low
    return [(index, _real(1, place) - rest), (tirx.min(index + 1, size - 1), rest)], inside


@converter("MaxRoiPool")
def max_roi_pool(node: Node) -> relax.Expr:
    """The maximum of each bin of each region (batch, x1, y1, x2, y2); 0 in an empty bin."""
    bins = tuple(node.required("pooled_shape"))
    if len(bins) != 2 or min(bins) < 1:
        raise node.error(f"attribute 'pooled_shape' needs 2 positive values, found {list(bins)}")
    scale, images = node.attr("spatial_scale", 1.0), as_expr(node.shape(0)[0])

    def clamp_image(rois: te.Tensor, images: ir.Expr) -> te.Tensor:
        def element(r: tirx.Var, i: tirx.Var) -> ir.Expr:
            image = index_at(rois(r, i), images).astype(rois.dtype)
            return tirx.Select(i < 1, image, rois(r, i))

        return te.compute(rois.shape, element, name="regions")

    rois = node.te(clamp_image, node.inputs[1], images, name="regions")
    return node.emit(relax.op.vision.roi_pool(node.inputs[0], rois, bins, scale, "NCHW"))
