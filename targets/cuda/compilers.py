"""The compilers from CUDA C++ to machine code: nvcc, and NVRTC from a toolkit or from wheels of PyPI."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...compiler.errors import KompiloError
from ...compiler.scratch import no_room, scratch_folder
from ..gpu.programs import Answer, programs_on, run, toolkit_folders
from .short_headers import SHORT_HEADERS

# What both compilers are told. No fast-math: its exp, log and division are wrong in the fifth digit.
_COMMON = ("--std=c++17",)

# NVRTC has no host headers. Names that generated sources take from them are defined by a header that is put before
# the source, with the types that libcu++ gives NVRTC: a second definition of the same type does no harm.
_PRELUDE = """
using int8_t = signed char;
using int16_t = signed short;
using int32_t = signed int;
using int64_t = signed long long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fffffff)
#endif
"""
# The driver's header, of which kernels need but the layout of the descriptor of a tile (128 bytes, 64-byte aligned).
_DRIVER_HEADER = """
#pragma once
struct alignas(64) CUtensorMap_st { unsigned long long opaque[16]; };
typedef struct CUtensorMap_st CUtensorMap;
"""
_PRELUDE_NAME = "kompilo_prelude.h"
_NVRTC_HEADERS = {
    _PRELUDE_NAME: _PRELUDE,
    "cuda.h": _DRIVER_HEADER,
    **dict.fromkeys(("stdint.h", "stddef.h", "math.h", "cstdint"), ""),
}

# "kernel.cu(3): error: ..." of the front end, "ptxas error : ..." and "ptxas kernel.ptx, line 9; error : ..." of the
# assembler: the source is at fault. All other failures are the compiler's.
_SOURCE_ERROR = re.compile(r"\(\d+\)\s*: (catastrophic )?error|^ptxas .*\berror\b|^error\s*:")
# A header of CUDA's is not there: what another installation may have.
_MISSING_HEADER = re.compile(r"(cannot|could not) open (source|include) file")
_UNKNOWN_ARCHITECTURE = re.compile(
    r"unsupported gpu architecture|invalid value for --gpu-architecture|is not defined for option 'gpu-", re.IGNORECASE
)


class UnknownArchitecture(Exception):
    """The compiler does not know the architecture; the argument says which it knows."""


class Unusable(Exception):
    """The compiler cannot compile anything here; the argument says why."""


class Compiler(ABC):
    """A compiler of CUDA C++."""

    name: str

    @abstractmethod
    def compile(self, source: str, arch: str, options: Sequence[str]) -> bytes:
        """The cubin of `source` for `arch` ("sm_80").

        Raises KompiloError where the source is at fault, UnknownArchitecture or Unusable where another compiler may do
        better.
        """


@dataclass(frozen=True)
class Nvcc(Compiler):
    """The compiler of a CUDA toolkit; it preprocesses with the host's C++ compiler."""

    path: str
    name: str = "nvcc"

    def compile(self, source: str, arch: str, options: Sequence[str]) -> bytes:
        """See Compiler. The passes are processes: when one of them crashes nothing is lost but the kernel."""
        with scratch_folder("cuda") as folder:
            text, cubin = folder / "kernel.cu", folder / "kernel.cubin"
            try:
                text.write_text(source)
            except OSError as error:
                raise no_room(error) from None
            command = [self.path, "--cubin", f"--gpu-architecture={arch}", *_COMMON, *options]
            answer = run([*command, "-o", str(cubin), str(text)], f"nvcc for {arch}")
            if answer.status == 0 and cubin.is_file():
                return cubin.read_bytes()
            log = (answer.errors + answer.output.decode("utf-8", "replace")).replace(f"{folder}{os.sep}", "")
        self._fail(answer, log, arch)
        raise Unusable(_first_line(log) or f"exit status {answer.status}")

    def _fail(self, answer: Answer, log: str, arch: str) -> None:
        raise_source_error(log, arch)
        if _UNKNOWN_ARCHITECTURE.search(log):
            raise UnknownArchitecture(self._architectures())
        if answer.died_of:
            raise KompiloError(f"CUDA C++ for {arch}: nvcc died of {answer.died_of}.")

    def _architectures(self) -> str:
        listed = run([self.path, "--list-gpu-code"], "nvcc").output.decode("utf-8", "replace")
        return ", ".join(listed.split()) or "none"


