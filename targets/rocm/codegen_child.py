"""Compiles one module for an AMD GPU in a process of its own, which LLVM may end; see codegen.py.

Reads {"module": ..., "target": ..., "arch": ...}, with TVM's JSON of both, from standard input; writes the object file.
"""

from __future__ import annotations

import json
import os
import sys

import tvm

from .codegen import compile_object


def main() -> None:
    """Reads, compiles, writes."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what TVM prints does not mix with the object
    request = json.load(sys.stdin)
    module, target = (tvm.ir.load_json(request[name]) for name in ("module", "target"))
    output.write(compile_object(module, target, request["arch"]))
    output.close()


if __name__ == "__main__":
    main()
