"""Models with operators on the host, whose compiled segments run on the GPU that stand-ins play."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from host_models import sentences
from test_on_a_gpu import on_gpu

import kompilo

from gpu.shim_support import needs_shim
from shim_target import install_shim_targets

pytestmark = needs_shim

RUN = """
for device in ("auto", "cuda", "cpu"):
    model = kompilo.load(path, device)
    prob, label = model(["the", "A", "b"])
    say(model.runs_on.split("-")[0], type(prob).__name__, *(f"{p:.2f}" for p in prob), label.item())
say(sum(line.startswith("launch") for line in log()) > 0)
try:
    model.enqueue(["a"])
except KompiloError as error:
    say(error)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    with pytest.MonkeyPatch.context() as patch:
        install_shim_targets(folder / "path", patch)
        made = kompilo.compile(sentences(), target=["cpu", "shim:a100"], records=False)
    cpu, gpu = made.targets
    replace(made, targets=(replace(gpu, name="cuda:sm_80"), cpu)).save(folder / "words.kpo")
    return folder / "words.kpo"


def test_values_come_back_to_the_host(file, tmp_path):
    lines = on_gpu(file, RUN, tmp_path).splitlines()
    result = "ndarray 0.91 0.05 0.05 x"  # a, b and the pair of both: scores of 3, 0 and 0
    assert lines[:3] == [f"{kind} {result}" for kind in ("cuda", "cuda", "cpu")]
    assert lines[3] == "True"
    assert lines[4] == "enqueue: expected a model that is compiled as a whole, found one in segments."
