"""Bundles: made here, measured by their own files on the stand-in of the driver, results taken back as records."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kompilo.compiler.cli.tune import tune
from kompilo.compiler.device_code import Usage
from kompilo.compiler.errors import TargetError, UsageError
from kompilo.compiler.tune.device import bundle
from kompilo.compiler.tune.device.bundle import MOST_BYTES, Bundle, make_bundle
from kompilo.compiler.tune.device.local import check_local
from kompilo.compiler.tune.evidence import best_of, combine
from kompilo.compiler.tune.record import Record
from kompilo.compiler.tune.store import RecordStore
from kompilo.compiler.tune.upkeep import take_over
from kompilo.targets.cuda.target import CudaTarget

from gpu.fake_cuda import environment
from gpu.shim_support import needs_shim
from shim_target import ACTS, BUILDS, install_shim_targets, model_of

pytestmark = needs_shim

# Neither Kompilo nor TVM may be imported where a bundle is measured.
_ALONE = """
import runpy, sys
for name in ("kompilo", "tvm", "tvm_ffi", "onnx"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def play(folder: Path, *arguments: str, alone: bool = True, **settings: object) -> subprocess.CompletedProcess[str]:
    """`python3 measure.py` in the bundle, on a machine as `settings` say, or one without a driver."""
    driver = settings.pop("driver", True)
    env = environment(None, **settings) if driver else {}
    start = ["-c", _ALONE] if alone else []
    command = [sys.executable, "-P", *start, str(folder / "measure.py"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, cwd="/")


def kompilo(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line."""
    return subprocess.run([sys.executable, "-P", "-m", "kompilo", *words], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def conduct(tmp_path_factory) -> tuple[Path, Bundle]:
    """A bundle of one operator with a candidate for each way to misbehave."""
    with pytest.MonkeyPatch.context() as patch:
        install_shim_targets(tmp_path_factory.mktemp("path"), patch)
        folder = tmp_path_factory.mktemp("bundle") / "b"
        return folder, make_bundle(model_of(), "conduct:a100", folder, workers=1)


def test_a_bundle_carries_all_it_needs(conduct):
    folder, made = conduct
    assert (made.operators, made.candidates, made.failed) == (1, len(ACTS), len(BUILDS))
    assert made.bytes == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 300_000 < MOST_BYTES
    assert {p.name for p in folder.iterdir()} == {
        "README.txt", "bundle.json", "candidates.zip", "kompilo_measure", "measure.py"
    }  # fmt: skip
    assert any("as asked" in reason for reason in made.reasons)
    assert any("SIGABRT" in reason for reason in made.reasons)


@pytest.mark.parametrize("name", bundle.CARRIED)
def test_carried_files_are_for_python_3_10_and_import_nothing_but_numpy_and_each_other(name):
    tree = ast.parse((Path(bundle.__file__).parents[3] / name).read_text(), feature_version=(3, 10))
    for node in tree.body:
        if isinstance(node, ast.Import):
            assert {a.name.partition(".")[0] for a in node.names} <= {*sys.stdlib_module_names, "numpy"}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert str(node.module).partition(".")[0] in sys.stdlib_module_names
            assert (node.module, "UTC") not in [("datetime", a.name) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = Path(name).parents[node.level - 1] / str(node.module or "").replace(".", "/")
            modules = [package] if node.module else [package / a.name for a in node.names]
            for module in modules:
                inside = [f"{module}.py", f"{module}/__init__.py"]
                assert any(place in bundle.CARRIED for place in inside), module


def records_of(path: Path) -> dict[str, Record]:
    return {r.point.config["act"]: r for r in map(Record.from_line, path.read_text().splitlines())}


def test_every_fate_of_a_candidate_becomes_a_record(conduct, tmp_path):
    folder, _ = conduct
    results = tmp_path / "results.jsonl"
    done = play(folder, "--results", str(results), "--timeout", "2")
    assert done.returncode == 0, done.stderr
    assert "NVIDIA A100-SXM4-80GB (cuda-a100), driver for CUDA 13.0: 9 candidates" in done.stdout
    found = records_of(results)
    fates = {act: (r.measurement.status, r.measurement.reason) for act, r in found.items()}
    assert fates.pop("good") == ("ok", "")
    good = found["good"].measurement
    assert good.seconds == pytest.approx(5.128e-6, rel=1e-3)
    assert good.error < 1e-5
    expected = {
        "wrong": ("wrong_result", "element [0, 0]"),
        "hang": ("timed_out", "no end after 2 s"),
        "crash": ("crashed", "the worker ended with signal 11"),
        "launch:701": ("run_failed", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"),
        "kernel:719": ("crashed", "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure"),
        "abort": ("crashed", "SIGABRT"),
        "refuse": ("build_failed", "as asked"),
        "spill": ("pruned", "each thread keeps 400 bytes in memory that do not fit its 255 registers."),
    }
    assert {act: status for act, (status, _) in fates.items()} == {act: e[0] for act, e in expected.items()}
    for act, (_, words) in expected.items():
        assert words in fates[act][1], act
    assert good.usage == Usage(40, 0, 4096, 0.75, "registers")
    assert "1 right, 8 failed" in done.stdout

    # They come back as records, and decide.
    store = RecordStore(tmp_path / "records")
    assert (taken := take_over(store, [results])).added == 9
    assert not taken.problems
    (op,) = {r.op for r in found.values()}
    best = best_of(combine(store.find(op, "cuda-a100")).values())
    assert best is not None
    assert best.point.config["act"] == "good"


def test_a_run_goes_on_where_it_was(conduct, tmp_path):
    folder, _ = conduct
    results = tmp_path / "results.jsonl"
    stopped = play(folder, "--results", str(results), "--minutes", "0")
    assert "the time is up" in stopped.stdout
    assert not results.exists()
    play(folder, "--results", str(results), "--timeout", "1")
    lines = results.read_text().splitlines()
    results.write_text("\n".join([*lines[:-1], lines[-1][:40]]))
    again = play(folder, "--results", str(results), "--timeout", "1")
    assert again.stdout.count("9/9") == 1
    assert "8/9" not in again.stdout
    found = results.read_text().splitlines()
    assert found[:-2] == lines[:-1]
    assert json.loads(found[-1])["config"] == json.loads(lines[-1])["config"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"driver": False}, "this machine has no NVIDIA driver (libcuda.so.1)."),
        ({"devices": 0}, "this machine has no NVIDIA GPU."),
        ({"fault": "init:3"}, "the driver does not work: CUDA_ERROR_NOT_INITIALIZED: an error."),
        ({"arch": 9.0, "name": "NVIDIA H200"}, "this bundle is for sm_80, but this machine's GPU (NVIDIA H200) has the "
         "version 9.0."),
        ({"arch": 7.5, "name": "Tesla T4"}, "this bundle is for sm_80, but this machine's GPU (Tesla T4) has the "
         "version 7.5."),
    ],
    ids=["no driver", "no device", "broken driver", "newer", "older"],
)  # fmt: skip
def test_a_machine_that_cannot_measure(conduct, tmp_path, settings, said):
    done = play(conduct[0], "--results", str(tmp_path / "r.jsonl"), **settings)
    assert (done.returncode, done.stderr) == (2, f"measure.py: {said}\n")
    assert not (tmp_path / "r.jsonl").exists()


def test_a_device_number_that_is_not_there(conduct):
    done = play(conduct[0], "--device", "3")
    assert (done.returncode, done.stderr) == (2, "measure.py: this machine has 1 NVIDIA GPUs, and none of number 3.\n")


def test_code_that_the_driver_does_not_take_is_not_the_candidates_fault(conduct, tmp_path):
    """Else an old driver would rule out every config for good."""
    results = tmp_path / "r.jsonl"
    done = play(conduct[0], "--results", str(results), fault="load:209", version=12040)
    said = "the driver, for CUDA 12.4, does not take this bundle's code: the GPU: CUDA_ERROR_NO_BINARY_FOR_GPU"
    assert done.returncode == 2
    assert done.stderr.startswith(f"measure.py: {said}")
    assert not results.exists() or not {*records_of(results)} & {*ACTS}


def test_records_are_filed_by_the_gpu_that_was_there(conduct, tmp_path):
    """A bundle for an A100, measured on an A10 whose driver runs its code."""
    results = tmp_path / "r.jsonl"
    play(conduct[0], "--results", str(results), "--timeout", "1", arch=8.6, name="NVIDIA A10X 24GB")
    assert {r.target for r in records_of(results).values()} == {"cuda-a10x-24gb"}


def test_real_cubins_in_a_bundle(tmp_path):
    """Real machine code, whose kernels the stand-in does not run: each result is wrong, and told so."""
    folder, model, results = tmp_path / "b", tmp_path / "m.onnx", tmp_path / "r.jsonl"
    model.write_bytes(model_of())
    made = kompilo("tune", str(model), "--target", "cuda:sm_80", "--bundle", str(folder), "--trials", "3", "--json")
    facts = json.loads(made.stdout)
    assert (facts["target"], facts["candidates"], facts["failed"]) == ("cuda-a100", 3, 0)
    assert facts["left_out"] > 0
    done = play(folder, "--results", str(results))
    assert done.returncode == 0, done.stderr
    measured = [Record.from_line(line).measurement for line in results.read_text().splitlines()]
    assert [m.status for m in measured] == ["wrong_result"] * 3
    assert all("found nan" in m.reason for m in measured)
    taken = kompilo("records", "import", str(results), "--records", str(tmp_path / "mine"))
    assert "3 records added" in taken.stdout


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_operators_of_sixteen_bits(tmp_path, shim_targets, precision):
    """float16 operands, sums in float32, casts: the reference knows them, so a bundle has them."""
    model, folder, results = model_of(33, 47, 40, "float16"), tmp_path / "b", tmp_path / "r.jsonl"
    if precision == "fp16":
        model = model_of(33, 47, 40)
    made = make_bundle(model, "shim:a100", folder, trials=2, workers=1, precision=precision)
    assert (made.operators, made.candidates, made.failed, made.skipped) == (1, 2, 0, ())
    done = play(folder, "--results", str(results))
    assert done.returncode == 0, done.stderr
    found = [Record.from_line(line) for line in results.read_text().splitlines()]
    assert [(r.measurement.status, r.measurement.reason) for r in found] == [("ok", "")] * 2
    assert {t.dtype for r in found for t in r.op.inputs} == {"float16"}
    assert all(0 < r.measurement.error < 1e-3 for r in found)


@pytest.fixture(scope="module")
def amd(tmp_path_factory) -> Path:
    """A bundle for an AMD GPU."""
    with pytest.MonkeyPatch.context() as patch:
        install_shim_targets(tmp_path_factory.mktemp("path"), patch)
        folder = tmp_path_factory.mktemp("bundle") / "b"
        made = make_bundle(model_of(37, 29, 41), "rocmshim:gfx1100", folder, trials=2, workers=1)
        assert (made.target, made.candidates, made.failed) == ("rocm-rx7900", 2, 0), made.reasons
        return folder


def test_a_bundle_on_an_amd_gpu(amd, tmp_path):
    """By HIP's names for the same calls; the record is filed by architecture and size."""
    results = tmp_path / "r.jsonl"
    done = play(amd, "--results", str(results), name="AMD Radeon RX 7900 XTX")
    assert done.returncode == 0, done.stderr
    assert "AMD Radeon RX 7900 XTX (rocm-gfx1100-108cu), driver for HIP 6.3: 2 candidates" in done.stdout
    found = [Record.from_line(line) for line in results.read_text().splitlines()]
    assert [(r.target, r.measurement.status) for r in found] == [("rocm-gfx1100-108cu", "ok")] * 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"driver": False}, "this machine has no AMD driver (libamdhip64.so)."),
        ({"devices": 0}, "this machine has no AMD GPU."),
        ({"gfx": "gfx942:sramecc+:xnack-", "name": "AMD Instinct MI300X"}, "this bundle is for gfx1100, but this "
         "machine's GPU (AMD Instinct MI300X) has the version gfx942:sramecc+:xnack-."),
    ],
    ids=["no driver", "no device", "another"],
)  # fmt: skip
def test_a_machine_without_that_amd_gpu(amd, tmp_path, settings, said):
    done = play(amd, "--results", str(tmp_path / "r.jsonl"), **settings)
    assert (done.returncode, done.stderr) == (2, f"measure.py: {said}\n")


