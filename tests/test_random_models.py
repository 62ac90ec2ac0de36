"""Small random models, compiled whole, against ONNX Runtime, on one and on two threads.

The seeds are a sample of those that were tried. To look further, run `check(random_model(seed))` in a loop. A seed
whose model ONNX Runtime itself cannot run (its own layout pass gets 201 wrong) says nothing.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from random_models import RandomModel, random_model

import kompilo
from kompilo.compiler.frontend.importer import import_model
from kompilo.compiler.passes.pipeline import run_phases
from kompilo.compiler.schedule.selection import Selector
from kompilo.targets.cuda.target import CudaTarget

SEEDS = range(30)
# Of the range of the output; float32 sums are taken in another order.
TOLERANCE = 1e-4


def check(random: RandomModel) -> None:
    """Compile once, run with each choice of the dynamic dimensions, and compare shapes, dtypes and numbers."""
    expected = reference(random)
    artifact = kompilo.compile(random.model)
    for threads in (1, 2):
        module = kompilo.load(artifact, threads=threads)
        for feed, wanted in zip(random.feeds, expected, strict=True):
            for (name, found), value in zip(module.run(feed).items(), wanted, strict=True):
                assert (found.shape, found.dtype) == (value.shape, value.dtype), f"{name}, {threads} threads\n{random}"
                error = np.abs(found - value).max() / max(np.abs(value).max(), 1e-6)
                assert error < TOLERANCE, f"{name} is off by {error:.1e} of its range, {threads} threads\n{random}"


def reference(random: RandomModel) -> list[list[np.ndarray]]:
    """ONNX Runtime's outputs for each choice."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        random.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [session.run(None, feed) for feed in random.feeds]


@pytest.mark.parametrize("seed", SEEDS)
def test_agrees_with_onnxruntime(seed: int) -> None:
    check(random_model(seed))


def test_a_seed_always_gives_the_same_model() -> None:
    first, second = random_model(7), random_model(7)
    assert str(first) == str(second)
    assert first.model.SerializeToString() == second.model.SerializeToString()


# Transposed convolutions of open sizes among them, whose cropping passes once got wrong.
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("seed", [*range(40, 48), 1509, 3066, 3228])
def test_passes_for_a_gpu(seed: int, precision: str) -> None:
    """Every pass leaves a model well-formed; the machine code of kernels is the business of other tests."""
    target = CudaTarget.from_preset("sm_80")
    module = import_model(random_model(seed).model).mod
    run_phases(module, target, selector=Selector(target, precision=precision))
