"""Machine code is written without LLVM ending the process where there is no room."""

import os
import resource
import subprocess
import sys

import pytest
import tvm
from tvm import relax, te

from kompilo.compiler import object_files
from kompilo.compiler.errors import KompiloError
from kompilo.compiler.object_files import write_object, write_objects


@pytest.fixture(scope="module")
def module() -> tvm.runtime.Module:
    x = te.placeholder((64,), name="x")
    y = te.compute((64,), lambda i: x[i] + x[i], name="y")
    return tvm.compile(te.create_prim_func([x, y]), tvm.target.Target("llvm")).mod


def test_a_full_disk_is_an_error(module, tmp_path):
    (tmp_path / "full.o").symlink_to("/dev/full")
    with pytest.raises(KompiloError, match="cannot write to the temporary folder .*: no space left on device"):
        write_object(module, tmp_path / "full.o")


def test_a_program_without_kernels(tmp_path):
    x = relax.Var("x", relax.TensorType((1,), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(x)
    llvm = tvm.target.Target("llvm")
    paths = write_objects(tvm.compile(builder.get(), llvm), tmp_path, llvm)
    assert [path.name for path in paths] == ["imports.o"]


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_file_holds_an_object(module, tmp_path, monkeypatch, in_memory):
    if not in_memory:
        monkeypatch.setattr(object_files.os, "memfd_create", lambda *args: (_ for _ in ()).throw(OSError("none here")))
    write_object(module, tmp_path / "code.o")
    assert (tmp_path / "code.o").read_bytes()[:4] == b"\x7fELF"


def test_a_limit_on_the_size_of_files(tmp_path):
    code = (
        "import sys\n"
        "from kompilo.compiler.cli.main import run_command\n"
        "from onnx import TensorProto, helper\n"
        "sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])] for name in 'xy']\n"
        "graph = helper.make_graph([helper.make_node('Relu', ['x'], ['y'])], 'g', *sides)\n"
        "open('m.onnx', 'wb').write(helper.make_model(graph, ir_version=8).SerializeToString())\n"
        "sys.exit(run_command(['compile', 'm.onnx']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
    )
    assert done.returncode == 2, done.stderr
    assert "the limit on the size of files, 8192 bytes, is too small" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
