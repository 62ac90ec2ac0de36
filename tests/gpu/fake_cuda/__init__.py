"""Stand-ins for NVIDIA's driver and CUDA's runtime library on a machine that has neither: see docs/gpu-checks.md.

Processes started with `environment(...)` load them in place of libcuda.so.1 and libcudart.so.13, and of AMD's
libamdhip64.so. Device memory is the host's, the clock counts what is launched, and kernels are run by the CUDA shim: a
"cubin" made by `shim_code` names its program. Kernels of real cubins do nothing. What the GPU is, and what goes wrong,
the environment says:

    FAKE_CUDA_DEVICES=0         no GPU                       FAKE_CUDA_ARCH=7.5        its compute capability (8.0)
    FAKE_CUDA_NAME=...          its name (an A100)           FAKE_CUDA_VERSION=12040   of CUDA (13000)
    FAKE_CUDA_MEMORY=1000000    bytes of device memory       FAKE_CUDA_LOG=file        gets a line for each call
    FAKE_CUDA_GFX=gfx942        what HIP calls its architecture (gfx1100)
    FAKE_CUDA_FAULT=init:3      cuInit fails; load:209: a module cannot be loaded; launch:701: a launch fails;
                                kernel:719: a kernel fails, and every call behind it; hang: a kernel never ends;
                                crash: the process dies; wrong: the first element of the result is off by one
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..cuda_shim import build
from ..cuda_shim.translate import translate

HERE = Path(__file__).parent
_LIBRARIES = {
    "libcuda.so.1": ("driver.cpp", "kernels.cpp"),
    "libcudart.so.13": ("runtime.cpp",),
    "libamdhip64.so": ("hip.cpp",),
}
_FLAGS = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Werror"]


@functools.cache
def folder() -> Path:
    """Where the libraries lie; they are compiled when first asked for."""
    digest = hashlib.sha256("".join(_FLAGS).encode())
    for path in sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h"), *HERE.glob("*.map")]):
        digest.update(path.read_bytes())
    place = build.cache_folder() / f"fake-cuda-{digest.hexdigest()[:16]}"
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=build.cache_folder()) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            for name, sources in _LIBRARIES.items():
                versions = HERE / f"{sources[0]}.map"
                extra = [f"-Wl,--version-script={versions}"] if versions.exists() else []
                link = [str(made / "libcuda.so.1")] if name != "libcuda.so.1" else []
                command = [build.compiler() or "g++", *_FLAGS, *(str(HERE / s) for s in sources), *link, *extra]
                subprocess.run([*command, f"-Wl,-soname,{name}", "-o", str(made / name)], check=True)
            with contextlib.suppress(OSError):  # another process was faster
                made.rename(place)
    return place


def environment(log: Path | None = None, **settings: object) -> dict[str, str]:
    """The environment of a process that finds the stand-ins; `settings` are those above, in small letters."""
    known = os.environ.get("LD_LIBRARY_PATH")
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join([str(folder()), *([known] if known else [])]),
        **({"FAKE_CUDA_LOG": str(log)} if log else {}),
        **{f"FAKE_CUDA_{name.upper()}": str(value) for name, value in settings.items()},
    }


def shim_code(source: str, kernels: Iterable[tuple[str, Iterable[str]]], fault: str = "") -> bytes:
    """What stands for a cubin: CUDA C++ compiled for the CPU, with each kernel's name and the dtypes it takes."""
    lines = ["SHIM", f"program {build.program(translate(source).source, False)}"]
    lines += [f"fault {fault}"] if fault else []
    lines += [" ".join(["kernel", name, *dtypes]) for name, dtypes in kernels]
    return "\n".join(lines).encode() + b"\n"
