"""Machine code as text, for tests that look for instructions (HMMA, MFMA, WMMA, ...)."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

# nvdisasm puts an offset before each instruction, and maybe a predicate; llvm-objdump a tab.
_MNEMONIC = re.compile(r"(?:\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?|\t)([A-Za-z]\w*[\w.]*)")


def sass_of(cubin: bytes) -> str:
    """The instructions of a cubin, by nvdisasm; skips the test where it is not installed."""
    return _output_of([tool("nvdisasm", _nvidia_folders()), "--print-code"], cubin, ".cubin")


def gcn_of(code_object: bytes) -> str:
    """The instructions of an AMD code object, by llvm-objdump; skips the test where it is not installed."""
    return _output_of([llvm_tool("llvm-objdump"), "--disassemble", "--no-show-raw-insn"], code_object, ".hsaco")


def mnemonics(text: str) -> Counter[str]:
    """How often each instruction stands in `text`, with its modifiers: {"HMMA.16816.F32": 64, ...}."""
    found = (_MNEMONIC.match(line) for line in text.splitlines())
    return Counter(match.group(1) for match in found if match)


def count(text: str, start: str) -> int:
    """Instructions whose name starts with `start` ("HMMA", "v_mfma_f32")."""
    return sum(number for name, number in mnemonics(text).items() if name.startswith(start))


def tool(name: str, folders: Sequence[Path] = ()) -> str:
    """The path of a program on PATH or in `folders`; skips the test where there is none."""
    for place in (None, *map(str, folders)):
        path = shutil.which(name, path=place)
        if path:
            return path
    pytest.skip(f"{name} is not installed")


def llvm_tool(name: str) -> str:
    """The path of an LLVM program that knows AMD's GPUs of today; skips the test where there is none."""
    for version in range(30, 16, -1):
        path = shutil.which(f"{name}-{version}")
        if path:
            return path
    return tool(name, [Path("/opt/rocm/llvm/bin")])


def nvidia_tool(name: str) -> str:
    """The path of a program of the CUDA toolkit, from a toolkit or a wheel; skips the test where there is none."""
    return tool(name, _nvidia_folders())


@functools.cache
def _nvidia_folders() -> tuple[Path, ...]:
    spec = importlib.util.find_spec("nvidia")
    places = list(spec.submodule_search_locations or []) if spec else []
    wheels = [folder / "bin" for place in places for folder in Path(place).glob("cu[0-9]*")]
    return (*wheels, Path("/usr/local/cuda/bin"))


def _output_of(command: list[str], content: bytes, suffix: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(content)
        file.flush()
        return subprocess.run([*command, file.name], capture_output=True, text=True, check=True).stdout
