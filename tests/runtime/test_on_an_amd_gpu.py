"""Loading and running on an AMD GPU with TVM's wheels, which have no runtime for it; a stand-in plays HIP.

What the stand-in runs is the same TIR as CUDA C++ on the CPU: AMD's instructions run nowhere here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_on_a_gpu import artifact_of, expected, logged, model_of, on_gpu
from test_sharing_a_gpu import FORK

import kompilo
from kompilo.compiler.artifact.artifact import Artifact
from kompilo.targets.gpu.elf import ElfFile
from kompilo.targets.gpu.resources import _amd_metadata

from gpu.fake_cuda import environment
from gpu.shim_support import needs_shim
from shim_target import install_shim_targets

pytestmark = needs_shim

STAND_IN = ("rocmshim:gfx1100", "rocm:gfx1100")
BYTES = {"handle": 8, "int64": 8, "int32": 4, "float32": 4}
LINKER = next((name for name in ("ld.lld-19", "ld.lld-18", "ld.lld-17", "ld.lld") if shutil.which(name)), None)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    with pytest.MonkeyPatch.context() as patch:
        install_shim_targets(folder / "path", patch)
        shapes: dict[str, dict[str, tuple[int, ...]]] = {"mnist": {"image": (3, 1, 28, 28)}}
        models = {"fixed": model_of(5), "open": model_of("n"), "mnist": "zoo:mnist"}
        return {n: artifact_of(m, folder / f"{n}.kpo", *STAND_IN, **shapes.get(n, {})) for n, m in models.items()}


RUNS = """
model, cpu = kompilo.load(path), kompilo.load(path, device="cpu")
say(model.target.name, model)
for seed in (1, 2, 3):
    before = len(log())
    say(np.abs(model(x(seed=seed)) - cpu(x(seed=seed))).max() < 1e-4, log()[before:])
"""


def test_a_model_runs(files, tmp_path):
    first, *runs = on_gpu(files["fixed"], RUNS, tmp_path).splitlines()
    assert first.startswith("rocm:gfx1100 <Module (x: float32[5, 29])")
    assert all(run.startswith("True [") for run in runs)
    # One copy there and one back, both through pinned memory; one wait; three kernels; memory is kept for later calls.
    words = re.sub(r"(matmul_\d)_kernel[ \d]+", r"\1", runs[-1])
    kernels = ", ".join(f"'launch matmul_{k}'" for k in range(3))
    assert words == f"True ['copy up 580 pinned', {kernels}, 'copy down 260 pinned', 'synchronize']"


def test_open_sizes(files, tmp_path):
    script = """
model = kompilo.load(path, device="rocm")
for rows in (5, 1, 37, 5):
    np.save(f"{os.environ['OUT']}/{rows}.npy", model(x(rows)))
"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUT", str(tmp_path))
        on_gpu(files["open"], script, tmp_path)
    for rows in (5, 1, 37):
        x = np.random.default_rng(1).standard_normal((rows, 29)).astype("f4")
        np.testing.assert_allclose(np.load(tmp_path / f"{rows}.npy"), expected(x), rtol=1e-4, atol=1e-4)


def test_a_network_gives_what_it_gives_on_the_cpu(files, tmp_path):
    script = """
gpu, cpu = kompilo.load(path), kompilo.load(path, device="cpu")
for seed in (1, 2):
    image = np.random.default_rng(seed).standard_normal((3, 1, 28, 28)).astype("f4")
    say(gpu.target.name, np.abs(gpu(image) - cpu(image)).max() < 1e-5)
"""
    assert on_gpu(files["mnist"], script, tmp_path) == "rocm:gfx1100 True\n" * 2


