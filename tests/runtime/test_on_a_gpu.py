"""Loading and running on a GPU, which stand-ins of NVIDIA's libraries play; TVM's CUDA runtime runs on them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import kompilo
from kompilo.compiler.artifact.artifact import Artifact

from gpu.fake_cuda import environment
from gpu.shim_support import needs_shim
from shim_target import install_shim_targets

pytestmark = needs_shim

SIZES = (29, 17, 23, 13)


def weights() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype("f4") for shape in itertools.pairwise(SIZES)]


def expected(x: np.ndarray) -> np.ndarray:
    for weight in weights():
        x = np.maximum(x @ weight, 0)
    return x


def model_of(rows: int | str) -> bytes:
    """Three matmuls, each behind the other, with ReLUs."""
    nodes, value = [], "x"
    for k in range(3):
        nodes += [
            helper.make_node("MatMul", [value, f"w{k}"], [f"m{k}"]),
            helper.make_node("Relu", [f"m{k}"], [f"r{k}"]),
        ]
        value = f"r{k}"
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, size])
        for name, size in (("x", SIZES[0]), ("r2", SIZES[-1]))
    )
    constants = [numpy_helper.from_array(w, f"w{k}") for k, w in enumerate(weights())]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], constants), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 10
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def artifact_of(
    model: bytes | str, path: Path, stand_in: str = "shim:a100", name: str = "cuda:sm_80", **inputs: tuple[int, ...]
) -> Path:
    """An artifact for the CPU, and for a GPU as the stand-in has it."""
    made = kompilo.compile(model, target=["cpu", stand_in], inputs=inputs or None, records=False)
    cpu, gpu = made.targets
    targets = (dataclasses.replace(gpu, name=name), cpu)
    Artifact(made.inputs, made.outputs, targets, made.weights, {}).save(path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    with pytest.MonkeyPatch.context() as patch:
        install_shim_targets(folder / "path", patch)
        files = {n: artifact_of(model_of(rows), folder / f"{n}.kpo") for n, rows in (("fixed", 5), ("open", "n"))}
        return {**files, "mnist": artifact_of("zoo:mnist", folder / "mnist.kpo", image=(3, 1, 28, 28))}


_HEAD = """
import sys, os
import numpy as np, kompilo
from kompilo.compiler.errors import KompiloError
def x(rows=5, seed=1):
    return np.random.default_rng(seed).standard_normal((rows, 29)).astype("f4")
def say(*words):
    print(*words, flush=True)
def log():
    with open(os.environ["FAKE_CUDA_LOG"]) as file: return file.read().splitlines()
path = sys.argv[1]
"""


def on_gpu(path: Path, script: str, tmp_path: Path, **settings: object) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _HEAD + script, str(path)],
        env=environment(tmp_path / "log", **settings), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def logged(tmp_path: Path, start: str) -> list[str]:
    return [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith(start)]


RUNS = """
model = kompilo.load(path)
say(model.target.key, model)
for seed in (1, 2, 3):
    say("run")
    before = len(log())
    np.save(f"{os.environ['OUT']}/{seed}.npy", model(x(seed=seed)))
    lines = log()[before:]
    say(sum(l.startswith("launch") for l in lines), sum(l.startswith("graph") for l in lines),
        sum(l.startswith("synchronize") for l in lines), [l for l in lines if l.startswith("copy")])
"""


@pytest.mark.parametrize("graphs", ["1", "0"])
def test_a_model_runs(files, tmp_path, monkeypatch, graphs):
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setenv("KOMPILO_CUDA_GRAPHS", graphs)
    said = on_gpu(files["fixed"], RUNS, tmp_path).split("run\n")
    assert said[0].startswith("cuda-a100 <Module (x: float32[5, 29])")
    for seed in (1, 2, 3):
        x = np.random.default_rng(seed).standard_normal((5, 29)).astype("f4")
        np.testing.assert_allclose(np.load(tmp_path / f"{seed}.npy"), expected(x), rtol=1e-4, atol=1e-4)
    # One copy there and one back, both through pinned memory; one wait; and three kernels, however they are launched.
    copies = "['copy up 580 pinned', 'copy down 260 pinned']"
    assert said[3] == f"3 {graphs} 1 {copies}\n"
    captured = logged(tmp_path, "captured")
    assert captured == (["captured 1"] if graphs == "1" else [])


def test_a_network_gives_what_it_gives_on_the_cpu(files, tmp_path):
    script = """
gpu, cpu = kompilo.load(path), kompilo.load(path, device="cpu")
for seed in (1, 2):
    image = np.random.default_rng(seed).standard_normal((3, 1, 28, 28)).astype("f4")
    say(gpu.target.name, np.abs(gpu(image) - cpu(image)).max() < 1e-5)
"""
    assert on_gpu(files["mnist"], script, tmp_path) == "cuda:sm_80 True\n" * 2
    assert len(logged(tmp_path, "captured")) == 1
    assert len(logged(tmp_path, "graph")) == 1


def test_open_sizes(files, tmp_path):
    script = """
