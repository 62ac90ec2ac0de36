"""Packers as tables: exact for whatever moves and pads, refused for what computes."""

from __future__ import annotations

import numpy as np
import pytest

from kompilo.compiler.tune.device.gather import Gather, gather_of

SHAPE = (37, 5, 3, 3)


def panels(weight: np.ndarray) -> np.ndarray:
    """OIHW as (panels of 16 outputs, padded; H, W, I, 16)."""
    padded = np.pad(weight, ((0, -weight.shape[0] % 16), (0, 0), (0, 0), (0, 0)))
    return padded.reshape(-1, 16, *weight.shape[1:]).transpose(0, 3, 4, 2, 1).copy()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8"])
def test_what_moves_and_pads_becomes_a_table(dtype):
    gather = gather_of(panels, SHAPE, dtype)
    assert gather is not None
    values = (np.random.default_rng(3).standard_normal(SHAPE) * 50).astype(dtype)
    np.testing.assert_array_equal(gather.apply(values), panels(values))
    again = Gather.from_bytes(gather.to_bytes())
    np.testing.assert_array_equal(again.apply(values), panels(values))
    assert again.apply(values).dtype == values.dtype


def test_tables_of_large_weights_are_small():
    gather = gather_of(lambda w: np.ascontiguousarray(w.reshape(-1, 64).T), (512, 64, 3, 3), "float32")
    assert gather is not None
    assert len(gather.to_bytes()) < 20_000  # of 1.2 MB of weights


@pytest.mark.parametrize(
    "pack",
    [
        lambda w: w * 2, lambda w: w + w[::-1], lambda w: np.float32(0.5) * (w + 1), np.abs, np.negative,
        lambda w: np.pad(w, ((1, 1), (0, 0)), constant_values=7), lambda w: np.maximum(w, 0),
    ],
    ids=["scales", "sums", "shifts", "drops signs", "negates", "pads with 7", "clips"],
)  # fmt: skip
def test_what_computes_does_not(pack):
    assert gather_of(pack, (8, 12), "float32") is None


def test_a_packer_to_another_type():
    gather = gather_of(lambda w: w.T.astype("float16"), (300, 7), "float32")
    values = np.arange(2100, dtype="f4").reshape(300, 7)
    if gather is not None:  # element numbers may not survive the narrower type: then there is no table
        np.testing.assert_array_equal(gather.apply(values), values.T.astype("float16"))
