"""Tuning on the GPU of this machine, which the stand-in of the driver plays: the same pool, sessions and records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpu.fake_cuda import environment
from gpu.shim_support import needs_shim
from shim_target import model_of

pytestmark = [needs_shim, pytest.mark.usefixtures("shim_targets")]

_POOL = """
import json, sys
from shim_target import ACTS, BUILDS, matmul, point
from kompilo.compiler.tune.measure.pool import Job, MeasurePool
from kompilo.compiler.errors import KompiloError
with MeasurePool("conduct", workers=2, timeout_s=4.0) as pool:
    for act in ("good", *ACTS, *BUILDS, "good"):
        pool.submit(Job(matmul(), point(act)))
    for job, m in pool.results():
        print(json.dumps([job.point.config["act"], m.status, m.seconds, m.reason]))
"""


def on_gpu(*command: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """A command on a machine with a GPU."""
    return subprocess.run(
        [sys.executable, "-P", *command], env=environment(None, **settings), capture_output=True, text=True, timeout=200
    )


def test_what_a_candidate_does_on_the_gpu_costs_its_worker_at_most():
    done = on_gpu("-c", _POOL)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[tuple[str, float | None, str]]] = {}
    for line in done.stdout.splitlines():
        act, *fate = json.loads(line)
        found.setdefault(act, []).append(tuple(fate))
    good = found.pop("good")
    assert [(status, reason) for status, _, reason in good] == [("ok", "")] * 3
    assert [seconds for _, seconds, _ in good] == pytest.approx([5.128e-6] * 3, rel=1e-3)
    wanted = {
        "wrong": ("wrong_result", "element [0, 0]"),
        "hang": ("timed_out", "no end after 4 s while being timed"),
        "crash": ("crashed", "SIGSEGV while being timed"),
        "launch:701": ("run_failed", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"),
        "kernel:719": ("crashed", "exit code 3 while being timed: the GPU: CUDA_ERROR_LAUNCH_FAILED"),
        "abort": ("crashed", "SIGABRT while being built"),
        "refuse": ("build_failed", "as asked"),
    }
    assert {act: fates[0][0] for act, fates in found.items()} == {act: status for act, (status, _) in wanted.items()}
    for act, (_, words) in wanted.items():
        assert words in found[act][0][2], act


def test_tuning_on_the_gpu_here_and_compiling_with_what_it_found(tmp_path: Path):
    model, records = tmp_path / "m.onnx", tmp_path / "records"
    model.write_bytes(model_of(19, 33, 21))
    tuned = on_gpu(
        "-m", "kompilo", "tune", str(model), "--target", "shim", "--trials", "3", "--workers", "1",
        "--records", str(records), "--json",
    )  # fmt: skip
    assert tuned.returncode == 0, tuned.stderr
    facts = json.loads(tuned.stdout)
    assert (facts["target"], facts["measured"], facts["failed"]) == ("cuda-a100", 3, 0)
    (operator,) = facts["operators"]
    assert operator["after"]["seconds"] <= operator["before"]["seconds"] < 1e-3
    made = on_gpu(
        "-m", "kompilo", "compile", str(model), "--target", "shim", "--records", str(records),
        "-o", str(tmp_path / "m.kpo"), "--json",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["records"]["used"] == 1


@pytest.mark.parametrize(
    ("target", "settings", "said"),
    [
        ("cuda:sm_80", {"devices": 0}, "tuning for cuda-a100: NVIDIA's driver finds no GPU on this machine."),
        ("cuda:sm_80", {"arch": 9.0, "name": "NVIDIA H200"}, "tuning for cuda-a100: expected a GPU that runs sm_80; "
         "this machine's GPU (NVIDIA H200) has the version 9.0."),
        ("cuda:sm_80", {"name": "NVIDIA A30"}, "tuning for cuda-a100: expected that GPU, this machine's is cuda-a30."),
        ("rocm:gfx942", {}, "tuning for rocm-mi300x: candidates can be measured on CPUs and NVIDIA's GPUs only."),
    ],
)  # fmt: skip
def test_a_gpu_that_is_not_here(tmp_path, target, settings, said):
    model = tmp_path / "m.onnx"
    model.write_bytes(model_of())
    done = on_gpu("-m", "kompilo", "tune", str(model), "--target", target, "--json", **settings)
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["message"] == said
    hints = {"rocm": "None", "A30": "tune with --target cuda", "": "tune with --bundle DIR"}
    assert next(hint for word, hint in hints.items() if word in f"{target} {settings}") in str(error["hint"])