model = kompilo.load(path, device="cuda")
for rows in (5, 1, 7, 5):
    say(np.abs(model(x(rows))).sum(), model(x(rows)).shape)
"""
    said = on_gpu(files["open"], script, tmp_path).splitlines()
    for rows, line in zip((5, 1, 7, 5), said, strict=True):
        x = np.random.default_rng(1).standard_normal((rows, 29)).astype("f4")
        assert float(line.split()[0]) == pytest.approx(np.abs(expected(x)).sum(), rel=1e-4)
        assert line.endswith(f"({rows}, 13)")
    assert not logged(tmp_path, "captured")


DLPACK = """
import dataclasses
from kompilo.compiler.runtime.devices import KINDS
model = kompilo.load(path)
accelerator = model._accelerator
class Producer:
    "A tensor of another library's."
    def __init__(self, tensor): self.tensor, self.streams = tensor, []
    def __dlpack_device__(self): return self.tensor.__dlpack_device__()
    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        return self.tensor.__dlpack__()
given = Producer(accelerator.upload(x()))
wanted = model(x())
before = len(log())
result = model(given)
say([l for l in log()[before:] if l.startswith("copy")], given.streams, result.__dlpack_device__(), tuple(result.shape))
say(np.array_equal(accelerator.download(result), wanted))
again = model(given)
say(again.data_ptr() != result.data_ptr(), np.array_equal(accelerator.download(result), wanted))
for bad in (accelerator.upload(x(4)), accelerator.upload(x().astype("f8"))):
    try:
        model(bad)
    except KompiloError as error:
        say(type(error).__name__, error)
class Elsewhere(Producer):
    def __dlpack_device__(self): return (2, 1)
try:
    model(Elsewhere(given.tensor))
except KompiloError as error:
    say(error)
class Broken(Producer):
    def __dlpack__(self, stream=None): raise BufferError("it is strided")
try:
    model(Broken(given.tensor))
except KompiloError as error:
    say(error)
say(np.array_equal(model(x()), wanted))
given.streams.clear()
accelerator.kind = dataclasses.replace(accelerator.kind, default_stream=KINDS["hsaco"].default_stream)
model(given)
say(given.streams)
"""


def test_tensors_on_the_gpu_are_used_where_they_lie(files, tmp_path):
    said = on_gpu(files["fixed"], DLPACK, tmp_path).splitlines()
    assert said == [
        "[] [1] (2, 0) (5, 13)",
        "True",
        "True True",
        "InputError input 'x': expected float32[5, 29], found float32[4, 29].",
        "InputError input 'x': expected float32, found float64.",
        "input 'x' lies on cuda:1, but the model is on cuda:0.",
        "input 'x': the tensor on the GPU cannot be used as it lies (it is strided). Hint: make it contiguous, and "
        "aligned to 64 bytes.",
        "True",
        "[0]",  # what ROCm's default stream is called; CUDA's is 1
    ]


STREAM = """
import tvm_ffi
model = kompilo.load(path)
accelerator = model._accelerator
stream = tvm_ffi.get_global_func("runtime.Device_StreamCreate")(accelerator.device)
given, wanted = accelerator.upload(x()), model(x())
class Producer:
    def __dlpack_device__(self): return given.__dlpack_device__()
    def __dlpack__(self, stream=None):
        self.stream = stream
        return given.__dlpack__()
producer = Producer()
def did(handle, **more):
    before = len(log())
    result = model.enqueue(x=producer, stream=handle)
    lines = [l.split() for l in log()[before:] if l.startswith(("launch", "graph", "synchronize", "copy"))]
    say(producer.stream == (handle or 1), [l[0] + l[-1] * (l[-1] == "stream") for l in lines])
    return accelerator.download(result)
say(np.array_equal(did(stream), wanted))
say(np.array_equal(did(stream), wanted))
say(np.array_equal(did(0), wanted))
try:
    model.enqueue(x(), stream=stream)
except KompiloError as error:
    say(error)
try:
    kompilo.load(path, device="cpu").enqueue(x())
except KompiloError as error:
    say(error)
"""


def test_work_on_a_stream_is_queued_and_not_waited_for(files, tmp_path, monkeypatch):
    monkeypatch.setenv("KOMPILO_CUDA_GRAPHS", "0")
    kernels = ["launchstream"] * 3
    assert on_gpu(files["fixed"], STREAM, tmp_path).splitlines() == [
        f"True {['synchronize', *kernels]}",  # what ran on the default stream before has to end first
        "True",
        f"True {kernels}",
        "True",
        "True ['synchronize', 'launch', 'launch', 'launch']",
        "True",
        "input 'x': expected a tensor on the GPU, found ndarray.",
        "enqueue: expected a model that is loaded on a GPU, found one on the CPU.",
    ]


LOAD = """
try:
    model = kompilo.load(path, device=sys.argv[2] if len(sys.argv) > 2 else "cuda")
    model(x())
    say("ran on", model.target.key)