LOAD = """
try:
    model = kompilo.load(path, device=os.environ.get("DEVICE", "rocm"))
    model(x())
    say("ran on", model.target.name)
except KompiloError as error:
    say(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"devices": 0}, "ArtifactError the artifact was built for rocm-rx7900, but this machine has no rocm device."),
        ({"gfx": "gfx942:sramecc+", "name": "AMD Instinct MI300X"}, "ArtifactError the artifact was built for gfx1100, "
         "but this machine's GPU (AMD Instinct MI300X) has the version gfx942:sramecc+."),
        ({"memory": 1000}, "ArtifactError the GPU has not enough memory for the model's N bytes of weights."),
        ({"memory": 5300}, "InputError the GPU has not enough memory for inputs of these sizes."),
        ({"memory": 6300}, "InputError the GPU has not enough memory for inputs of these sizes."),
        ({"fault": "kernel:702"}, "KompiloError a kernel ran longer than this machine allows its GPU, and was ended; "
         "the process must be started again."),
        ({"fault": "launch:701"}, "KompiloError a kernel needs more registers or threads than this GPU has."),
        ({"fault": "load:209"}, "KompiloError the artifact's code is not for this GPU."),
        ({"fault": "launch:500"}, "KompiloError the GPU's driver failed (hipErrorNotFound)."),
        ({"fault": "init:3"}, "ArtifactError the artifact was built for rocm-rx7900, but AMD's driver does not work "
         "(hipErrorNotInitialized: an error)."),
    ],
    ids=["no device", "architecture", "weights", "input", "intermediate", "time-out", "resources", "code", "another",
         "driver"],
)  # fmt: skip
def test_what_can_go_wrong_is_a_sentence_that_offers_the_cpu(files, tmp_path, settings, said):
    found = on_gpu(files["fixed"], LOAD, tmp_path, **settings)
    packed = re.sub(r"\d{4} bytes", "N bytes", found)  # templates pack weights as they like
    assert packed == f"{said} Hint: load it with device='cpu'.\n"


SCARCE = """
model = kompilo.load(path)
for rows in (5, 90, 900, 7):
    before = len(log())
    try:
        said = model(x(rows)).shape
    except KompiloError as error:
        said = type(error).__name__
    say(rows, said, any(l.startswith("free 4096") for l in log()[before:]))
"""


def test_after_want_of_memory_the_model_goes_on(files, tmp_path):
    """Sizes of before leave room for others: what they took is given back when there is no more."""
    said = on_gpu(files["open"], SCARCE, tmp_path, memory=44000).splitlines()
    assert said == ["5 (5, 13) False", "90 (90, 13) True", "900 InputError True", "7 (7, 13) False"]


MANY = """
import gc
other = sys.argv[1].replace("fixed", "open")
models = [kompilo.load(p) for p in (path, other)]  # their kernels have the same names
wanted = [kompilo.load(p, "cpu")(x()) for p in (path, other)]
def held():
    lines = [l.split() for l in log()]
    return sum(int(l[1]) * {"allocate": 1, "free": -1}.get(l[0], 0) for l in lines if l[0] in ("allocate", "free"))
for k in range(12):
    say(all(np.allclose(m(x()), w, atol=1e-4) for m, w in zip(models, wanted)), held() if k > 2 else "")
del models
gc.collect()
from kompilo.compiler.runtime.library import clear_memory
import tvm_ffi
clear_memory(tvm_ffi)
say(held(), sum(l == "module" for l in log()), sum(l == "unload" for l in log()))
again = kompilo.load(path)
say(np.allclose(again(x()), wanted[0], atol=1e-4), sum(l == "module" for l in log()))
keep = [again]; keep.append(keep)  # memory of the GPU's that is in use when the interpreter ends
"""


def test_two_artifacts_many_calls_and_nothing_is_left(files, tmp_path):
    said = on_gpu(files["fixed"], MANY, tmp_path).splitlines()
    assert {line.split()[0] for line in said[:12]} == {"True"}
    assert len({line.split()[1] for line in said[3:12]}) == 1
    assert said[12:] == ["0 2 2", "True 3"]


DLPACK = """
import tvm_ffi
model = kompilo.load(path)
accelerator = model._accelerator
class Producer:
    "A tensor of another library's."
    def __init__(self, tensor): self.tensor, self.streams = tensor, []
    def __dlpack_device__(self): return self.tensor.__dlpack_device__()
    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        return self.tensor.__dlpack__()
