"""The loader that a folder of the benchmark for real GPUs carries runs a model by itself, for either maker."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from test_gpu_check import BENCHMARK

import kompilo

from shim_target import model_of

_LOAD = """
import sys
import numpy, kompilo
assert kompilo.__file__.startswith(sys.argv[1]), kompilo.__file__
model = kompilo.load(sys.argv[2])
assert not {"tvm", "onnx"} & set(sys.modules)
x = numpy.arange(35, dtype="f4").reshape(5, 7) / 10
numpy.save(sys.argv[3], model(x))
"""


def wheel_of(package: str, place: Path) -> Path:
    """A wheel with what is installed of a package."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    made = place / f"{package}.whl"
    with zipfile.ZipFile(made, "w") as files:
        for path in root.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                files.write(path, path.relative_to(root.parent))
    return made


@pytest.mark.parametrize("kind", ["cuda", "rocm"])
def test_the_loader_of_a_folder_needs_nothing_else(kind, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARK))
    run = importlib.import_module("run")
    folder = tmp_path / "folder"
    run.carry_runtime(folder, wheel_of("tvm_ffi", tmp_path), kind)
    carried = folder / "runtime"
    libraries = {path.name for path in (carried / "kompilo").glob("*.so")}
    assert ("libtvm_runtime_cuda.so" in libraries) == (kind == "cuda")
    assert (folder / "nvidia").is_dir() <= (kind == "cuda")
    artifact, result = tmp_path / "m.kpo", tmp_path / "y.npy"
    kompilo.compile(model_of(5, 7, 3), target="cpu", records=False).save(artifact)
    numpy_place = Path(np.__file__).parents[1]
    only = tmp_path / "only"
    only.mkdir()
    for name in ("numpy", "numpy.libs"):
        if (numpy_place / name).is_dir():
            (only / name).symlink_to(numpy_place / name)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(carried), str(only)])}
    arguments = [str(carried), str(artifact), str(result)]
    command = [sys.executable, "-S", "-c", _LOAD, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, cwd="/")
    assert done.returncode == 0, done.stderr
    x = np.arange(35, dtype="f4").reshape(5, 7) / 10
    np.testing.assert_allclose(np.load(result), kompilo.load(artifact)(x), rtol=1e-6)
