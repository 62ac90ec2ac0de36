"""Object files of compiled modules, written so that a full disk is an error.

LLVM ends the process when a write fails. So it writes into memory, and Python writes the file.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

import tvm

from .errors import KompiloError
from .scratch import no_room

_OBJECT = "o"


def write_object(module: tvm.runtime.Module, path: Path) -> None:
    """The machine code of an LLVM module as the file `path`. Raises KompiloError if there is no room for it."""
    content = _object_bytes(module)
    try:
        if content is None:
            module.write_to_file(str(path), _OBJECT)
        else:
            path.write_bytes(content)
    except OSError as error:
        raise no_room(error) from None


def write_objects(executable: tvm.runtime.Executable, folder: Path, llvm: tvm.target.Target) -> list[Path]:
    """The object files in `folder` that a library of `executable` is linked from: its code, and its imports as data.

    Raises KompiloError if there is no room for them.
    """
    root = executable.mod
    paths = []
    for index, module in enumerate(_compiled_modules(root)):
        paths.append(folder / f"code{index}.o")
        write_object(module, paths[-1])
    if root.imports:
        pack = tvm.get_global_func("runtime.ModulePackImportsToLLVM")
        paths.append(folder / "imports.o")
        write_object(pack(root, False, str(llvm), ""), paths[-1])
    return paths


def _compiled_modules(root: tvm.runtime.Module) -> list[tvm.runtime.Module]:
    """`root` and what it imports, directly or not: those that LLVM has compiled.

    A program without kernels imports an empty source module in their place.
    """
    found, pending = [root], [root]
    while pending:
        fresh = [m for m in pending.pop().imports if all(not m.same_as(known) for known in found)]
        found += fresh
        pending += fresh
    return [module for module in found if module.kind == "llvm"]


def _object_bytes(module: tvm.runtime.Module) -> bytes | None:
    """The object file of an LLVM module; None where a file that lives in memory cannot be made or named."""
    _check_file_limit(module)
    try:
        descriptor = os.memfd_create("kompilo-object", os.MFD_CLOEXEC)
    except OSError:
        return None
    try:
        name = f"/proc/self/fd/{descriptor}"
        if not os.path.exists(name):  # /proc is not mounted
            return None
        module.write_to_file(name, _OBJECT)
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)


def _check_file_limit(module: tvm.runtime.Module) -> None:
    """Files in memory obey `ulimit -f` too. What the assembler's text, twice as long or more, fits in is enough."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < len(module.inspect_source("s")):
        raise KompiloError(
            f"the limit on the size of files, {limit} bytes, is too small for the compiled code.",
            "ulimit -f unlimited lifts it, where the system allows that.",
        )
