"""Resize and Upsample against ONNX Runtime."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kompilo.compiler.errors import ModelError

from op_test import check_op, floats, i64, ints

BOTH = pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


def f32(*values):
    return np.array(values, np.float32)


def resize(x, *, scales=None, sizes=None, roi=None, opset=19, dynamic=False, reference="ort", atol=1e-5, **attrs):
    inputs = [x, roi, None if scales is None else f32(*scales), None if sizes is None else i64(*sizes)]
    while inputs[-1] is None:
        inputs.pop()
    const = [i for i in range(1, len(inputs)) if inputs[i] is not None]
    open_inputs = [0] if dynamic else False
    return check_op(
        "Resize", inputs, attrs, opset=opset, const=const, dynamic=open_inputs, reference=reference, atol=atol
    )


@BOTH
@pytest.mark.parametrize("nearest", NEAREST)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_nearest_scales(coordinates, nearest, dynamic):
    attrs = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    resize(floats(1, 2, 4, 5), scales=(1, 1, 2, 3), dynamic=dynamic, **attrs)
    resize(floats(1, 2, 6, 7), scales=(1, 1, 0.5, 1.5), dynamic=dynamic, **attrs)


@pytest.mark.parametrize("nearest", NEAREST)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_nearest_sizes(coordinates, nearest):
    attrs = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    resize(floats(1, 2, 4, 5), sizes=(1, 2, 7, 3), **attrs)


@BOTH
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_linear(coordinates, dynamic):
    attrs = {"mode": "linear", "coordinate_transformation_mode": coordinates}
    resize(floats(1, 2, 4, 5), scales=(1, 1, 2, 3), dynamic=dynamic, **attrs)
    resize(floats(1, 2, 6, 7), scales=(1, 1, 0.6, 1.7), dynamic=dynamic, **attrs)
    resize(floats(1, 2, 6, 7), sizes=(1, 2, 9, 4), **attrs)


@BOTH
@pytest.mark.parametrize("exclude_outside", [0, 1])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_cubic(coordinates, exclude_outside, dynamic):
    attrs = {"mode": "cubic", "coordinate_transformation_mode": coordinates, "exclude_outside": exclude_outside}
    resize(floats(1, 2, 4, 5), scales=(1, 1, 2, 1.6), dynamic=dynamic, **attrs)
    resize(floats(1, 2, 8, 7), sizes=(1, 2, 5, 9), cubic_coeff_a=-0.5, **attrs)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_to_and_from_one_pixel(mode):
    for coordinates in COORDINATES:
        attrs = {"mode": mode, "coordinate_transformation_mode": coordinates}
        resize(floats(1, 2, 1, 1), sizes=(1, 2, 3, 2), **attrs)
        resize(floats(1, 2, 5, 4), sizes=(1, 2, 1, 1), **attrs)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_crop_and_resize(mode):
    attrs = {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0}
    inside, across = f32(0, 0, 0.2, 0.1, 1, 1, 0.7, 0.9), f32(0, 0, -0.2, 0.4, 1, 1, 0.8, 1.3)
    resize(floats(1, 2, 6, 5), sizes=(1, 2, 4, 7), roi=inside, **attrs)
    resize(floats(1, 2, 6, 5), sizes=(1, 2, 4, 7), roi=across, **attrs)


def test_crop_with_axes():
    attrs = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "axes": [2, 3]}
    resize(floats(1, 2, 6, 5), sizes=(4, 7), roi=f32(0.2, 0.1, 0.7, 0.9), **attrs)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias(mode):
    attrs = {"mode": mode, "antialias": 1}
    resize(floats(1, 2, 8, 9), scales=(1, 1, 0.6, 0.5), reference="onnx", **attrs)
    resize(floats(1, 2, 4, 5), sizes=(1, 2, 6, 2), reference="onnx", **attrs)


@BOTH
def test_axes(dynamic):
    resize(floats(2, 3, 4, 5), scales=(2, 1.5), axes=[3, 2], mode="nearest", dynamic=dynamic)
    resize(floats(2, 3, 4, 5), sizes=(9, 6), axes=[-1, -2], mode="linear")


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_keep_aspect_ratio(policy):
    for mode in ("nearest", "linear"):
        resize(floats(1, 2, 6, 5), sizes=(9, 4), axes=[2, 3], mode=mode, keep_aspect_ratio_policy=policy)


@pytest.mark.parametrize(
    ("shape", "scales"),
    [([2, 3, 5], (1, 1, 2.5)), ([7], (0.5,)), ([3, 4], (2, 3)), ([1, 2, 3, 4, 5], (1, 1, 2, 1.5, 3))],
    ids=str,
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_ranks(shape, scales, mode):
    # ONNX Runtime has no linear mode for one axis of three.
    reference = "onnx" if mode == "linear" and len(shape) in (1, 3) else "ort"
    resize(floats(*shape), scales=scales, mode=mode, reference=reference)


def test_every_axis():
    resize(floats(2, 3, 4, 5), scales=(2, 1, 0.5, 3), mode="nearest")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_integers(mode, dtype):
    x = ints(1, 2, 4, 5, low=0, high=100, dtype=dtype)
    resize(x, scales=(1, 1, 2, 4), mode=mode, coordinate_transformation_mode="asymmetric")
    # Sums with weights of a third are whole but for rounding, which decides where they are cut to integers.
    resize(x, scales=(1, 1, 2, 3), mode=mode, coordinate_transformation_mode="asymmetric", atol=int(mode == "linear"))


def test_double():
    resize(floats(1, 2, 4, 5, dtype="float64"), scales=(1, 1, 2, 3), mode="linear", reference="onnx")


def test_scale_whose_product_is_just_below_a_whole_number():
    # 10 * 0.7 is 7 in float32.
    for dynamic in (False, True):
        resize(floats(1, 1, 10, 10), scales=(1, 1, 0.7, 0.3), mode="nearest", dynamic=dynamic)


def test_identity_is_no_operator():
    imported = resize(floats(1, 2, 4, 5), scales=(1, 1, 1, 1), mode="linear")
    assert "resize" not in str(imported.mod)


def test_doubling_is_resize2d():
    attrs = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    for dynamic in (False, True):
        imported = resize(floats(1, 2, 4, 5), scales=(1, 1, 2, 2), dynamic=dynamic, **attrs)
        assert "R.image.resize2d" in str(imported.mod)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(1, 1, 2, 3), (1, 1, 1.5, 2.5)], ids=str)
def test_upsample(mode, scales):
    x = floats(1, 2, 4, 6)
    check_op("Upsample", [x, f32(*scales)], {"mode": mode}, opset=9, const=(1,))
    check_op("Upsample", [x], {"mode": mode, "scales": [float(s) for s in scales]}, opset=7)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(1, 1, 2, 3), (1, 1, 0.6, 1.7)], ids=str)
@BOTH
def test_resize_10(mode, scales, dynamic):
    inputs = [floats(1, 2, 5, 6), f32(*scales)]
    check_op("Resize", inputs, {"mode": mode}, opset=10, const=(1,), dynamic=[0] if dynamic else False)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_empty_inputs_count_as_omitted(opset):
    x = floats(1, 2, 4, 5)
    check_op("Resize", [x, f32(), f32(1, 1, 2, 2)], {"mode": "linear"}, opset=opset, const=(1, 2))
    check_op("Resize", [x, f32(), f32(), i64(1, 2, 6, 9)], {"mode": "linear"}, opset=opset, const=(1, 2, 3))


@pytest.mark.parametrize("nearest", ["round_prefer_ceil", "round_prefer_floor"])
@BOTH
def test_halves_that_float32_rounds(nearest, dynamic):
    """7 / 2 comes out as 3.4999998, 22 / 14 * 7 as 11.000001 and 23 / 14 * 7 as 11.500001."""
    for size, out in ((7, 2), (7, 8), (13, 4), (23, 14), (22, 14)):
        attrs = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": nearest}
        inputs = [floats(1, 1, size, 2), None, None, i64(1, 1, out, 3)]
        check_op("Resize", inputs, attrs, opset=19, const=(3,), dynamic=[0] if dynamic else False)


@settings(max_examples=20, deadline=None)
@given(
    mode=st.sampled_from(["nearest", "linear", "cubic"]),
    coordinates=st.sampled_from(COORDINATES),
    nearest=st.sampled_from(NEAREST),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    out=st.tuples(st.integers(1, 13), st.integers(1, 13)),
)
def test_any_sizes(mode, coordinates, nearest, size, out):
    attrs = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    resize(floats(1, 1, *size), sizes=(1, 1, *out), **attrs)


def test_errors():
    x, none = floats(1, 2, 4, 5), [np.zeros(1)]
    with pytest.raises(ModelError, match="'mode' must be one of nearest, linear, cubic, found 'area'"):
        resize(x, scales=(1, 1, 2, 2), mode="area", reference=none)
    with pytest.raises(ModelError, match="scales must be positive, found -1"):
        resize(x, scales=(1, 1, -1, 2), reference=none)
    with pytest.raises(ModelError, match="the scales need 4 elements, found 2"):
        resize(x, scales=(2, 2), reference=none)
    with pytest.raises(ModelError, match="one of the inputs 'scales' and 'sizes' is required"):
        resize(x, reference=none)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_aspect_ratio_kept_for_sizes_that_are_data(policy: str) -> None:
    """One scale for both axes, 3.5 and 4 (whose coordinates lie on halves), and one that shrinks."""
    for sizes in (i64(7, 8), i64(2, 1)):
        attributes = {"axes": [2, 3], "keep_aspect_ratio_policy": policy}
        check_op("Resize", [floats(1, 2, 2, 2), None, None, sizes], attributes, opset=19, dynamic=[0])


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("by", ["sizes", "scales"])
def test_antialias_by_data(mode: str, by: str) -> None:
    """Shrinking one axis, stretching the other; as many taps as the run's scale asks for."""
    given = [None, i64(3, 9)] if by == "sizes" else [np.float32([0.45, 1.5]), None]
    attributes = {"axes": [2, 3], "mode": mode, "antialias": 1, "exclude_outside": int(mode == "cubic")}
    check_op("Resize", [floats(1, 2, 8, 6), None, *given], attributes, opset=19, atol=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_a_region_that_is_data(mode: str) -> None:
    attributes = {
        "axes": [3, 2],
        "mode": mode,
        "coordinate_transformation_mode": "tf_crop_and_resize",
        "extrapolation_value": 10.0,
    }
    roi = np.float32([0.4, 0.6, 0.6, 1.15])
    for const in ((3,), ()):
        inputs = [floats(1, 1, 4, 5), roi, None, i64(3, 4)]
        check_op("Resize", inputs, attributes, opset=19, const=const, reference="onnx", atol=1e-4)


def test_upsample_by_data() -> None:
    check_op("Upsample", [floats(1, 2, 3, 2), np.float32([1, 1, 2, 1.5])], opset=9)
