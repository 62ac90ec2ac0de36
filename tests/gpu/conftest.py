"""Fixtures of the GPU checks."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """Numbers that are the same in each run."""
    return np.random.default_rng(0)
