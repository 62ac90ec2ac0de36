"""Operators of ai.onnx.ml on features."""

from __future__ import annotations

import numpy as np
import pytest

from op_test import check_op, floats, i64, ints

ML = "ai.onnx.ml"


@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_binarizer(threshold: float) -> None:
    check_op("Binarizer", [floats(3, 5)], {"threshold": threshold}, domain=ML, dynamic=True)
    x = ints(7)
    wanted = [(x > threshold).astype(np.int64)]
    check_op("Binarizer", [x], {"threshold": threshold}, domain=ML, reference=wanted)


@pytest.mark.parametrize("const", [(), (1,)])
def test_array_feature_extractor(const: tuple[int, ...]) -> None:
    check_op("ArrayFeatureExtractor", [floats(2, 3, 5), i64(4, 0, 4)], domain=ML, const=const, dynamic=[0])
    check_op("ArrayFeatureExtractor", [floats(5), i64(1, 3)], domain=ML, const=const)