@dataclass(frozen=True)
class Nvrtc(Compiler):
    """NVIDIA's compiler as a library, with the folders of CUDA's headers. Runs in a process of its own."""

    library: Path
    includes: tuple[Path, ...]
    name: str = "NVRTC"

    def compile(self, source: str, arch: str, options: Sequence[str]) -> bytes:
        """See Compiler. A crash in the library ends its process only, and is a KompiloError here."""
        if not any(f"<{name}>" in source for name in SHORT_HEADERS):
            return self._compile(source, arch, options, _NVRTC_HEADERS)
        try:
            return self._compile(source, arch, options, {**_NVRTC_HEADERS, **SHORT_HEADERS})
        except (KompiloError, Unusable):  # perhaps the source needs more of those headers: theirs has the last word
            return self._compile(source, arch, options, _NVRTC_HEADERS)

    def _compile(self, source: str, arch: str, options: Sequence[str], headers: Mapping[str, str]) -> bytes:
        request = {
            "library": str(self.library),
            "source": source,
            "headers": dict(headers),
            "options": [
                f"--gpu-architecture={arch}",
                *_COMMON,
                "--device-int128",
                f"--pre-include={_PRELUDE_NAME}",
                *(f"--include-path={folder}" for folder in self.includes),
                *options,
            ],
        }
        child = str(Path(__file__).with_name("nvrtc_child.py"))
        # -I: neither the user's modules nor variables reach it; -S: nor do site-packages, which take time to set up.
        command = [sys.executable, "-I", "-S", child]
        answer = run(command, f"NVRTC for {arch}", json.dumps(request).encode())
        if answer.died_of:
            raise KompiloError(f"CUDA C++ for {arch}: NVRTC died of {answer.died_of}.")
        if answer.status:
            raise Unusable(_last_line(answer.errors) or f"exit status {answer.status}")
        line, _, cubin = answer.output.partition(b"\n")
        reply = json.loads(line)
        if reply["status"] == 0:
            return cubin
        raise_source_error(reply["log"], arch)
        if _UNKNOWN_ARCHITECTURE.search(reply["log"]):
            raise UnknownArchitecture(", ".join(f"sm_{number}" for number in reply["architectures"]))
        raise Unusable(_first_line(reply["log"]))


def find_compilers() -> Iterator[Compiler]:
    """Compilers of this machine, the preferred one first.

    A kernel with cuda_fp16.h and mma.h takes NVRTC 0.14 s, its process included, and nvcc 0.68 s, which starts six
    programs and needs a C++ compiler of the host.
    """
    toolkits = toolkit_folders(("CUDA_HOME", "CUDA_PATH"), ("/usr/local/cuda",))
    for folder in (*_wheels(), *toolkits):
        for library in _libraries(folder):
            yield Nvrtc(library, tuple(p for p in (folder / "include", folder / "include" / "cccl") if p.is_dir()))
    for path in dict.fromkeys(programs_on(["nvcc"], [folder / "bin" for folder in toolkits])):
        yield Nvcc(path)


def raise_source_error(log: str, arch: str) -> None:
    """Raises KompiloError with the first line of `log` that blames the source; returns if there is none.

    Raises Unusable where that line misses a header.
    """
    for line in map(str.strip, log.splitlines()):
        if _MISSING_HEADER.search(line):
            raise Unusable(line.rstrip("."))
        if _SOURCE_ERROR.search(line):
            raise KompiloError(f"CUDA C++ for {arch}: {line.rstrip('.')}.")


def _wheels() -> list[Path]:
    """Folders of toolkits made of wheels: site-packages/nvidia/cu13. The newest first."""
    spec = importlib.util.find_spec("nvidia")
    places = list(spec.submodule_search_locations or []) if spec else []
    return sorted((folder for place in places for folder in Path(place).glob("cu[0-9]*")), reverse=True)


def _libraries(folder: Path) -> list[Path]:
    for place in ("lib", "lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
        found = sorted((folder / place).glob("libnvrtc.so*"), reverse=True)
        if found:
            return found[:1]
    return []


def _first_line(text: str) -> str:
    return next((line.strip().rstrip(".") for line in text.splitlines() if line.strip()), "")


def _last_line(text: str) -> str:
    return _first_line("\n".join(reversed(text.splitlines())))