given, wanted = Producer(accelerator.upload(x())), model(x())
before = len(log())
result = model(given)
say([l for l in log()[before:] if l.startswith("copy")], given.streams, result.__dlpack_device__(), tuple(result.shape))
say(np.array_equal(accelerator.download(result), wanted))
again = model(given)
say(again.data_ptr() != result.data_ptr(), np.array_equal(accelerator.download(result), wanted))
stream = tvm_ffi.get_global_func("runtime.Device_StreamCreate")(accelerator.device)
def did(handle):
    before = len(log())
    result = model.enqueue(given, stream=handle)
    lines = [l.split() for l in log()[before:] if l.startswith(("launch", "synchronize", "copy", "follow"))]
    say(given.streams[-1] == handle, [l[0] + l[-1] * (l[-1] == "stream") for l in lines])
    say(np.array_equal(accelerator.download(result), wanted))
did(stream)
did(0)
tvm_ffi.get_global_func("runtime.Device_StreamFree")(accelerator.device, stream)
say(np.array_equal(model(x()), wanted))
try:
    model.enqueue(x(), stream=stream)
except KompiloError as error:
    say(error)
accelerator._own.pending.error = KeyboardInterrupt()
try:
    model(given)
except KeyboardInterrupt:
    say("interrupted", np.array_equal(model(x()), wanted))
class Elsewhere(Producer):
    def __dlpack_device__(self): return (10, 1)
try:
    model(Elsewhere(given.tensor))
except KompiloError as error:
    say(error)
"""


def test_tensors_and_streams_of_other_libraries(files, tmp_path):
    said = on_gpu(files["fixed"], DLPACK, tmp_path).splitlines()
    kernels = ["launchstream"] * 3
    assert said == [
        "[] [0] (10, 0) (5, 13)",
        "True",
        "True True",
        f"True {['synchronize', *kernels, 'follow']}",  # what ran on the default stream before has to end first
        "True",
        f"True {['synchronize', *['launch'] * 3]}",
        "True",
        "True",
        "input 'x': expected a tensor on the GPU, found ndarray.",
        "interrupted True",
        "input 'x' lies on rocm:1, but the model is on rocm:0.",
    ]


END = """
import atexit, tvm_ffi
from kompilo.compiler.runtime.library import clear_memory
def late():
    clear_memory(tvm_ffi)
    try:
        model(x())
    except KompiloError as error:
        say(error)
atexit.register(late)
model = kompilo.load(path)
kept = [model, model._accelerator.upload(x())]
kept.append(kept)  # the GPU's memory is in use when the interpreter ends
say(model(x()).shape)
"""


def test_the_end_of_the_interpreter(files, tmp_path):
    assert on_gpu(files["fixed"], END, tmp_path).splitlines() == [
        "(5, 13)",
        "a GPU of AMD's does nothing more for a process that is about to end, or was forked.",
    ]
    assert not logged(tmp_path, "free")


SECOND = """
models = [kompilo.load(path, device) for device in ("rocm:1", "rocm:0")]
wanted = kompilo.load(path, "cpu")(x())
for model in (*models, *models):
    before = len(log())
    say(np.allclose(model(x()), wanted, atol=1e-4), [l for l in log()[before:] if l.startswith("device")])
try:
    kompilo.load(path, "rocm:2")
except KompiloError as error:
    say(error)
import threading
found, held = [], []
def run():
    for _ in range(4):
        held.append(models[0](x()))
        found.append(np.allclose(held[-1], wanted, atol=1e-4))
