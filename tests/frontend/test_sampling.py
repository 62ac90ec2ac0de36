"""GridSample and RoiAlign against ONNX Runtime."""

import numpy as np
import pytest

from kompilo.compiler.errors import ModelError

from op_test import check_op, floats, i64

BOTH = pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_grid_sample(mode, padding, align):
    grid = floats(2, 4, 5, 2, low=-1.7, high=1.7)
    attrs = {"mode": mode, "padding_mode": padding, "align_corners": align}
    check_op("GridSample", [floats(2, 3, 6, 7), grid], attrs, opset=20, atol=1e-4)


def test_grid_sample_far_outside():
    grid = floats(1, 4, 5, 2, low=-9, high=9)
    for padding in ("zeros", "border", "reflection"):
        check_op("GridSample", [floats(1, 2, 4, 3), grid], {"padding_mode": padding}, opset=20, atol=1e-4)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_grid_sample_volume(mode):
    inputs = [floats(1, 2, 4, 3, 5), floats(1, 2, 3, 2, 3, low=-1.4, high=1.4)]
    check_op("GridSample", inputs, {"mode": mode}, opset=20, atol=1e-4)


def test_grid_sample_dynamic_and_old_names():
    inputs = [floats(2, 3, 6, 7), floats(2, 4, 5, 2)]
    grid_open = [0]
    check_op("GridSample", inputs, {"mode": "bilinear"}, opset=16, dynamic=grid_open, atol=1e-4)
    check_op("GridSample", inputs, {"mode": "bicubic"}, opset=16, atol=1e-4)


ROIS = np.array([[0, 0, 5, 4], [1, 2, 6, 7], [3, 3, 3.2, 3.1], [-2, -1, 9, 9], [4, 4, 2, 2]], np.float32)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
def test_roi_align(coordinates, ratio, mode):
    attrs = {
        "coordinate_transformation_mode": coordinates,
        "mode": mode,
        "sampling_ratio": ratio,
        "output_height": 3,
        "output_width": 2,
        "spatial_scale": 0.8,
    }
    # A region turned inside out has no defined result without a fixed sampling ratio.
    rois = ROIS if ratio else ROIS[:-1]
    batch = i64(0, 1, 1, 0, 1)[: len(rois)]
    check_op("RoiAlign", [floats(2, 3, 8, 7), rois, batch], attrs, opset=16)


def test_roi_align_old_opset():
    check_op("RoiAlign", [floats(2, 3, 8, 7), ROIS[:3], i64(0, 1, 1)], {"output_height": 2}, opset=10)


def test_roi_align_dynamic():
    attrs = {"output_height": 2, "output_width": 2, "sampling_ratio": 2}
    check_op("RoiAlign", [floats(2, 3, 8, 7), ROIS[:3], i64(0, 1, 1)], attrs, opset=16, dynamic=[0])


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_max_roi_pool(scale):
    rois = np.array([[0, 0, 0, 5, 4], [1, 1, 2, 6, 7], [1, 3, 3, 3, 3], [0, 2, 1, 6, 3]], np.float32)
    attrs = {"pooled_shape": [2, 3], "spatial_scale": scale}
    check_op("MaxRoiPool", [floats(2, 3, 8, 7), rois], attrs)


def test_errors():
    with pytest.raises(ModelError, match="the grid needs a last dimension of 2"):
        check_op("GridSample", [floats(1, 1, 3, 3), floats(1, 2, 2, 3)], reference=[np.zeros(1)])


@pytest.mark.parametrize("size", [(4, 6), (5, 32)])
def test_grids_of_open_sizes(size):
    """Widths below a vector and whole vectors: a part of the loop then has no iterations."""
    grid = floats(2, *size, 2)
    check_op("GridSample", [floats(2, 3, 5, 7), grid], {"mode": "linear"}, opset=20, atol=1e-4, dynamic={1: (1, 2)})
