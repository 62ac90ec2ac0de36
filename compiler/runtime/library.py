"""Finding TVM's runtime library, and loading an artifact's code into the process without the compiler."""

from __future__ import annotations

import ctypes
import itertools
import os
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, KompiloError
from ..knobs import Knobs

RUNTIME_VARIABLE = "KOMPILO_TVM_RUNTIME"
_RUNTIME = "libtvm_runtime.so"
_EXTRA = "libtvm_runtime_extra.so"  # sort, top-k, random
_LOADED_SIGN = "vm.builtin.alloc_storage"  # a function that the runtime library registers
_EXTRA_SIGN = "tvm.contrib.sort.argsort"

# TVM reads these when a thread first launches parallel work; a setting of the user's wins.
_ENVIRONMENT = {
    # Else TVM binds the calling thread, which belongs to the user, to one core for good.
    "TVM_BIND_THREADS": "0",
    # How often an idle worker yields before it sleeps. TVM's 300000 burn a core for 70 to 120 ms after every call;
    # 2000 (0.7 ms) still bridge the gaps between the operators of a model, where a wake-up would cost 50 us.
    "TVM_THREAD_POOL_SPIN_COUNT": "2000",
}

_serial = itertools.count()
_clear: list[Callable[[], None]] = []  # of devices whose memory TVM has no pool for


def ensure_runtime() -> Any:
    """The module tvm_ffi, with TVM's runtime library loaded into the process exactly once.

    Raises:
        KompiloError: apache-tvm-ffi or the runtime library is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import tvm_ffi
    except ImportError as error:
        raise KompiloError(f"the package apache-tvm-ffi cannot be imported ({error}).", "pip install kompilo") from None
    lookup = tvm_ffi.get_global_func
    # A second copy of the library, from another path, would register every function again and abort.
    if lookup(_LOADED_SIGN, allow_missing=True) is None:
        path = find_runtime()
        try:
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise KompiloError(f"TVM's runtime library cannot be loaded: {error}.") from None
        if lookup(_LOADED_SIGN, allow_missing=True) is None:
            raise KompiloError(f"{path} is not TVM's runtime library.")
        extra = path.with_name(_EXTRA)
        if extra.is_file() and lookup(_EXTRA_SIGN, allow_missing=True) is None:
            ctypes.CDLL(str(extra), ctypes.RTLD_GLOBAL)
    return tvm_ffi


def on_clear(clear: Callable[[], None]) -> None:
    """Have `clear` called whenever memory is given back that is kept for later calls."""
    _clear.append(clear)


def clear_memory(tvm_ffi: Any) -> None:
    """Give back what is kept of all devices' memory for later calls, and not in use."""
    tvm_ffi.get_global_func("vm.builtin.memory_manager.clear")()
    for clear in _clear:
        clear()


def find_runtime() -> Path:
    """The path of libtvm_runtime.so: $KOMPILO_TVM_RUNTIME, the installed apache-tvm, or beside the package kompilo.

    An installed apache-tvm comes before the copy beside the package because a later `import tvm` loads its own.

    Raises:
        KompiloError: none of them exists; the sentence lists the places.
    """
    named = Knobs.from_environment().tvm_runtime
    if named is not None:
        if not named.is_file():
            raise KompiloError(f"${RUNTIME_VARIABLE} names {str(named)!r}, which is not a file.")
        return named
    places = _places()
    for place in places:
        if (place / _RUNTIME).is_file():
            return place / _RUNTIME
    raise KompiloError(
        f"TVM's runtime library {_RUNTIME} was not found in {', '.join(map(str, places))}.",
        f"install apache-tvm, or set ${RUNTIME_VARIABLE} to the library's path.",
    )


def _places() -> list[Path]:
    places = []
    spec = find_spec("tvm")  # looks the package up without importing it
    if spec and spec.origin:
        places.append(Path(spec.origin).parent / "lib")
    package = find_spec("kompilo")
    if package and package.origin:
        places += [Path(package.origin).parent, Path(package.origin).parent.parent]
    return places


def load_executable(code: bytes) -> Any:
    """The Relax VM executable (a tvm_ffi.Module) in the ELF shared object `code`; it is unloaded with its last user.

    Raises:
        ArtifactError: the code is not such a library, or needs symbols that this process does not have.
    """
    load = ensure_runtime().get_global_func("ffi.Module.load_from_file.so")
    try:
        return _load_from_memory(load, code)
    except OSError:  # no memfd, or /proc is not mounted
        return _load_from_file(load, code)


def _load_from_memory(load: Any, code: bytes) -> Any:
    descriptor = os.memfd_create("kompilo", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(code)
        path = _unique_path(descriptor)
        os.stat(path)
        return _call(load, path)
    finally:
        os.close(descriptor)


def _unique_path(descriptor: int) -> str:
    """A name of the open file that no earlier load used.

    The dynamic linker answers a *name* it has seen with the library it loaded then, although the descriptor's number
    has meanwhile come to mean another file. So a serial number is written into the path, as "./" and "/".
    """
    bits = format(next(_serial), "b").replace("1", "./").replace("0", "/")
    return f"/proc/self/fd/{bits}{descriptor}"


def _load_from_file(load: Any, code: bytes) -> Any:
    try:
        with tempfile.NamedTemporaryFile(prefix="kompilo-", suffix=".so") as file:
            file.write(code)
            file.flush()
            return _call(load, file.name)
    except OSError as error:
        raise KompiloError(f"the artifact's code cannot be written to a temporary file: {error}.") from None


def _call(load: Any, path: str) -> Any:
    try:
        return load(path, "so")
    except Exception as error:  # tvm_ffi raises the type that the C++ side names
        reason = str(error).strip().splitlines()[-1]
        raise ArtifactError(f"the artifact's code cannot be loaded: {reason}.") from None
