"""Tuning on the GPU of this machine, which the stand-in of the driver plays: the same pool, sessions and records."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kompilo.compiler.errors import KompiloError, TargetError
from kompilo.compiler.tune.device.local import check_local
from kompilo.compiler.tune.device.roofline import published
from kompilo.compiler.tune.device.roofline_probe import measured_apart
from kompilo.compiler.tune.roofline import machine_roofline
from kompilo.targets.cuda.target import CudaTarget
from kompilo.targets.rocm.target import RocmTarget

from gpu.fake_cuda import environment, folder
from gpu.shim_support import needs_shim
from shim_target import model_of

BUNDLE = "tune with --bundle DIR, and measure on a machine that has it."
pytestmark = [needs_shim, pytest.mark.usefixtures("shim_targets")]

_POOL = """
import json, sys
from shim_target import matmul, point
from kompilo.compiler.tune.measure.pool import Job, MeasurePool
from kompilo.compiler.errors import KompiloError
with MeasurePool("conduct", workers=2, timeout_s=3.0) as pool:
    for act in ("good", "wrong", "hang", "kernel:719", "launch:701", "good"):
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
    assert [(status, reason) for status, _, reason in good] == [("ok", "")] * 2
    assert [seconds for _, seconds, _ in good] == pytest.approx([5.128e-6] * 2, rel=1e-3)
    wanted = {
        "wrong": ("wrong_result", "element [0, 0]"),
        "hang": ("timed_out", "s while being timed"),
        "launch:701": ("run_failed", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"),
        "kernel:719": ("crashed", "exit code 3 while being timed: the GPU: CUDA_ERROR_LAUNCH_FAILED"),
    }
    assert {act: fates[0][0] for act, fates in found.items()} == {act: status for act, (status, _) in wanted.items()}
    for act, (_, words) in wanted.items():
        assert words in found[act][0][2], act


def test_tuning_on_the_gpu_here_and_compiling_with_what_it_found(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("KOMPILO_CACHE", str(tmp_path / "cache"))
    model, records = tmp_path / "m.onnx", tmp_path / "records"
    model.write_bytes(model_of(19, 33, 21))
    tuned = on_gpu(
        "-m", "kompilo", "tune", str(model), "--target", "shim", "--trials", "3", "--workers", "1",
        "--records", str(records), "--json",
    )  # fmt: skip
    assert tuned.returncode == 0, tuned.stderr
    facts = json.loads(tuned.stdout)
    assert (facts["target"], facts["measured"], facts["failed"]) == ("cuda-a100", 3, 0)
    # Copies at the stand-in's rate; products at the maker's, which nothing there reaches.
    (memory,) = facts["roofline"]["levels"]
    assert (memory["name"], memory["bandwidth"]) == ("memory", pytest.approx(2e12, rel=1e-3))
    assert dict(facts["roofline"]["peaks"])["float16"] == 312e12
    kept = json.loads((tmp_path / "cache" / "roofline" / "cuda-a100.json").read_text())
    assert (kept["measurements"], kept["peaks"]) == (1, facts["roofline"]["peaks"])
    (operator,) = facts["operators"]
    least = max(operator["flops"] / 19.5e12, operator["bytes"] / memory["bandwidth"])
    assert operator["of_roofline"] == pytest.approx(least / operator["after"]["seconds"])
    assert operator["after"]["seconds"] <= operator["before"]["seconds"] < 1e-3
    made = on_gpu(
        "-m", "kompilo", "compile", str(model), "--target", "shim", "--records", str(records),
        "-o", str(tmp_path / "m.kpo"), "--json",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["records"]["used"] == 1


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("shim:a100", "the process that measures them did not end in 5 s."),
        ("nothing:a100", "the process that measures them ended with exit code 1: "),
    ],
)
def test_a_gpu_that_hangs_costs_only_the_process_that_measures_its_rates(monkeypatch, target, said):
    for name, value in environment(None, fault="hang").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(KompiloError) as caught:
        measured_apart(target, limit_s=5.0)
    assert caught.value.message.startswith(said)


def test_rates_that_cannot_be_measured_are_the_makers(tmp_path, monkeypatch):
    def fail(name: str) -> None:
        raise KompiloError(f"{name} burns.")

    monkeypatch.setenv("KOMPILO_CACHE", str(tmp_path))
    monkeypatch.setattr("kompilo.compiler.tune.device.roofline.is_here", lambda target: True)
    monkeypatch.setattr("kompilo.compiler.tune.device.roofline_probe.measured_apart", fail)
    notes: list[str] = []
    target = CudaTarget.from_preset("a100")
    assert machine_roofline(target, "cuda:a100", notes.append) == published(target)
    assert notes == ["the roofline is of rates known before, as the GPU's could not be measured: cuda:a100 burns."]
    assert not (tmp_path / "roofline").exists()


def test_another_gpu_than_the_target_is_for(tmp_path):
    model = tmp_path / "m.onnx"
    model.write_bytes(model_of())
    done = on_gpu("-m", "kompilo", "tune", str(model), "--target", "cuda:sm_80", "--json", name="NVIDIA A30")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == {
        "message": "tuning for cuda-a100: expected that GPU, this machine's is cuda-a30.",
        "hint": "tune with --target cuda, whose records are for this GPU.",
        "exit_code": 2,
    }


@pytest.mark.parametrize(
    ("target", "settings", "said", "hint"),
    [
        (CudaTarget, {"DEVICES": "0"}, "tuning for cuda-a100: NVIDIA's driver finds no GPU on this machine.", BUNDLE),
        (CudaTarget, {"FAULT": "init:3"}, "tuning for cuda-a100: NVIDIA's driver does not work "
         "(CUDA_ERROR_NOT_INITIALIZED: an error) on this machine.", BUNDLE),
        (CudaTarget, {"VERSION": "12040"}, "tuning for cuda-a100: this machine's driver is for CUDA 12.4, expected one "
         "for 13.0 or later.", BUNDLE),
        (CudaTarget, {"ARCH": "9.0", "NAME": "NVIDIA H200"}, "tuning for cuda-a100: expected a GPU that runs sm_80; "
         "this machine's GPU (NVIDIA H200) has the version 9.0.", BUNDLE),
        (RocmTarget, {"DEVICES": "0"}, "tuning for rocm-mi300x: AMD's driver finds no GPU on this machine.", BUNDLE),
        (RocmTarget, {"NAME": "AMD Radeon RX 7900 XTX"}, "tuning for rocm-mi300x: expected a GPU that runs gfx942; "
         "this machine's GPU (AMD Radeon RX 7900 XTX) has the version gfx1100.", BUNDLE),
    ],
)  # fmt: skip
def test_a_gpu_that_is_not_here(monkeypatch, target, settings, said, hint):
    for name, value in settings.items():
        monkeypatch.setenv(f"FAKE_CUDA_{name}", value)
    preset = "sm_80" if target is CudaTarget else "gfx942"
    with pytest.raises(TargetError) as caught:
        check_local(target.from_preset(preset), lambda name: ctypes.CDLL(str(folder() / name)))
    assert (caught.value.message, caught.value.hint) == (said, hint)
