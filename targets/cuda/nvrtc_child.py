"""Compiles one CUDA source with NVRTC; run as a program of its own, with the standard library alone.

NVRTC is a library, and a crash or an abort in it would end whoever has loaded it. So it is loaded here, in a process
that lives for one kernel: starting it takes about 0.1 s, compiling a second. Reads a request as JSON from standard
input: {"library": path, "source": text, "headers": {name: text}, "options": [text]}. Writes one line of JSON,
{"status": number, "log": text, "version": [major, minor], "architectures": [number]}, then the bytes of the cubin.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NAME = b"kernel.cu"


class Nvrtc:
    """The functions of the library that are needed, with strings and lists in place of pointers."""

    def __init__(self, path: str):
        self.library = ctypes.CDLL(path)
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def version(self) -> list[int]:
        """[major, minor] of the library."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return [major.value, minor.value]

    def architectures(self) -> list[int]:
        """Numbers of the architectures that the library knows: 80 for sm_80."""
        count = ctypes.c_int()
        self.library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
        numbers = (ctypes.c_int * count.value)()
        self.library.nvrtcGetSupportedArchs(numbers)
        return list(numbers)

    def compile(self, source: str, headers: Mapping[str, str], options: Sequence[str]) -> tuple[int, str, bytes]:
        """(status, log, cubin); the status is 0 for success."""
        program = ctypes.c_void_p()
        names = _strings(headers.keys())
        texts = _strings(headers.values())
        status = self.library.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), _NAME, len(headers), texts, names
        )
        if status == 0:
            status = self.library.nvrtcCompileProgram(program, len(options), _strings(options))
        log = self._text(program).decode("utf-8", "replace").strip("\0\n ") if program else ""
        if status:
            return status, log or self.library.nvrtcGetErrorString(status).decode(), b""
        return status, log, self._bytes(program, "CUBIN")

    def _text(self, program: ctypes.c_void_p) -> bytes:
        return self._bytes(program, "ProgramLog")

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.library, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw


def _strings(texts: Iterable[str]) -> Any:
    encoded = [text.encode() for text in texts]
    return (ctypes.c_char_p * len(encoded))(*encoded)


def main() -> None:
    """Reads the request, compiles, writes the answer."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the library prints does not mix with the answer
    request = json.load(sys.stdin)
    nvrtc = Nvrtc(request["library"])
    status, log, cubin = nvrtc.compile(request["source"], request["headers"], request["options"])
    answer = {
        "status": status,
        "log": log,
        "version": nvrtc.version(),
        "architectures": nvrtc.architectures(),
    }
    replies.write(json.dumps(answer).encode() + b"\n" + cubin)
    replies.close()


if __name__ == "__main__":
    main()
