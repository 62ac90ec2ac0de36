"""The benchmark for real GPUs, played on the stand-in of the driver: everything but the numbers is as on hardware."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kompilo
from kompilo.compiler.artifact.artifact import Artifact

from gpu.fake_cuda import environment
from gpu.shim_support import needs_shim
from shim_target import install_shim_targets

pytestmark = needs_shim
BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "gpu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        install_shim_targets(tmp_path_factory.mktemp("path"), patch)
        place = tmp_path_factory.mktemp("bundle") / "b"
        command = [sys.executable, str(BENCHMARK / "run.py"), "--bundle", str(place), "--target", "shim:a100"]
        made = subprocess.run([*command, "--small"], capture_output=True, text=True, timeout=200, cwd="/")
        assert made.returncode == 0, made.stderr
        return place


def play(folder: Path, out: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-P",
        str(folder / "play.py"),
        "--out",
        str(out),
        "--rounds",
        "1",
        "--sample",
        "0",
        *arguments,
    ]
    return subprocess.run(command, env=environment(None, **settings), capture_output=True, text=True, timeout=200)


def test_everything_is_right_on_the_stand_in(folder, tmp_path):
    done = play(folder, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [json.loads(line) for line in (tmp_path / "timed.jsonl").read_text().splitlines()]
    facts = json.loads((folder / "gpu_check.json").read_text())
    assert [a["name"] for a in answers] == [c["name"] for c in (*facts["timed"], *facts["memory"])]
    assert not [a for a in answers if a["problems"]]
    assert all(a["seconds"]["ours"] > 0 for a in answers)
    assert all("copy" in a["seconds"] for a in answers[-len(facts["memory"]) :])
    table = (tmp_path / "results.md").read_text()
    assert table.startswith("NVIDIA A100-SXM4-80GB, driver for CUDA 13.0, Kompilo ")
    assert re.search(r"^\| matmul_simt \| float32 \| (\d+) \| \1 \| \d\.\de-\d+ \|$", table, re.MULTILINE), table


def test_networks_run_and_one_that_cannot_be_compiled_costs_its_own_line(folder, tmp_path, monkeypatch):
    install_shim_targets(tmp_path / "path", monkeypatch)
    monkeypatch.syspath_prepend(str(BENCHMARK))
    models = importlib.import_module("models")
    networks = {
        "broken": ("mnist", lambda batch: {"no such input": (batch,)}),
        "digits": ("mnist", lambda batch: {"image": (batch, 1, 28, 28)}),
    }
    monkeypatch.setattr(models, "NETWORKS", networks)
    monkeypatch.setattr(models, "BATCHES", (3,))
    compile_for = kompilo.compile

    def named_as_nvidias(*arguments: Any, **options: Any) -> Artifact:
        made = compile_for(*arguments, **options)
        return replace(made, targets=tuple(replace(t, name="cuda:sm_80") for t in made.targets))

    monkeypatch.setattr(kompilo, "compile", named_as_nvidias)  # the loader drives no targets of tests
    bundle = tmp_path / "b"
    shutil.copytree(folder, bundle)
    said: list[str] = []
    assert not models.write(bundle, "shim:a100", said.append)
    assert said[0].startswith("broken, batch 3: not compiled: ")
    done = play(bundle, tmp_path, "--only", "models", "--device", "1", devices=2)
    assert done.returncode == 1, done.stdout + done.stderr
    broken, digits = (json.loads(line) for line in (tmp_path / "timed.jsonl").read_text().splitlines())
    assert (broken["name"], digits["name"]) == ("broken, batch 3", "digits, batch 3")
    assert broken["problems"][0].startswith("not compiled: ")
    assert not digits.get("problems")
    assert digits["seconds"]["ours"] > 0
    assert "| digits, batch 3 |" in (tmp_path / "results.md").read_text()


def test_bfloat16_and_attention_of_all_kinds_are_checked(tmp_path, monkeypatch):
    install_shim_targets(tmp_path / "path", monkeypatch)
    monkeypatch.syspath_prepend(str(BENCHMARK))
    make = importlib.import_module("make")
    wanted = {
        ("bfloat16", "matmul of two inputs, odd"),
        ("float16", "attention, causal"),
        ("float32", "attention, grouped queries, causal, mask"),
    }
    chosen = [c for c in make.check_cases() if (next(iter(c.inputs.values()))[0], c.name) in wanted]
    assert len(chosen) == len(wanted)
    for name, value in {"check_cases": lambda: chosen, "timed_cases": lambda small: [], "CHECKED": 1}.items():
        monkeypatch.setattr(make, name, value)
    monkeypatch.setattr(make, "_MEMORY", (24, 64))
    make.make(tmp_path / "b", "shim:a100", workers=1, say=lambda line: None)
    operators = {json.dumps(c["op"]) for c in json.loads((tmp_path / "b" / "bundle.json").read_text())["candidates"]}
    assert len(operators) == len(wanted)
    done = play(tmp_path / "b", tmp_path, "--only", "check")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tmp_path / "results.md").read_text()
    assert {"bfloat16", "float16", "float32"} == set(re.findall(r"^\| \w+ \| (\w+) \| [1-9]", table, re.MULTILINE))
    wrong = play(tmp_path / "b", tmp_path / "wrong", "--only", "check", fault="wrong")
    assert wrong.returncode == 1


def test_a_gpu_of_amd_is_driven_by_its_own_driver(tmp_path, monkeypatch):
    install_shim_targets(tmp_path / "path", monkeypatch)
    bundle = tmp_path / "b"
    command = [sys.executable, str(BENCHMARK / "run.py"), "--bundle", str(bundle), "--target", "rocmshim:gfx1100"]
    made = subprocess.run([*command, "--small"], capture_output=True, text=True, timeout=200, cwd="/")
    assert made.returncode == 0, made.stderr
    play(bundle, tmp_path, "--only", "speed")
    assert "driver for HIP " in (tmp_path / "results.md").read_text()
    answers = [json.loads(line) for line in (tmp_path / "timed.jsonl").read_text().splitlines()]
    # Instructions of AMD's matrix units, which products and attention take, are nothing that the stand-in runs.
    assert {a["name"] for a in answers if a["problems"]} <= {"matmul 64", "odd", "attention, depth 16"}
    assert len([a for a in answers if a.get("seconds", {}).get("ours", 0) > 0]) >= 5


def test_a_kernel_that_fails_costs_its_own_line(folder, tmp_path):
    done = play(folder, tmp_path, "--only", "speed", fault="kernel:719")
    assert done.returncode == 1
    answers = [json.loads(line) for line in (tmp_path / "timed.jsonl").read_text().splitlines()]
    assert len(answers) == len(json.loads((folder / "gpu_check.json").read_text())["timed"]) + 5
    assert all("the process ended with exit code 1." in a["problems"] for a in answers)


def test_wrong_results_are_told(folder, tmp_path):
    done = play(folder, tmp_path, "--only", "speed", fault="wrong")
    assert done.returncode == 1
    assert re.search(r"^- .*: \w+\(.*\): element \[[0-9, ]+\]: expected .*, found ", done.stdout, re.MULTILINE), (
        done.stdout
    )
    assert "wrong by" in done.stdout


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"devices": 0}, "this machine has no NVIDIA GPU."),
        ({"arch": 7.5}, "this bundle is for sm_80, but this machine"),
    ],
)
def test_a_machine_that_cannot_tell(folder, tmp_path, settings, said):
    done = play(folder, tmp_path, **settings)
    assert done.returncode == 2
    assert said in done.stderr


def test_without_a_gpu_one_sentence():
    done = subprocess.run([sys.executable, str(BENCHMARK / "run.py")], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("gpu-check: cuda: NVIDIA's driver (libcuda.so.1) is not installed.")
    assert "Hint: run.py --bundle DIR --target cuda:h200 makes a folder" in done.stderr


def test_a_target_without_kernels_for_gpus_is_refused():
    command = [sys.executable, str(BENCHMARK / "run.py"), "--target", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (2, "gpu-check: --target cpu: expected one for GPUs, cuda or rocm.\n")
