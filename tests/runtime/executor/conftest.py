"""A small model in pieces, and pipelines that are closed behind each test."""

from __future__ import annotations

import os

import pytest

import kompilo

from branching import branching_model, sample

CORES = sorted(os.sched_getaffinity(0))


@pytest.fixture(scope="session")
def devices() -> list[str]:
    """Two devices of unequal code; the test is skipped on a machine with one core."""
    if len(CORES) < 2:
        pytest.skip("needs two cores")
    return [f"cpu:{CORES[0]}=cpu", f"cpu:{CORES[1]}=cpu:x86-64-v2"]


@pytest.fixture(scope="session")
def artifact(tmp_path_factory):
    """The path of the model in six pieces for both targets."""
    folder = tmp_path_factory.mktemp("executor")
    path = folder / "model.kpo"
    kompilo.compile(branching_model(folder / "m.onnx"), target=["cpu", "cpu:x86-64-v2"], pieces=6).save(path)
    return path


@pytest.fixture(scope="session")
def expected(artifact):
    """What the model gives for `sample(seed)`, computed without a pipeline."""
    module = kompilo.load(artifact, device="cpu", threads=1)
    return [module(sample(seed)) for seed in range(8)]


@pytest.fixture
def pipeline(artifact):
    """Makes pipelines of the model."""
    made = []

    def make(*args, **options):
        made.append(kompilo.Pipeline(artifact, *args, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
