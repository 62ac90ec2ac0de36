"""Turns object files into a shared library with whatever linker the machine has.

Generated code needs no C runtime: its undefined symbols are the C API of tvm_ffi (already loaded by whoever loads the
library), memcpy and friends, and a few functions of libm. So a bare `ld` does as well as a C compiler, and a missing
libc6-dev does not hurt: nothing but the objects and, where found, libm.so.6 is linked.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...compiler.errors import TargetError
from ...compiler.scratch import no_room

_LIBM_FOLDERS = (
    "/lib/{arch}-linux-gnu",
    "/usr/lib/{arch}-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/usr/lib",
    "/lib",
)
_LD_EMULATION = {"x86_64": "elf_x86_64", "aarch64": "aarch64linux"}


@dataclass(frozen=True)
class Linker:
    """A program that links shared libraries; `command` is everything before the output's path."""

    name: str
    command: tuple[str, ...]

    def link(self, output: str, objects: Sequence[str], libraries: Sequence[str]) -> str | None:
        """Link `objects` into `output`; None on success, otherwise what the linker said."""
        try:
            done = subprocess.run(
                [*self.command, "-o", output, *objects, *libraries],
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            return str(error)
        return None if done.returncode == 0 else (done.stderr or done.stdout).strip() or f"exit {done.returncode}"


def _compiler(program: str) -> Callable[[str], Iterator[Linker]]:
    def find(arch: str) -> Iterator[Linker]:
        native = arch == _machine()
        path = shutil.which(program if native else f"{arch}-linux-gnu-{program}")
        if path:
            yield Linker(program, (path, "-shared", "-nostdlib", "-s"))

    return find


def _binutils(arch: str) -> Iterator[Linker]:
    path = shutil.which("ld" if arch == _machine() else f"{arch}-linux-gnu-ld")
    if path:
        yield Linker("ld", (path, "-shared", "-s", "-z", "noexecstack"))


def _lld(arch: str) -> Iterator[Linker]:
    path = shutil.which("ld.lld")
    if path:
        yield Linker(
            "ld.lld",
            (path, "-m", _LD_EMULATION[arch], "-shared", "-s", "-z", "noexecstack"),
        )


def _zig(arch: str) -> Iterator[Linker]:
    if importlib.util.find_spec("ziglang"):
        target = ("-target", f"{arch}-linux-gnu")
        yield Linker(
            "zig",
            (
                sys.executable,
                "-m",
                "ziglang",
                "cc",
                *target,
                "-shared",
                "-nostdlib",
                "-s",
            ),
        )


# In order of preference.
FINDERS: dict[str, Callable[[str], Iterator[Linker]]] = {
    "cc": _compiler("cc"),
    "gcc": _compiler("gcc"),
    "clang": _compiler("clang"),
    "ld": _binutils,
    "ld.lld": _lld,
    "zig": _zig,
}


def find_linkers(arch: str) -> list[Linker]:
    """Linkers on this machine that can link for `arch` ("x86_64", "aarch64"), the preferred one first."""
    return [linker for find in FINDERS.values() for linker in find(arch)]


def link_shared(output: str, objects: Sequence[str], arch: str) -> None:
    """Link object files of `arch` into the shared library `output`, trying each linker until one succeeds.

    Raises TargetError if there is none, or none succeeds; KompiloError if there is no room for the library.
    """
    linkers = find_linkers(arch)
    if not linkers:
        raise TargetError(f"no linker for {arch} found: expected one of {', '.join(FINDERS)}.", _hint(arch))
    libraries = _libm(arch)
    said = []
    for linker in linkers:
        problem = linker.link(output, objects, libraries)
        if problem is None:
            return
        if os.strerror(errno.ENOSPC) in problem:
            raise no_room(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        said.append(f"{linker.name}: {problem.splitlines()[-1]}")
    raise TargetError(f"no linker could link the compiled code for {arch} ({'; '.join(said)}).", _hint(arch))


def _hint(arch: str) -> str:
    """What to install; Debian's package for another architecture carries its name."""
    suffix = "" if arch == _machine() else f"-{arch.replace('_', '-')}-linux-gnu"
    return f"install one of them: apt install binutils{suffix}, or pip install ziglang."


def _machine() -> str:
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())


def _libm(arch: str) -> list[str]:
    """libm.so.6 itself rather than -lm, which needs the C development files."""
    if arch != _machine():
        return []
    candidates = (Path(folder.format(arch=arch)) / "libm.so.6" for folder in _LIBM_FOLDERS)
    return [str(path) for path in candidates if path.exists()][:1]
