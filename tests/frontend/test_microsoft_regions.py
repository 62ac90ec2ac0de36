"""Operators of the domain com.microsoft that read images at places that are data, against ONNX Runtime."""

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="what ONNX Runtime has is compared with ONNX Runtime")

from kompilo.compiler.errors import ModelError

from op_test import check_op, floats

MS = "com.microsoft"
IMAGES, GRID = floats(2, 3, 5, 7), floats(2, 4, 6, 2, low=-1.2, high=1.2)
REGIONS = np.array([[0.1, 0.2, 0.8, 0.9], [0.9, -0.1, 0.2, 0.6], [0, 0, 1, 1], [0.3, 0.3, 1.2, 0.7]], np.float32)
BATCH = np.array([0, 1, 1, 0], np.int32)


@pytest.mark.parametrize(
    ("mode", "padding", "align"), [("bilinear", "zeros", 0), ("nearest", "border", 1), ("bicubic", "reflection", 0)]
)
def test_grid_sample(mode, padding, align):
    attrs = {"mode": mode, "padding_mode": padding, "align_corners": align}
    check_op("GridSample", [IMAGES, GRID], attrs, domain=MS, rtol=1e-4, atol=1e-4, dynamic={0: (1, 2, 3)})


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(3, 4), (1, 6)], ids=str)
def test_crop_and_resize(mode, size):
    inputs = [IMAGES, REGIONS, BATCH, np.array(size, np.int32)]
    attrs = {"mode": mode, "extrapolation_value": 0.5}
    check_op("CropAndResize", inputs, attrs, domain=MS, const=(3,), rtol=1e-4, atol=1e-4, dynamic=(0, 1, 2))


def test_refused():
    with pytest.raises(ModelError, match=r"CropAndResize node .*'crop_size' must be two positive sizes"):
        check_op("CropAndResize", [IMAGES, REGIONS, BATCH, np.array([3, 3], np.int32)], domain=MS, reference=[])
    with pytest.raises(ModelError, match="attribute 'mode' must be one of bilinear, nearest, bicubic, found 'linear'"):
        check_op("GridSample", [IMAGES, GRID], {"mode": "linear"}, domain=MS, reference=[])
