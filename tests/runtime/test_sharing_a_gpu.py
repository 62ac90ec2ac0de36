"""A GPU that a process shares: streams that end, threads that load, children that are forked; stand-ins play it."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_on_a_gpu import artifact_of, model_of, on_gpu

from kompilo.compiler.runtime.accelerator import Accelerator
from kompilo.compiler.runtime.devices import Kind
from kompilo.compiler.runtime.library import ensure_runtime

from gpu.shim_support import needs_shim
from shim_target import install_shim_targets

pytestmark = needs_shim


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    with pytest.MonkeyPatch.context() as patch:
        install_shim_targets(folder / "path", patch)
        return {n: artifact_of(model_of(rows), folder / f"{n}.kpo") for n, rows in (("fixed", 5), ("open", "n"))}


ENDED = """
import tvm_ffi
def stream(what, *more): return tvm_ffi.get_global_func("runtime.Device_Stream" + what)(accelerator.device, *more)
def work(): return [l.split()[0] for l in log()[before:] if l.startswith(("launch", "synchronize", "follow"))]
model = kompilo.load(path)
accelerator = model._accelerator
given, wanted, first = accelerator.upload(x()), model(x()), stream("Create")
before = len(log())
model.enqueue(given, stream=first)
stream("Free", first)
say(np.array_equal(model(x()), wanted), work())
second = stream("Create")
say(np.array_equal(accelerator.download(model.enqueue(given, stream=second)), wanted))
stream("Free", second)
other = kompilo.load(path)
say(np.array_equal(other(x()), wanted), np.array_equal(model(x()), wanted))
"""


def test_a_stream_may_end_when_its_work_is_queued(files, tmp_path, monkeypatch):
    """The stand-in refuses the handle of a stream that was ended, as a driver may (or dies of it)."""
    monkeypatch.setenv("KOMPILO_CUDA_GRAPHS", "0")
    kernels = ["launch"] * 3
    assert on_gpu(files["fixed"], ENDED, tmp_path).splitlines() == [
        f"True {['synchronize', *kernels, 'follow', 'synchronize', *kernels, 'synchronize']}",
        "True",
        "True True",
    ]


def test_without_streams_of_our_own_the_work_on_one_is_waited_for():
    accelerator = Accelerator(ensure_runtime(), Kind("cpu", 1, "", "", ""), 0)
    waited: list[int] = []
    accelerator._synchronize = lambda _, stream: waited.append(stream)
    accelerator._make_stream = lambda _: 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Accelerator, "_streams", {})
        patch.setattr(Accelerator, "_followers", {})
        with accelerator.on(64):
            assert waited == [0]
        assert waited == [0, 64]
        with accelerator.on(0):
            assert waited == [0, 64, 0]


FORK = """
import threading
from kompilo.compiler.runtime.accelerator import Accelerator
model, values = kompilo.load(path), x()
wanted = model(values)
held, done = threading.Event(), threading.Event()
def hold():
    with Accelerator.turn:
        held.set()
        done.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if not child:
    try:
        for attempt in (lambda: model(values), lambda: model.enqueue(values), lambda: kompilo.load(path, "cuda")):
            try:
                attempt()
            except KompiloError as error:
                say(error)
        for device in ("cpu", "auto"):
            again = kompilo.load(path, device)
            say(again.target.name, np.allclose(again(values), wanted, atol=1e-4))
        say("turn", Accelerator.turn.acquire(timeout=5))  # the thread that had it is not here
    finally:
        os._exit(0)
os.waitpid(child, 0)
done.set()
thread.join()
say(np.array_equal(model(values), wanted))
"""


def test_a_gpu_does_not_survive_a_fork(files, tmp_path):
    """The child says so, at once although the turn was taken at the fork, and the CPU serves it."""
    forked = "a GPU does not survive a fork of the process, and this one was forked since the model was loaded."
    found = "a GPU does not survive a fork, and this process was forked from one that had found its GPU"
    said = on_gpu(files["fixed"], FORK, tmp_path).splitlines()
    assert said[:2] == [f"{forked} Hint: load it with device='cpu'."] * 2
    assert said[2] == f"the artifact was built for cuda-a100, but {found}. Hint: load it with device='cpu'."
    assert [line.split()[1] for line in said[3:5]] == ["True"] * 2
    assert all(line.startswith("cpu") for line in said[3:5])
    assert said[5:] == ["turn True", "True"]


TURNS = """
import threading
from kompilo.compiler.runtime.accelerator import Accelerator
from kompilo.compiler.runtime.call import Program
class Turn:
    "The lock, which notes in the log when it is taken and given back."
    lock = threading.Lock()
    def note(self, word):
        with open(os.environ["FAKE_CUDA_LOG"], "a") as file: file.write(f"{word}\\n")
    def __enter__(self):
        assert self.lock.acquire(timeout=20)
        self.note("turn")
    def __exit__(self, *_):
        self.note("over")
        self.lock.release()
Accelerator.turn = turn = Turn()
functions = Program.functions
def noted(program):
    turn.note("machine")
    return functions(program)
Program.functions = noted
model = kompilo.load(path)
wanted = model(x(3))
del model
before = len(log())
again = kompilo.load(path)
again._execution()
held = False
for line in log()[before:]:
    word = line.split()[0]
    held = word == "turn" or held and word != "over"
    if word in ("allocate", "free", "pin", "copy", "machine"):
        say(word, held)
say(np.array_equal(again(x(3)), wanted))
"""


def test_loading_waits_for_its_turn(files, tmp_path):
    """No memory is taken, filled or given back while another thread may capture a graph."""
    said = on_gpu(files["open"], TURNS, tmp_path).splitlines()
    assert {line.split()[0] for line in said[:-1]} == {"allocate", "free", "copy", "machine"}
    assert [line for line in said if line.endswith("False")] == []
    assert said.count("machine True") == 2