threads = [threading.Thread(target=run) for _ in range(3)]
[t.start() for t in threads]; [t.join(60) for t in threads]
say(len(found), all(found))
"""


def test_the_second_of_two_gpus_and_threads(files, tmp_path):
    """The stand-in refuses to launch a kernel on a GPU that its code was not loaded for."""
    said = on_gpu(files["fixed"], SECOND, tmp_path, devices=2).splitlines()
    assert said == [
        "True ['device 1']",
        "True ['device 0']",
        "True ['device 1']",
        "True ['device 0']",
        "the artifact was built for rocm-rx7900, but this machine has 2 rocm devices, and none of number 2. Hint: load "
        "it with device='cpu'.",
        "12 True",
    ]


def test_a_gpu_does_not_survive_a_fork(files, tmp_path):
    """As with NVIDIA's; memory that the child inherits and gives back is not the child's."""
    script = FORK.replace('"cuda"', '"rocm"').replace("finally:", "    del model\n    finally:")
    said = on_gpu(files["fixed"], script, tmp_path).splitlines()
    forked = "a GPU does not survive a fork of the process, and this one was forked since the model was loaded."
    assert said[:2] == [f"{forked} Hint: load it with device='cpu'."] * 2
    assert "this process was forked from one that had found its GPU" in said[2]
    assert all(line.startswith("cpu") and line.endswith("True") for line in said[3:5])
    assert said[5:] == ["turn True", "True"]


@pytest.mark.parametrize("verb", ["run", "verify"])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (None, "the artifact was built for rocm-rx7900, but this machine has no rocm driver (libamdhip64.so)."),
        ({}, ""),
    ],
    ids=["no driver", "a driver"],
)
def test_the_command_line_runs_or_says_why_not(files, tmp_path, verb, settings, said):
    """Without a driver one sentence; with one the model runs there."""
    model = tmp_path / "m.onnx"
    model.write_bytes(model_of(5))
    command = [sys.executable, "-P", "-m", "kompilo", verb, str(files["fixed"]), "--device", "rocm"]
    env = environment(tmp_path / "log", **settings) if settings is not None else None
    done = subprocess.run(
        [*command, *([str(model)] if verb == "verify" else [])], env=env, capture_output=True, text=True, timeout=120
    )
    if said:
        assert done.returncode == 2
        assert done.stderr.endswith(f"kompilo: error: {said}\nhint: --device cpu runs it on the CPU.\n")
    else:
        assert done.returncode == 0, done.stderr
        assert len(logged(tmp_path, "launch")) >= 3


@pytest.mark.skipif(LINKER is None, reason="lld is not installed (apt install lld-19)")
def test_real_code_objects_have_every_kernel_that_is_launched(tmp_path):
    """The stand-in takes AMD's real code, whose kernels do nothing there: names, sizes of blocks, the order of work."""
    path = tmp_path / "real.kpo"
    kompilo.compile(model_of("n"), target="rocm:gfx942", records=False).save(path)
    script = "model = kompilo.load(path)\nfor rows in (1, 37): say(model(x(rows)).shape)\n"
    said = on_gpu(path, script, tmp_path, gfx="gfx942:sramecc+:xnack-", name="AMD Instinct MI300X")
    assert said == "(1, 13)\n(37, 13)\n"
    launched = {line.split()[1] for line in logged(tmp_path, "launch")}
    (code,) = Artifact.open(path).targets[0].device
    known = {kernel.name: [BYTES[dtype] for dtype in kernel.arguments] for kernel in code.kernels}
    assert launched
    assert launched <= set(known)
    # HIP takes as many arguments as the code object names, of the sizes that it says; the hidden ones are HIP's own.
    for name, facts in _amd_metadata(ElfFile(bytes(code.code), "code object")):
        own = [argument for argument in facts[".args"] if not argument[".value_kind"].startswith("hidden")]
        assert [argument[".size"] for argument in own] == known[name]
