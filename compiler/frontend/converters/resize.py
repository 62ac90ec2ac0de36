"""Resize and Upsample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import ir, relax, te, tirx

from ..dtypes import is_float
from ..ratio import Ratio
from ..values import Dim, constant
from .padding import all_fixed, tidy
from .registry import converter
from .resize_at_run import antialiased, fitted_to_data, resized_to_data, scaled_by_data
from .resize_taps import COORDINATES, NEAREST, AxisGeometry, NumpyArithmetic, Sampling, Taps, TirArithmetic, axis_taps

if TYPE_CHECKING:
    from ..node import Node

# A tensor expression with more taps than this for each output element is split into one pass for each axis.
_MOST_TAPS = 8
_BY_SIZES = ("align_corners", "tf_crop_and_resize")
_POLICIES = ("stretch", "not_larger", "not_smaller")


@converter("Upsample", since=7)
def upsample(node: Node) -> relax.Expr:
    """Scales from the attribute (opset 7) or input 1 (opset 9), asymmetric coordinates."""
    scales = node.attr("scales")
    return _resize_by_scales(node, _old_sampling(node), scales) if scales else _resize_by_input(node)


@converter("Resize", since=10)
def resize_10(node: Node) -> relax.Expr:
    return _resize_by_input(node)


def _resize_by_input(node: Node) -> relax.Expr:
    """Scales in input 1, known or not."""
    if node.is_data(1):
        geometry = scaled_by_data(node, list(range(node.rank(0))), by_sizes=False, index=1)
        return _resize(node, _old_sampling(node), geometry)
    return _resize_by_scales(node, _old_sampling(node), _scales(node, 1))


def _old_sampling(node: Node) -> Sampling:
    return _checked(node, Sampling(_mode(node), "asymmetric", "simple"))


@converter("Resize", since=11)
def resize(node: Node) -> relax.Expr:
    sampling = Sampling(
        mode=_mode(node),
        coordinates=node.attr("coordinate_transformation_mode", "half_pixel"),
        nearest=node.attr("nearest_mode", "round_prefer_floor"),
        cubic_a=node.attr("cubic_coeff_a", -0.75),
        exclude_outside=bool(node.attr("exclude_outside", 0)) and _mode(node) == "cubic",
        antialias=bool(node.attr("antialias", 0)) and _mode(node) != "nearest",
        extrapolation=node.attr("extrapolation_value", 0.0),
    )
    _checked(node, sampling)
    shape = node.shape(0)
    axes = [node.axis(a, len(shape)) for a in node.attr("axes") or range(len(shape))]
    roi = _roi(node, axes) if sampling.crops and not node.is_data(1) else None
    if node.has(3) and node.shape(3) != [0]:
        geometry = _geometry_by_sizes(node, axes)
    elif node.has(2) and node.shape(2) != [0]:
        if node.is_data(2):
            geometry = scaled_by_data(node, axes, by_sizes=sampling.coordinates in _BY_SIZES)
        else:
            geometry = _geometry_by_scales(node, axes, _scales(node, 2))
    else:
        raise node.error("one of the inputs 'scales' and 'sizes' is required")
    if roi:
        geometry = {a: replace(g, roi=r) for (a, g), r in zip(geometry.items(), roi, strict=True)}
    regions = _regions_of_run(node, axes) if sampling.crops and node.is_data(1) else None
    return _resize(node, sampling, geometry, regions)


def _regions_of_run(node: Node, axes: list[int]) -> relax.Expr:
    """The starts and then the ends of a crop that is data, of float32."""
    if node.shape(1) != [2 * len(axes)]:
        raise node.error(f"tf_crop_and_resize needs a 'roi' of {2 * len(axes)} elements, found {node.shape(1)}")
    roi = node.inputs[1]
    return roi if node.dtype(1) == "float32" else node.emit(relax.op.astype(roi, "float32"))


def _mode(node: Node) -> str:
    mode = node.attr("mode", "nearest")
    return {"bilinear": "linear"}.get(mode, mode)


def _checked(node: Node, sampling: Sampling) -> Sampling:
    for attribute, value, allowed in (
        ("mode", sampling.mode, ("nearest", "linear", "cubic")),
        ("coordinate_transformation_mode", sampling.coordinates, COORDINATES),
        ("nearest_mode", sampling.nearest, NEAREST),
    ):
        if value not in allowed:
            raise node.error(f"attribute {attribute!r} must be one of {', '.join(allowed)}, found {value!r}")
    return sampling


def _scales(node: Node, index: int) -> list[float | Ratio]:
    """The elements of a scales input: floats, or ratios of symbolic sizes."""
    value = node.value(index)
    if value.array is not None:
        return [float(s) for s in value.array.reshape(-1)]
    if value.elements is not None:
        return [Ratio.of(e) for e in value.elements.reshape(-1)]
    raise node.error(
        "the scales must be known when the model is compiled, found a tensor computed at run time",
        "make the scales an initializer, or give their value when compiling",
    )


def _roi(node: Node, axes: list[int]) -> list[tuple[float, float]]:
    roi = node.const(1)
    if roi is None or roi.size != 2 * len(axes):
        raise node.error(f"tf_crop_and_resize needs a constant 'roi' of {2 * len(axes)} elements")
    starts, ends = roi.astype(np.float64).reshape(2, -1)
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _resize_by_scales(node: Node, sampling: Sampling, scales: Sequence[float | Ratio]) -> relax.Expr:
    return _resize(node, sampling, _geometry_by_scales(node, list(range(node.rank(0))), scales))


def _geometry_by_scales(node: Node, axes: list[int], scales: Sequence[float | Ratio]) -> dict[int, AxisGeometry]:
    shape = node.shape(0)
    if len(scales) != len(axes):
        raise node.error(f"the scales need {len(axes)} elements, found {len(scales)}")
    geometry = {}
    for axis, scale in zip(axes, scales, strict=True):
        if isinstance(scale, float) and not scale > 0:
            raise node.error(f"scales must be positive, found {scale}")
        geometry[axis] = _scaled_axis(shape[axis], scale)
    return geometry


def _scaled_axis(size: Dim, scale: float | Ratio) -> AxisGeometry:
    """The output extent is floor(size * scale)."""
    if isinstance(scale, Ratio):
        return AxisGeometry(size, tidy(size * scale.num // scale.den), (scale.num, scale.den))
    if isinstance(size, int):
        return AxisGeometry(size, int(np.floor(np.float32(size) * np.float32(scale))), scale)
    # The float nearest to a small ratio stands for it: float32 rounds 10 * 0.7 to 7, though 0.7 is a little less.
    exact = Fraction(scale)
    ratio = exact.limit_denominator(1000)
    if abs(ratio - exact) > exact * Fraction(1, 2**23):
        ratio = exact
    return AxisGeometry(size, tidy(size * ratio.numerator // ratio.denominator), scale)


def _geometry_by_sizes(node: Node, axes: list[int]) -> dict[int, AxisGeometry]:
    shape = node.shape(0)
    policy = node.attr("keep_aspect_ratio_policy", "stretch")
    if policy not in _POLICIES:
        raise node.error(
            f"attribute 'keep_aspect_ratio_policy' must be one of {', '.join(_POLICIES)}, found {policy!r}"
        )
    sizes = node.dims(3)
    if sizes is None:
        return resized_to_data(node, axes) if policy == "stretch" else fitted_to_data(node, axes, policy)
    if len(sizes) != len(axes):
        raise node.error(f"the sizes need {len(axes)} elements, found {len(sizes)}")
    if policy == "stretch":
        return {a: _sized_axis(shape[a], s) for a, s in zip(axes, sizes, strict=True)}
    extents = [shape[a] for a in axes]
    if not all_fixed([*extents, *sizes]):
        raise node.error(f"keep_aspect_ratio_policy {policy!r} needs fixed sizes, found {extents} and {sizes}")
    ratios = [np.float32(s) / np.float32(e) for s, e in zip(sizes, extents, strict=True)]
    scale = float(min(ratios) if policy == "not_larger" else max(ratios))
    return {
        a: AxisGeometry(e, max(1, int(np.floor(np.float32(scale) * np.float32(e) + np.float32(0.5)))), scale)
        for a, e in zip(axes, extents, strict=True)
    }


def _sized_axis(size: Dim, out: Dim) -> AxisGeometry:
    out = tidy(out)
    if all_fixed((size, out)):
        return AxisGeometry(size, out, float(np.float32(out) / np.float32(size)) if size else 1.0)
    return AxisGeometry(size, out, (out, size))


def _ratio(axis: AxisGeometry) -> Dim:
    """out / size where that is a whole number or a simplified expression; 0 where it is not."""
    if all_fixed((axis.size, axis.out)):
        return axis.out // axis.size if axis.size and axis.out % axis.size == 0 else 0
    if isinstance(axis.scale, float):
        return int(axis.scale) if axis.scale == int(axis.scale) else 0
    for factor in (1, 2, 3, 4, 8):
        if tidy(axis.out - axis.size * factor) == 0:
            return factor
    return 0


def _is_identity(sampling: Sampling, axis: AxisGeometry) -> bool:
    return not sampling.crops and sampling.coordinates != "tf_half_pixel_for_nn" and _ratio(axis) == 1 == _factor(axis)


def _factor(axis: AxisGeometry) -> float:
    """The scale as a number; `_ratio` where it is symbolic."""
    return axis.scale if isinstance(axis.scale, float) else float(_ratio(axis))


def _resize(
    node: Node, sampling: Sampling, geometry: dict[int, AxisGeometry], regions: relax.Expr | None = None
) -> relax.Expr:
    """Identity axes are dropped; what Relax's resize2d computes exactly goes there, the rest into own expressions.

    `regions`: the crop of all axes, where it is data.
    """
    x = node.inputs[0]
    if regions is not None:
        return _sample(node, x, sampling, geometry, regions)
    geometry = {a: g for a, g in geometry.items() if not _is_identity(sampling, g)}
    if not geometry:
        return x
    repeats = {a: _ratio(g) for a, g in geometry.items()}
    repeated = _repeats_elements(sampling, geometry, repeats)
    if node.rank(0) == 4 and set(geometry) <= {2, 3} and node.dtype(0) == "float32":
        in_relax = _relax_attributes(sampling, geometry, repeated)
        if in_relax is not None:
            sizes = [geometry[a].out if a in geometry else node.shape(0)[a] for a in (2, 3)]
            return node.emit(relax.op.image.resize2d(x, tuple(sizes), layout="NCHW", **in_relax))
    if repeated:
        return _repeat(node, x, repeats)
    if math.prod(_tap_count(sampling, g) for g in geometry.values()) <= _MOST_TAPS:
        return _sample(node, x, sampling, geometry)
    for axis, one in geometry.items():
        if sampling.antialias and not all_fixed((one.size, one.out)):
            x = antialiased(node, x, sampling, axis, one)
        else:
            x = _sample(node, x, sampling, {axis: one})
    return x


def _repeats_elements(sampling: Sampling, geometry: dict[int, AxisGeometry], repeats: dict[int, Dim]) -> bool:
    """Whether each input element appears `repeats` times in a row: nearest sampling with whole scales."""
    if sampling.mode != "nearest" or any(r == 0 or r != _factor(geometry[a]) for a, r in repeats.items()):
        return False
    centred = sampling.coordinates in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")
    floors = sampling.coordinates == "asymmetric" and sampling.nearest in ("floor", "simple")
    if sampling.coordinates == "pytorch_half_pixel" and any(g.out == 1 for g in geometry.values()):
        return False
    return floors or (centred and sampling.nearest.startswith("round"))


def _relax_attributes(sampling: Sampling, geometry: dict[int, AxisGeometry], repeated: bool) -> dict[str, str] | None:
    """Attributes of image.resize2d where its result is ONNX's, else None."""
    if repeated:
        # Exact for fixed sizes; for symbolic ones it multiplies by 1 / scale, exact for powers of two.
        if all_fixed([g.size for g in geometry.values()]) or all(_ratio(g) in (1, 2, 4, 8) for g in geometry.values()):
            return {
                "method": "nearest_neighbor",
                "coordinate_transformation_mode": "asymmetric",
                "rounding_method": "floor",
            }
        return None
    if sampling.mode != "linear" or sampling.antialias:
        return None
    # resize2d cannot be lowered with asymmetric coordinates of symbolic sizes.
    fixed = all_fixed([d for g in geometry.values() for d in (g.size, g.out)])
    if sampling.coordinates != "half_pixel" and not (fixed and sampling.coordinates == "asymmetric"):
        return None
    for g in geometry.values():
        # resize2d takes the scale out / size; a scale whose product with the size was rounded down is another one.
        if isinstance(g.scale, tuple):
            if tidy(g.scale[0] * g.size - g.out * g.scale[1]) != 0:
                return None
        elif all_fixed((g.size, g.out)):
            if np.float32(g.scale) != np.float32(g.out) / np.float32(max(g.size, 1)):
                return None
        elif _ratio(g) == 0:
            return None
    return {"method": "linear", "coordinate_transformation_mode": sampling.coordinates}


