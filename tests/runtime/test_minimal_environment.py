"""`kompilo.load` in an environment of numpy, apache-tvm-ffi and TVM's 3.4 MB runtime library: no compiler, no LLVM."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from host_models import sentences
from tiny_programs import affine

import kompilo
import kompilo.compiler
from kompilo.compiler.runtime.library import find_runtime

ROOT = Path(__file__).parents[2]
NEEDED = ("numpy", "apache-tvm-ffi")

SCRIPT = """
import importlib.util, sys
for name in ("tvm", "onnx", "typer", "rich", "xgboost"):
    assert importlib.util.find_spec(name) is None, name
import kompilo
model = kompilo.load(sys.argv[1])
import numpy as np
x = np.arange(32, dtype=np.float32).reshape(4, 8)
np.testing.assert_array_equal(model(x), (x + 3) * x)
np.testing.assert_array_equal(model.run({"x": x[::-1]})["z"], (x[::-1] + 3) * x)
try:
    model(x.astype(np.float64))
except kompilo.errors.InputError as error:
    print(error)
print(sys.prefix, sorted({m.split(".")[0] for m in sys.modules} & {"tvm", "onnx", "numpy", "tvm_ffi"}))
"""


REFUSAL = """
import sys, kompilo
try:
    kompilo.load(sys.argv[1])
except kompilo.errors.KompiloError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of a new virtual environment that holds just what loading needs."""
    folder = tmp_path_factory.mktemp("minimal") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    interpreter = folder / "bin" / "python"
    with open(ROOT / "pyproject.toml", "rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    wanted = [d for d in dependencies if d.startswith(NEEDED)]
    assert len(wanted) == len(NEEDED)
    command = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install {' '.join(wanted)}: {done.stderr.strip().splitlines()[-1]}")
    command = [str(interpreter), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(kompilo.__file__).parent, packages / "kompilo", ignore=ignore)
    shutil.copytree(Path(kompilo.compiler.__file__).parent, packages / "kompilo" / "compiler", ignore=ignore)
    shutil.copy(find_runtime(), packages / "kompilo")
    return interpreter


def test_load_and_run(python, tmp_path):
    artifact = tmp_path / "m.kpo"
    affine().save(artifact)
    # -I: neither PYTHONPATH nor the current folder may lend a package.
    command = [str(python), "-I", "-c", SCRIPT, str(artifact)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    refusal, loaded = done.stdout.strip().splitlines()
    assert refusal.startswith("input 'x': expected float32[4, 8], found float64[4, 8].")
    assert loaded == f"{python.parents[1]} ['numpy', 'tvm_ffi']"


def test_without_the_runtime_library(python, tmp_path):
    artifact = tmp_path / "m.kpo"
    affine().save(artifact)
    environment = {"KOMPILO_TVM_RUNTIME": "/none.so"}
    command = [str(python), "-I", "-c", REFUSAL, str(artifact)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    assert done.stdout.strip() == "$KOMPILO_TVM_RUNTIME names '/none.so', which is not a file."


def test_operators_on_the_host_need_the_onnx_package(python, tmp_path):
    artifact = tmp_path / "m.kpo"
    kompilo.compile(sentences(), records=False).save(artifact)
    command = [str(python), "-I", "-c", REFUSAL, str(artifact)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, check=True
    )
    assert done.stdout.startswith(
        "the artifact has operators that the onnx package runs on the host (StringNormalizer node"
    )
    assert done.stdout.strip().endswith("cannot be imported (No module named 'onnx'). Hint: pip install onnx")
