"""Images read at places that are data: GridSample and CropAndResize of ONNX Runtime's domain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm import ir, te, tirx

from ...values import Value
from ..data_movement import index_at
from ..schemas import typed_converter
from .operands import one_of, sized

if TYPE_CHECKING:
    from ...node import Node

_MODES = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}


@typed_converter(
    "GridSample",
    "X:T Grid:T",
    attributes="align_corners:int mode:string padding_mode:string",
    T="float16 float32 float64",
)
def grid_sample(node: Node) -> Value:
    """ONNX's own, of images, with its older names of modes."""
    mode = _MODES[one_of(node, "mode", tuple(_MODES), "bilinear")]
    padding = one_of(node, "padding_mode", ("zeros", "border", "reflection"), "zeros")
    x, grid = sized(node, 0, None, None, None, None), sized(node, 1, node.shape(0)[0], None, None, 2)
    return node.call(
        "GridSample", x, grid, mode=mode, padding_mode=padding, align_corners=node.attr("align_corners", 0)
    )


@typed_converter(
    "CropAndResize",
    "X:T rois:T batch_indices:int32 crop_size:int32",
    attributes="mode:string extrapolation_value:float",
    T="float16 float32 float64",
)
def crop_and_resize(node: Node) -> Value:
    """Regions (y1, x1, y2, x2), of which 0 and 1 are the first and last pixel, each read at crop_size points."""
    linear = one_of(node, "mode", ("bilinear", "nearest"), "bilinear") == "bilinear"
    outside = node.attr("extrapolation_value", 0.0)
    crop = node.dims(3)
    if crop is None or len(crop) != 2 or not all(isinstance(c, int) and c > 0 for c in crop):
        raise node.error(f"input 'crop_size' must be two positive sizes known at compile time, found {crop}")

    def compute(x: te.Tensor, rois: te.Tensor, batch: te.Tensor) -> te.Tensor:
        def place(r: tirx.Var, at: tirx.Var, axis: int) -> ir.Expr:
            """The point `at` of region `r` on axis 0 (rows) or 1 (columns), in pixels."""
            low, high = (rois(r, i).astype(x.dtype) for i in (axis, 2 + axis))
            last = (x.shape[2 + axis] - 1).astype(x.dtype)
            if crop[axis] == 1:
                return (low + high) * tirx.const(0.5, x.dtype) * last
            return low * last + at.astype(x.dtype) * ((high - low) * last / tirx.const(crop[axis] - 1, x.dtype))

        def element(r: tirx.Var, c: tirx.Var, *at: tirx.Var) -> ir.Expr:
            points = [place(r, at[axis], axis) for axis in (0, 1)]
            lasts = [x.shape[2 + axis] - 1 for axis in (0, 1)]
            inside = [
                tirx.all(p >= tirx.const(0, x.dtype), p <= last.astype(x.dtype))
                for p, last in zip(points, lasts, strict=True)
            ]
            taps = [_taps(p, last, linear) for p, last in zip(points, lasts, strict=True)]
            image = index_at(batch(r), x.shape[0])
            terms = [x(image, c, i, j) * wi * wj for i, wi in taps[0] for j, wj in taps[1]]
            return tirx.Select(tirx.all(*inside), sum(terms[1:], terms[0]), tirx.const(outside, x.dtype))

        return te.compute((rois.shape[0], x.shape[1], *crop), element, name="crops")

    x, rois = sized(node, 0, None, None, None, None), sized(node, 1, None, 4)
    batch = sized(node, 2, node.shape(1)[0])
    return Value(expr=node.te(compute, *(v.expr(node.bb) for v in (x, rois, batch)), name="crop_and_resize"))


def _taps(place: ir.Expr, last: ir.Expr, linear: bool) -> list[tuple[ir.Expr, ir.Expr]]:
    """Pixels along one axis, 0 to `last`, and their weights at a place."""
    dtype = str(place.ty.dtype)

    def pixel(p: ir.Expr) -> ir.Expr:
        return tirx.max(tirx.min(p.astype("int64"), last), tirx.const(0, "int64"))

    if not linear:
        return [(pixel(tirx.round(place)), tirx.const(1, dtype))]
    low = tirx.floor(place)
    rest = place - low
    return [(pixel(low), tirx.const(1, dtype) - rest), (pixel(tirx.ceil(place)), rest)]