def test_every_operator_has_its_start_first(tmp_path):
    """A bundle of few candidates, or a run that is stopped early, is of use to the whole model."""
    folder = tmp_path / "b"
    made = make_bundle("zoo:mnist", "cuda:sm_80", folder, trials=7, inputs={"image": (1, 1, 28, 28)}, workers=1)
    planned = json.loads((folder / "bundle.json").read_text())["candidates"]
    first = [c["words"] for c in planned[: made.operators]]
    assert len({*first}) == made.operators > 2
    assert len(planned) == 7


def test_a_bundle_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "MOST_BYTES", 5000)
    made = make_bundle(model_of(), "cuda:sm_80", tmp_path / "b", trials=20, workers=1)
    assert made.stopped == "the bundle is full"
    assert 1 <= made.candidates < 5


def test_options_that_do_not_go_with_a_bundle(tmp_path):
    (tmp_path / "m.onnx").write_bytes(model_of())
    with pytest.raises(UsageError, match="expected --bundle without --html and without a cluster"):
        tune(str(tmp_path / "m.onnx"), "cuda:sm_80", bundle=tmp_path / "b", html=tmp_path / "report.html")


def test_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="expected a new or empty folder"):
        make_bundle(model_of(), "cuda:sm_80", tmp_path)
    with pytest.raises(TargetError, match="expected a target for GPUs, cuda or rocm, found 'cpu'"):
        make_bundle(model_of(), "cpu", tmp_path / "b")


def test_without_the_gpu_a_bundle_is_offered():
    def missing(name):
        raise OSError(name)

    with pytest.raises(TargetError, match="driver is not installed on this machine. Hint: tune with --bundle DIR"):
        check_local(CudaTarget.from_preset("h100"), missing)
