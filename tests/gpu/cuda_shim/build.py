"""Compiles translated kernels with the host's C++ compiler into programs, kept in a temporary folder by content."""

from __future__ import annotations

import functools
import getpass
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FLAGS = ["-x", "c++", "-std=c++17", "-g1", "-w", "-fno-strict-aliasing", "-fwrapv", "-ffp-contract=off", "-fno-pie"]
# Indices outside of arrays whose size the compiler knows, and misaligned accesses: reported to runtime/checks.cpp.
CHECKS = ["-fsanitize=alignment,bounds", "-fno-sanitize-recover=alignment,bounds"]
# Accesses are reported to runtime/races.cpp rather than to the compiler's own library.
INSTRUMENT = ["-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0"]


class BuildError(RuntimeError):
    """The compiler refused a translated source; the message is the compiler's."""


@functools.cache
def compiler() -> str | None:
    """g++ (12 or newer: it has _Float16), or None; KOMPILO_TEST_CXX names another."""
    return shutil.which(os.environ.get("KOMPILO_TEST_CXX", "g++"))


@functools.cache
def missing() -> str | None:
    """Why kernels cannot be run here, for skipped tests; None where they can."""
    program = compiler()
    if program is None:
        return "no g++ (Debian: apt-get install g++)"
    probe = subprocess.run(
        [program, "-x", "c++", "-std=c++17", "-fsyntax-only", "-"],
        input="_Float16 half;\n#include <vector>\n",
        capture_output=True,
        text=True,
    )
    return None if probe.returncode == 0 else f"{program} has no _Float16 or no C++ library: {probe.stderr[:200]}"


@functools.cache
def _machine_flags() -> tuple[str, ...]:
    try:
        known = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ()
    return tuple(flag for flag, word in (("-mf16c", " f16c"), ("-mfma", " fma")) if word in known)


@functools.cache
def cache_folder() -> Path:
    """Where programs are kept: a folder of this user in the temporary directory."""
    folder = Path(tempfile.gettempdir()) / f"kompilo-cuda-shim-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@functools.cache
def _runtime_hash() -> str:
    digest = hashlib.sha256(" ".join([*FLAGS, *_machine_flags(), platform.machine(), _compiler_version()]).encode())
    for path in sorted([*HERE.glob("include/**/*.h"), *HERE.glob("runtime/*")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _compiler_version() -> str:
    return subprocess.run([compiler() or "g++", "--version"], capture_output=True, text=True).stdout.split("\n")[0]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError("\n".join(done.stderr.splitlines()[:30]))


def _install(made: Path, place: Path) -> Path:
    """Moves a finished file into the cache; whoever comes second finds it there."""
    made.replace(place)
    return place


def _object(source: Path, place: Path, flags: list[str]) -> Path:
    if place.exists():
        return place
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        made = Path(scratch) / "made.o"
        _run(
            [
                compiler() or "g++",
                *FLAGS,
                *_machine_flags(),
                *flags,
                f"-I{HERE / 'include'}",
                "-c",
                str(source),
                "-o",
                str(made),
            ]
        )
        return _install(made, place)


def _runtime_objects() -> list[Path]:
    folder = cache_folder() / f"runtime-{_runtime_hash()}"
    folder.mkdir(exist_ok=True)
    return [_object(path, folder / f"{path.stem}.o", ["-O2"]) for path in sorted(HERE.glob("runtime/*.cpp"))]


def program(source: str, races: bool, optimize: str = "-O1") -> Path:
    """An executable with the kernels of a translated source. BuildError tells what the compiler did not take."""
    key = hashlib.sha256(f"{_runtime_hash()}{races}{optimize}{source}".encode()).hexdigest()[:24]
    place = cache_folder() / key
    if place.exists():
        return place
    objects = _runtime_objects()
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        text = Path(scratch) / "kernel.cu"
        text.write_text(source)
        flags = [optimize, *CHECKS, *(INSTRUMENT if races else [])]
        compiled = _object(text, Path(scratch) / "kernel.o", flags)
        made = Path(scratch) / "program"
        _run([compiler() or "g++", "-no-pie", str(compiled), *map(str, objects), "-o", str(made)])
        return _install(made, place)
