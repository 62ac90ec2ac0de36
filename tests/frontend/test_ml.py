"""Linear models, support vector machines, and what prepares features, of ai.onnx.ml against ONNX Runtime."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="what ai.onnx.ml has is compared with ONNX Runtime")

from kompilo.compiler.errors import ModelError

from op_test import check_op, check_variants, floats, ints

ML = "ai.onnx.ml"
TRANSFORMS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO")


def _numbers(count: int, seed: int = 0) -> list[float]:
    return floats(count, seed=seed).tolist()


def test_linear_regressor() -> None:
    three = {"coefficients": _numbers(15), "intercepts": _numbers(3, 1), "targets": 3}
    one = {"coefficients": _numbers(5), "intercepts": [0.5]}
    variants = [three | {"post_transform": t} for t in TRANSFORMS] + [one | {"post_transform": t} for t in TRANSFORMS]
    without = {"coefficients": _numbers(10), "targets": 2}
    check_variants("LinearRegressor", floats(7, 5), [*variants, without], domain=ML, dynamic=True)


def test_linear_classifier() -> None:
    three = {"coefficients": _numbers(15), "intercepts": _numbers(3, 1), "classlabels_ints": [4, -1, 9]}
    one = {"coefficients": _numbers(5), "intercepts": [0.25], "classlabels_ints": [4, 9]}
    two = {"coefficients": _numbers(10), "intercepts": _numbers(2, 1), "classlabels_ints": [4, 9]}
    variants = [a | {"post_transform": t} for a, t in itertools.product((three, one, two), TRANSFORMS)]
    check_variants("LinearClassifier", floats(7, 5), variants, domain=ML, outputs=2, dynamic=True)
    check_op("LinearClassifier", [ints(7, 5)], three, domain=ML, outputs=2, atol=1e-4)


KERNELS: list[dict[str, Any]] = [
    {"kernel_type": "LINEAR", "kernel_params": [0.0, 0.0, 0.0]},
    {"kernel_type": "POLY", "kernel_params": [0.3, 0.2, 3.0]},
    {"kernel_type": "POLY", "kernel_params": [0.3, 0.2, 2.0]},
    {"kernel_type": "RBF", "kernel_params": [0.4, 0.0, 0.0]},
    {"kernel_type": "SIGMOID", "kernel_params": [0.3, 0.2, 0.0]},
]


def test_svm_regressor() -> None:
    vectors = {"n_supports": 6, "support_vectors": _numbers(24), "coefficients": _numbers(6, 1), "rho": [0.3]}
    variants = [vectors | kernel for kernel in KERNELS] + [vectors | KERNELS[3] | {"one_class": 1}]
    plain = {"coefficients": _numbers(4), "rho": [0.3]} | KERNELS[0]
    check_variants("SVMRegressor", floats(7, 4), [*variants, plain], domain=ML, dynamic=True, atol=1e-4)


def _classifier(counts: list[int], *, chances: bool = False) -> dict[str, Any]:
    classes, total = len(counts), sum(counts)
    pairs = classes * (classes - 1) // 2
    attributes = {
        "vectors_per_class": counts,
        "support_vectors": _numbers(4 * total),
        "coefficients": _numbers((classes - 1) * total, 1),
        "rho": _numbers(pairs, 2),
        "classlabels_ints": list(range(10, 10 + 3 * classes, 3)),
    }
    return attributes | ({"prob_a": [-1.5] * pairs, "prob_b": _numbers(pairs, 3)} if chances else {})


def test_svm_classifier() -> None:
    variants = [_classifier([3, 2, 4]) | kernel for kernel in KERNELS]
    variants += [_classifier([3, 4]) | KERNELS[3] | {"post_transform": t} for t in TRANSFORMS]
    variants += [_classifier([2, 3, 1]) | KERNELS[0] | {"post_transform": t} for t in TRANSFORMS[1:]]
    check_variants("SVMClassifier", floats(9, 4), variants, domain=ML, outputs=2, atol=1e-4)


def test_svm_classifier_with_probabilities() -> None:
    variants = [_classifier(counts, chances=True) | KERNELS[3] for counts in ([3, 4], [3, 2, 4], [1, 2, 3, 2, 1])]
    check_variants("SVMClassifier", floats(33, 4), variants, domain=ML, outputs=2, dynamic=True, atol=1e-4)


def test_classifier_of_coefficients() -> None:
    attributes = {"coefficients": _numbers(12), "rho": [0.2], "classlabels_ints": [4, 5, 7]} | KERNELS[0]
    check_op("SVMClassifier", [floats(9, 4)], attributes, domain=ML, outputs=2)


def test_scaler_and_normalizer() -> None:
    scalers = [{"scale": [2.0], "offset": [0.5]}, {"scale": _numbers(5), "offset": _numbers(5, 1)}]
    check_variants("Scaler", floats(7, 5), scalers, domain=ML, dynamic=True)
    check_op("Scaler", [ints(7, 5)], scalers[1], domain=ML)
    norms = [{"norm": norm} for norm in ("MAX", "L1", "L2")]
    x = np.array([[1, -4, 2], [0, 0, 0], [-1, -2, -3], [0.5, 1, 7]], np.float32)
    check_variants("Normalizer", x, norms, domain=ML, dynamic=True)
    check_op("Normalizer", [ints(5)], norms[1], domain=ML)


def test_imputer() -> None:
    x = floats(7, 3)
    x[::2, 1] = x[3] = np.nan
    variants = [
        {"imputed_value_floats": [5.0], "replaced_value_float": float("nan")},
        {"imputed_value_floats": _numbers(3), "replaced_value_float": float("nan")},
        {"imputed_value_floats": [2.0], "replaced_value_float": float(x[0, 0])},
    ]
    check_variants("Imputer", x, variants, domain=ML, dynamic=True)
    check_op("Imputer", [ints(7, 3)], {"imputed_value_int64s": [7, 8, 9], "replaced_value_int64": 3}, domain=ML)


def test_feature_vectorizer() -> None:
    parts = [floats(4, 3), floats(4, 2), floats(4, 5)]
    check_op("FeatureVectorizer", parts, {"inputdimensions": [3, 4, 2]}, domain=ML)


@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_one_hot_encoder(dtype: str) -> None:
    x = (ints(4, 3) / (2 if dtype == "float32" else 1)).astype(dtype)
    check_op("OneHotEncoder", [x], {"cats_int64s": [-2, 0, 3, 1], "zeros": 1}, domain=ML, dynamic=True)


def test_label_encoder() -> None:
    x = ints(6, 7, low=-9, high=10)
    keys = {"keys_int64s": [5, -3, 8, 0, 5, -8, 2]}
    variants = [
        keys | {"values_int64s": [1, 2, 3, 4, 5, 6, 7], "default_int64": 42},
        keys | {"values_floats": _numbers(7)},
        {"keys_int64s": [3], "values_int64s": [9]},
    ]
    check_variants("LabelEncoder", x, variants, domain=ML, version=2, dynamic=True)
    x = np.array([[1.5, np.nan], [-2, 7]], np.float32)
    variants = [
        {"keys_floats": [7.0, 0.5, 1.5], "values_floats": [1.0, 2.0, 3.0], "default_float": -5.0},
        {"keys_floats": [-2.0, 1.5], "values_int64s": [11, 12]},
    ]
    check_variants("LabelEncoder", x, variants, domain=ML, version=2)


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no labels": ("LinearClassifier", {"coefficients": [1.0]}, "'classlabels_ints' is required"),
    "rows": (
        "LinearRegressor",
        {"coefficients": _numbers(7), "targets": 2},
        "'coefficients' must have 2 rows of numbers, found 7",
    ),
    "width": ("LinearRegressor", {"coefficients": _numbers(7)}, "the number of features must be 7, found 4"),
    "transform": (
        "LinearRegressor",
        {"coefficients": _numbers(4), "post_transform": "TANH"},
        "'post_transform' must be one of",
    ),
    "kernel": (
        "SVMRegressor",
        {"kernel_type": "COSINE", "rho": [0.0]},
        "'kernel_type' must be one of .* found 'COSINE'",
    ),
    "counts": (
        "SVMClassifier",
        _classifier([3, 2]) | {"vectors_per_class": [3, 2, 1]},
        "'vectors_per_class' must have 2 numbers",
    ),
    "pairs": ("SVMClassifier", _classifier([3, 2]) | {"rho": [1.0, 2.0]}, "'rho' must have 1 elements, found 2"),
    "scale": ("Scaler", {"scale": [1.0, 2.0], "offset": [0.0]}, "the number of features must be 2, found 4"),
    "norm": ("Normalizer", {"norm": "L3"}, "'norm' must be one of MAX, L1, L2, found 'L3'"),
    "dimensions": ("FeatureVectorizer", {"inputdimensions": [3, 4]}, "'inputdimensions' must have 1 numbers"),
    "categories": ("OneHotEncoder", {"cats_strings": ["a"]}, "'cats_strings': categories that are strings"),
    "keys": ("LabelEncoder", {"keys_floats": [1.0, 2.0], "values_floats": [1.0]}, "as many values as keys are needed"),
    "nan": ("LabelEncoder", {"keys_floats": [1.0, float("nan")], "values_floats": [1.0, 2.0]}, "a key is NaN"),
    "kinds": ("LabelEncoder", {"keys_int64s": [1], "values_floats": [1.0]}, "the keys are int64, expected float32"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refusals(name: str) -> None:
    op, attributes, message = WRONG[name]
    with pytest.raises(ModelError, match=message):
        check_op(op, [floats(3, 4)], attributes, domain=ML, version=2, reference=[])
