"""From objects of LLVM to code objects ("hsaco") of AMD's GPUs: finding lld, and AMD's device library where it is."""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...compiler.errors import KompiloError, TargetError
from ...compiler.scratch import no_room, scratch_folder
from ..gpu.programs import programs_on, run, toolkit_folders

_ARCH = re.compile(r"gfx[0-9a-f]{3,5}")
_VERSION = re.compile(r"LLD (\d+)\.")
# Older ones do not know the version of the ELF files that TVM's LLVM writes.
_OLDEST = 17
_HINT = "apt install lld-19, or pip install 'kompilo[rocm]', or ROCm brings one."

_UNDEFINED = re.compile(r"undefined (?:hidden |protected )?symbol: (\S+)")
_LIBRARY_HINT = "AMD's device library has it: apt install rocm-device-libs, or ROCm."

_LIBRARY_FOLDERS = (
    "amdgcn/bitcode",  # below a ROCm installation
    "lib/x86_64-linux-gnu/amdgcn/bitcode",  # of Debian's package
)
# Kept in the order in which they are linked: functions first, then the constants that specialise them.
_LIBRARY = (
    "ocml",
    "oclc_daz_opt_off",
    "oclc_correctly_rounded_sqrt_on",
    "oclc_finite_only_off",
    "oclc_unsafe_math_off",
    "oclc_wavefrontsize64_{wave64}",
    "oclc_isa_version_{isa}",
    "oclc_abi_version_500",
)


@dataclass(frozen=True)
class Lld:
    """A linker that knows AMD's GPUs; `command` is everything before its options, `version` the major number."""

    command: tuple[str, ...]
    version: int


def link_code_object(obj: bytes, arch: str) -> bytes:
    """The code object that a driver loads, of one object file ("gfx942", ...).

    Raises:
        TargetError: no linker is found, or the object calls functions of AMD's device library, which it was compiled
            without.
        KompiloError: the linker refuses the object, or there is no room for files.
    """
    _check(arch)
    linker = find_lld()
    with scratch_folder("rocm") as folder:
        source, result = folder / "kernels.o", folder / "kernels.hsaco"
        try:
            source.write_bytes(obj)
        except OSError as error:
            raise no_room(error) from None
        command = [*linker.command, "--no-undefined", "-shared", str(source), "-o", str(result)]
        answer = run(command, f"ld.lld for {arch}")
        if answer.status == 0 and result.is_file():
            return result.read_bytes()
    missing = _UNDEFINED.findall(answer.errors)
    if missing:
        names = ", ".join(sorted(set(missing)))
        raise TargetError(f"ROCm code for {arch}: expected functions of Kompilo's own, found {names}.", _LIBRARY_HINT)
    said = answer.died_of or next(
        (line for line in answer.errors.splitlines() if "error" in line), "it does not say why"
    )
    raise KompiloError(f"ROCm code for {arch}: the linker {linker.command[0]!r} failed: {said.rstrip('.')}.")


@functools.cache
def find_lld() -> Lld:
    """The first linker of this machine that is new enough. Raises TargetError if there is none."""
    seen = []
    for lld in installed_llds():
        if lld.version >= _OLDEST:
            return lld
        seen.append(f"{lld.command[0]} is of version {lld.version or 'unknown'}")
    found = f", found that {', '.join(seen)}" if seen else ", found none"
    raise TargetError(f"ROCm needs the linker ld.lld: expected version {_OLDEST} or newer{found}.", _HINT)


def installed_llds() -> Iterator[Lld]:
    """Linkers of this machine in the order of preference, new enough or not."""
    names = ["ld.lld", *(f"ld.lld-{version}" for version in range(30, _OLDEST - 1, -1))]
    folders = [folder / "llvm" / "bin" for folder in _rocm_folders()]
    for path in programs_on(names, folders):
        yield Lld((path,), _version((path,)))
    if importlib.util.find_spec("ziglang"):
        command = (sys.executable, "-m", "ziglang", "ld.lld")
        yield Lld(command, _version(command))


def bitcode(arch: str, folders: Sequence[Path] | None = None) -> list[str]:
    """Files of AMD's device library for `arch`, in the order in which they are linked; none where it is not installed.

    Kompilo's code needs it for rare functions of float64 only: see math_functions.py. A library that does not know the
    architecture (Debian 12's has no gfx942 and no gfx1100) counts as not installed.
    """
    _check(arch)
    facts = {"isa": arch.removeprefix("gfx"), "wave64": "off" if arch.startswith("gfx1") else "on"}
    names = [f"{name.format(**facts)}.bc" for name in _LIBRARY]
    places = [*_rocm_folders(), Path("/usr")] if folders is None else folders
    for place in (root / below for root in places for below in _LIBRARY_FOLDERS):
        files = [place / name for name in names]
        if all(file.is_file() for file in files):
            return [str(file) for file in files]
    return []


def _rocm_folders() -> list[Path]:
    return toolkit_folders(("ROCM_PATH", "HIP_PATH"), ("/opt/rocm",))


def _version(command: Sequence[str]) -> int:
    """The major version of a linker; 0 if it does not tell."""
    try:
        answer = run([*command, "--version"], "ld.lld --version", limit=60)
    except KompiloError:
        return 0
    found = _VERSION.search(answer.output.decode("utf-8", "replace"))
    return int(found.group(1)) if found else 0


def _check(arch: str) -> None:
    if not _ARCH.fullmatch(arch):
        raise TargetError(f"ROCm: expected an architecture such as 'gfx942', found {arch!r}.")
