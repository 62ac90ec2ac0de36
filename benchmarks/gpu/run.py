"""Kompilo's kernels on a real GPU: are they right, and how fast are they beside other libraries?

    python benchmarks/gpu/run.py                                     # on this machine's GPU (make gpu-check)
    python benchmarks/gpu/run.py --bundle DIR --target cuda:h200     # a folder for a machine with a GPU and numpy

On the other machine: cd DIR && python3 play.py. It needs Linux, Python 3.10, numpy and NVIDIA's driver for CUDA 13.0;
torch is compared with if it is there (torchvision and transformers for whole networks), else cuBLAS, if that is.
--models adds ResNet-50 and MiniLM, for which the other machine needs Kompilo's loader, or --runtime, a wheel of
apache-tvm-ffi for its Python, from which the folder gets one.

Exit status: 0 all right, 1 something wrong or failed (a network that cannot be compiled too), 2 no GPU to tell.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import make

import models
from kompilo.compiler.errors import KompiloError, TargetError, UsageError
from kompilo.compiler.schedule.target import find_target
from kompilo.compiler.tune.device.local import check_local

_KINDS = ("cuda", "rocm")
_ELSEWHERE = "run.py --bundle DIR --target cuda:h200 makes a folder for a machine that has that GPU."
# Kind of target -> parts of TVM's runtime that its loader takes, and CUDA's runtime library, where it lies in wheels.
_PLAIN = ("libtvm_runtime.so", "libtvm_runtime_extra.so")
_LIBRARIES = {"cuda": (*_PLAIN, "libtvm_runtime_cuda.so"), "rocm": _PLAIN}
_WHEELS = {"cuda": ("nvidia/cu13/lib/libcudart.so.13",), "rocm": ()}


def main() -> int:
    """Make the folder; without --bundle, run it here and throw it away."""
    options = _options()
    try:
        _check_target(options.target, local=options.bundle is None)
    except KompiloError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="kompilo-gpu-") as scratch:
            folder = options.bundle or Path(scratch) / "bundle"
            make.make(folder, options.target, options.small, say=_say)
            whole = not options.models or models.write(folder, options.target, _say)
            if options.runtime is not None:
                carry_runtime(folder, options.runtime, str(find_target(options.target).spec.kind))
            if options.bundle is not None:
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                _say(f"{folder}: {size / 1e6:.1f} MB; on the machine with the GPU: python3 play.py")
                return int(not whole)
            out = ["--out", str(options.out.resolve())]
            return subprocess.run([sys.executable, str(folder / "play.py"), *out], check=False).returncode
    except KompiloError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 1


def _check_target(name: str, local: bool) -> None:
    """Raises KompiloError unless `name` is a target for GPUs and, if `local`, for this machine's."""
    try:
        found = find_target(name)
    except TargetError as error:
        raise TargetError(error.message, error.hint if ":" in name else _ELSEWHERE) from None
    if getattr(found.spec, "kind", None) not in _KINDS:
        raise UsageError(f"--target {name}: expected one for GPUs, {' or '.join(_KINDS)}.")
    if local:
        try:
            check_local(found)
        except TargetError as error:
            raise TargetError(error.message.removeprefix("tuning for "), _ELSEWHERE) from None


def carry_runtime(folder: Path, wheel: Path, kind: str) -> None:
    """Put Kompilo's loader for GPUs of a kind into the folder, with TVM's runtime and apache-tvm-ffi from `wheel`."""
    place = folder / models.RUNTIME
    with zipfile.ZipFile(wheel) as files:
        files.extractall(place)
    root = Path(make.HERE).parents[1]
    shutil.copytree(root / "kompilo", place / "kompilo", ignore=shutil.ignore_patterns("__pycache__"))
    compiler = root / "compiler"
    for source in (
        *compiler.glob("*.py"),
        *(compiler / "artifact").rglob("*.py"),
        *(compiler / "runtime").rglob("*.py"),
    ):
        copy = place / "kompilo" / "compiler" / source.relative_to(compiler)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)
    shutil.copy(_installed("typing_extensions"), place / "typing_extensions.py")  # which apache-tvm-ffi imports
    libraries = _installed("tvm").parent / "lib"
    for name in _LIBRARIES[kind]:
        shutil.copy(libraries / name, place / "kompilo" / name)
    for path in _WHEELS[kind]:
        if (libraries.parents[1] / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(libraries.parents[1] / path, folder / path)


def _installed(module: str) -> Path:
    """The file of a module that is installed."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="cuda", help="default: cuda, this machine's GPU")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="only make the folder, for another machine")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-check"), metavar="DIR", help="where results go")
    parser.add_argument("--models", action="store_true", help="whole networks too")
    parser.add_argument("--runtime", type=Path, metavar="WHEEL", help="apache-tvm-ffi for the other machine's Python")
    parser.add_argument("--small", action="store_true", help="few cases of tiny sizes, to try it out")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
