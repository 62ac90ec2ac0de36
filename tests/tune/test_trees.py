"""Trees kept as arrays predict what XGBoost predicts."""

import numpy as np
import pytest
import xgboost

from kompilo.compiler.tune.trees import Trees, grow, no_trees

SETTINGS = {"max_depth": 5, "eta": 0.3, "seed": 0}


def data(rows: int = 400, missing: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((rows, 7)).astype(np.float32)
    y = x[:, 0] * 2 + np.where(x[:, 3] > 0, x[:, 1], -1) + 0.1 * rng.standard_normal(rows)
    x[rng.random(x.shape) < missing] = np.nan
    return x, y


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_same_as_xgboost(missing):
    x, y = data(missing=missing)
    trees = grow(x, y, 20, SETTINGS)
    fixed = {"base_score": 0.0, "tree_method": "hist", "nthread": 1}
    booster = xgboost.train({**SETTINGS, **fixed}, xgboost.DMatrix(x, y), 20)
    np.testing.assert_allclose(trees.predict(x), booster.predict(xgboost.DMatrix(x)), atol=1e-5)
    gaps = np.full((3, 7), np.nan, np.float32)
    np.testing.assert_allclose(trees.predict(gaps), booster.predict(xgboost.DMatrix(gaps)), atol=1e-5)


def test_weights_count():
    x = np.zeros((2, 1), np.float32)
    trees = grow(x, np.array([0.0, 1.0]), 50, SETTINGS, weights=np.array([3.0, 1.0]))
    np.testing.assert_allclose(trees.predict(x), 0.25, atol=0.01)


def test_arrays_and_back():
    x, y = data()
    trees = grow(x, y, 5, SETTINGS)
    np.testing.assert_array_equal(Trees.of_arrays(trees.arrays(), features=7).predict(x), trees.predict(x))
    assert (Trees.of_arrays(no_trees().arrays(), features=7).predict(x) == 0).all()


@pytest.mark.parametrize("field", ["roots", "left", "right", "feature"])
def test_arrays_that_are_no_trees_are_refused(field):
    x, y = data()
    arrays = grow(x, y, 5, SETTINGS).arrays()
    for broken in (arrays[field] - 10_000, arrays[field] + 10_000):
        with pytest.raises(ValueError, match="no trees"):
            Trees.of_arrays(arrays | {field: broken}, features=7)
    with pytest.raises(ValueError, match="no trees"):
        Trees.of_arrays(arrays | {"threshold": arrays["threshold"][:-1]}, features=7)
    with pytest.raises(KeyError):
        Trees.of_arrays({k: v for k, v in arrays.items() if k != field}, features=7)