except KompiloError as error:
    say(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"devices": 0}, "ArtifactError the artifact was built for cuda-a100, but this machine has no cuda device."),
        ({"arch": 7.5, "name": "Tesla T4"}, "ArtifactError the artifact was built for sm_80, but this machine's GPU "
         "(Tesla T4) has the version 7.5."),
        ({"version": 12040}, "ArtifactError the artifact was built for cuda-a100, but this machine's driver is for "
         "CUDA 12.4 where TVM's runtime needs one for 13.0 or later."),
        ({"memory": 1000}, "ArtifactError the GPU has not enough memory for the model's N bytes of weights."),
        ({"memory": 6300}, "InputError the GPU has not enough memory for inputs of these sizes."),
        ({"fault": "kernel:702"}, "KompiloError a kernel ran longer than this machine allows its GPU, and was ended; "
         "the process must be started again."),
        ({"fault": "kernel:716"}, "KompiloError a kernel read or wrote the GPU's memory at an address that is not "
         "aligned; the process must be started again."),
        ({"fault": "launch:701"}, "KompiloError a kernel needs more registers or threads than this GPU has."),
        ({"fault": "load:209"}, "KompiloError the artifact's code is not for this GPU."),
        ({"fault": "launch:500"}, "KompiloError the GPU's driver failed (CUDA_ERROR_NOT_FOUND)."),
        ({"fault": "kernel:719"}, "KompiloError a kernel failed on the GPU; the process must be started again."),
    ],
    ids=["no device", "architecture", "driver", "weights", "memory", "time-out", "failure",
         "alignment", "resources", "code", "another"],
)  # fmt: skip
def test_what_can_go_wrong_is_a_sentence_that_offers_the_cpu(files, tmp_path, settings, said):
    found = on_gpu(files["fixed"], LOAD, tmp_path, **settings)
    packed = re.sub(r"\d{4} bytes", "N bytes", found)  # templates pack weights as they like
    assert packed == f"{said} Hint: load it with device='cpu'.\n"


@pytest.mark.parametrize("verb", ["run", "verify"])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (None, "the artifact was built for cuda-a100, but this machine has no cuda driver (libcuda.so.1)."),
        ({"devices": 0}, "the artifact was built for cuda-a100, but this machine has no cuda device."),
        ({"fault": "kernel:702"}, "a kernel ran longer than this machine allows its GPU, and was ended; the process "
         "must be started again."),
    ],
    ids=["no driver", "no device", "time-out"],
)  # fmt: skip
def test_the_command_line_says_the_same_and_names_its_option(files, tmp_path, verb, settings, said):
    model = tmp_path / "m.onnx"
    model.write_bytes(model_of(5))
    command = [sys.executable, "-P", "-m", "kompilo", verb, str(files["fixed"]), "--device", "cuda"]
    env = environment(None, **settings) if settings is not None else None
    done = subprocess.run(
        [*command, *([str(model)] if verb == "verify" else [])], env=env, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"kompilo: error: {said}\nhint: --device cpu runs it on the CPU.\n")


def test_bench_measures_on_the_device_that_is_asked_for(files, tmp_path):
    """The same artifact on its GPU and on the CPU; without a GPU, one sentence."""

    def bench(device: str, **settings: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "kompilo", "bench", str(files["fixed"]), "--device", device]
        command += ["--against", "none", "--seconds", "0.01", "--json"]
        env = environment(tmp_path / device, **settings)
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)

    found = {}
    for device in ("cuda", "cpu"):
        done = bench(device)
        assert done.returncode == 0, done.stderr
        found[device] = json.loads(done.stdout)["results"][0]["timings"][0]["runs_on"]
    cpu = Artifact.open(files["fixed"]).targets[1].key
    assert found == {"cuda": "cuda-a100", "cpu": cpu}
    assert (tmp_path / "cuda").exists()
    assert not (tmp_path / "cpu").exists()
    message = "the artifact was built for cuda-a100, but this machine has no cuda device."
    error = {"message": message, "hint": "--device cpu runs it on the CPU.", "exit_code": 2}
    assert json.loads(bench("cuda", devices=0).stdout) == {"error": error}


def test_threads_take_turns(files, tmp_path):
    script = """
import threading
model = kompilo.load(path)
found = {}
def run(seed):
    found[seed] = [model(x(seed=seed)) for _ in range(3)]
threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
alone = kompilo.load(path)
say(all(np.array_equal(y, alone(x(seed=seed))) for seed, ys in found.items() for y in ys), len(found))
"""
    assert on_gpu(files["fixed"], script, tmp_path) == "True 3\n"


def test_a_capture_that_fails_is_done_without(files, tmp_path):
    script = """
model = kompilo.load(path)
execution = model._take_idle().__self__
def broken(*_): raise RuntimeError("CUDA: operation not permitted when stream is capturing")
say(len(execution._functions))
execution._functions[0] = broken
model._make_idle(execution.bind())
first = model(x())
say(len(execution._functions), np.array_equal(first, model(x())))
"""
    assert on_gpu(files["fixed"], script, tmp_path) == "2\n1 True\n"