def _repeat(node: Node, x: relax.Expr, repeats: dict[int, Dim]) -> relax.Expr:
    def compute(x: te.Tensor) -> te.Tensor:
        shape = [d * repeats.get(i, 1) for i, d in enumerate(x.shape)]
        return te.compute(
            shape, lambda *at: x(*[a // repeats[i] if i in repeats else a for i, a in enumerate(at)]), name="resize"
        )

    return node.te(compute, x, name="resize_nearest")


def _tap_count(sampling: Sampling, axis: AxisGeometry) -> int:
    return _MOST_TAPS if sampling.antialias else {"nearest": 1, "linear": 2, "cubic": 4}[sampling.mode]


def _sample(
    node: Node,
    x: relax.Expr,
    sampling: Sampling,
    geometry: dict[int, AxisGeometry],
    regions: relax.Expr | None = None,
) -> relax.Expr:
    """One tensor expression that samples all axes of `geometry`; others are kept."""
    if sampling.antialias and regions is not None:
        raise node.error("antialias with a region that is data is not supported")
    fixed = regions is None and all_fixed([d for g in geometry.values() for d in (g.size, g.out)])
    dtype = str(x.ty.dtype)
    work = dtype if sampling.mode == "nearest" or dtype == "float64" else "float32"
    tables: list[relax.Expr] = []
    symbols: list[Any] = []
    for g in geometry.values():
        if fixed:
            tables += _constant_tables(axis_taps(NumpyArithmetic, sampling, g, np.arange(g.out)), g.out)
        else:
            symbols.append((g.size, g.out, g.scale if isinstance(g.scale, tuple) else 0))
    tables += [] if regions is None else [regions]
    crops, weighted = sampling.crops, sampling.mode != "nearest"
    per_axis = 1 + weighted + crops

    def compute(x: te.Tensor, tables: list[te.Tensor], symbols: list) -> te.Tensor:
        outs = {a: g.out for a, g in geometry.items()}
        if not fixed:
            outs = {a: s[1] for a, s in zip(geometry, symbols, strict=True)}
        shape = [outs.get(i, d) for i, d in enumerate(x.shape)]

        def taps(i: int, axis: int, at: tirx.Var) -> Taps:
            if not fixed:
                size, out, scale = symbols[i]
                known = geometry[axis]
                roi = known.roi if regions is None else (tables[-1](i), tables[-1](i + len(geometry)))
                scale = scale if isinstance(known.scale, tuple) else known.scale
                return axis_taps(TirArithmetic, sampling, AxisGeometry(size, out, scale, roi), at)
            own = tables[i * per_axis : (i + 1) * per_axis]
            count = int(own[0].shape[0])
            return Taps(
                [own[0](t, at) for t in range(count)],
                [own[1](t, at) for t in range(count)] if weighted else None,
                own[-1](at) != 0 if crops else None,
            )

        def element(*at: tirx.Var) -> ir.Expr:
            return _weighted_sum(x, list(at), [(a, taps(i, a, at[a])) for i, a in enumerate(geometry)], work, sampling)

        return te.compute(shape, element, name="resize")

    return node.te(compute, x, tables, symbols, name=f"resize_{sampling.mode}")


def _constant_tables(taps: Taps, out: int) -> list[relax.Expr]:
    """(taps, out) int64 positions; (taps, out) float32 weights unless nearest; (out,) int32 inside when cropping."""
    tables = [np.stack(taps.index)]
    if taps.weight is not None:
        tables.append(np.stack([np.broadcast_to(w, (out,)) for w in taps.weight]).astype(np.float32))
    if taps.inside is not None:
        tables.append(np.broadcast_to(taps.inside, (out,)).astype(np.int32))
    return [constant(np.ascontiguousarray(t)) for t in tables]


def _weighted_sum(x: te.Tensor, at: list, taps: list[tuple[int, Taps]], work: str, sampling: Sampling) -> ir.Expr:
    """The sum over all taps of the product of their weights and x, last axis fastest; cast to x's dtype."""

    terms = []
    for choice in itertools.product(*[range(len(own.index)) for _, own in taps]):
        source, weight = list(at), None
        for (axis, own), t in reversed(list(zip(taps, choice, strict=True))):
            source[axis] = own.index[t]
            if own.weight is not None:
                weight = own.weight[t] if weight is None else weight * own.weight[t]
        value = x(*source).astype(work)
        terms.append(value if weight is None else weight.astype(work) * value)
    value, dtype = sum(terms[1:], terms[0]), str(x.dtype)
    if dtype != work:
        value = value.astype(dtype)
    if sampling.crops:
        outside = tirx.const(sampling.extrapolation if is_float(dtype) else int(sampling.extrapolation), dtype)
        value = tirx.Select(tirx.all(*[own.inside for _, own in taps]), value, outside)
    return value
