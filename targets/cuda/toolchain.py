"""From CUDA C++ to a cubin, with whatever compiler the machine has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...compiler.errors import TargetError
from .compilers import Compiler, UnknownArchitecture, Unusable, find_compilers

_ARCH = re.compile(r"sm_\d{2,3}[af]?")
_HINT = "pip install 'kompilo[cuda]' brings one, without a CUDA toolkit."


def compile_cubin(
    source: str, arch: str, options: Sequence[str] = (), compilers: Sequence[Compiler] | None = None
) -> bytes:
    """The machine code of CUDA C++ for one architecture, as an ELF file ("cubin").

    Args:
        source: text of the translation unit; its kernels should be `extern "C"`.
        arch: "sm_80", "sm_90a", ...
        options: more options, spelled as nvcc and NVRTC both know them ("--maxrregcount=128").
        compilers: whom to ask in turn; by default all that are found, NVRTC before nvcc.

    Raises:
        TargetError: no compiler is installed, none knows the architecture, or none of them works.
        KompiloError: the source has an error (its first line is told), or the compiler crashed or took too long at it.
    """
    if not _ARCH.fullmatch(arch):
        raise TargetError(f"CUDA: expected an architecture such as 'sm_80', found {arch!r}.")
    asked = list(find_compilers()) if compilers is None else list(compilers)
    if not asked:
        raise TargetError("no CUDA compiler found: expected NVRTC or nvcc.", _HINT)
    refused: list[str] = []
    for compiler in asked:
        try:
            return compiler.compile(source, arch, options)
        except UnknownArchitecture as problem:
            refused.append(f"{compiler.name} knows {problem}")
        except Unusable as problem:
            refused.append(f"{compiler.name} does not work: {problem}")
    raise TargetError(f"no CUDA compiler can compile for {arch} ({'; '.join(dict.fromkeys(refused))}).", _HINT)
