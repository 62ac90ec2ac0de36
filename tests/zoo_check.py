"""Comparing a compiled model of the zoo with what ONNX Runtime gives for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kompilo.compiler.runtime.module import Module
from kompilo.models.zoo_model import ZooModel

# Runs ONNX Runtime: the outputs in the model's order.
Reference = Callable[[Path, Mapping[str, np.ndarray]], list[np.ndarray]]


def check(model: ZooModel, module: Module, reference: Reference, feeds: Mapping[str, np.ndarray]) -> None:
    """Every output has the reference's shape and dtype, and differs by no more than the model's tolerance allows."""
    expected = reference(model.path(), feeds)
    found = module.run(feeds)
    assert list(found) == [spec.name for spec in module.outputs]
    for (name, got), want in zip(found.items(), expected, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype), name
        if np.issubdtype(want.dtype, np.floating):
            # On noise the detector answers 1e-6 everywhere: the last bits of its sigmoid's tail (1e-7) are no error.
            error = float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-2))
            assert error <= model.tolerance, f"{model.name}: output {name} is off by {error:.1e} of its range"
        else:
            np.testing.assert_array_equal(got, want, err_msg=name)
