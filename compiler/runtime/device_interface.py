"""TVM's interface to a kind of device, class DeviceAPI of tvm/runtime/device_api.h, implemented in Python.

TVM asks for the device of a name through a function that gives an object's address, and calls the object's virtual
functions. Here the object is one word, the address of a table of functions in the layout of the Itanium C++ ABI, which
Linux has on x86-64 and aarch64. The table is a copy of TVM's own for the base class, with callbacks where a device has
something to do. The layout is that of TVM 0.27; before it is used, what stands in the base class's table is compared
with the symbols that must stand there.

Callbacks must not raise: a C++ caller knows nothing of Python's exceptions.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from ctypes import c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, NamedTuple

from ..errors import ArtifactError
from .library import find_runtime

_CLASS = "N3tvm7runtime9DeviceAPI"
_TABLE = f"_ZTV{_CLASS}E"
_HEAD = 2  # words in front of the functions: an offset, and the type's description
_SYMBOL_ENTRY = 1  # RTLD_DL_SYMENT
_HARMLESS = "getpid"  # takes no notice of arguments, and changes nothing


class _Slot(NamedTuple):
    """One virtual function: its `name` where a callback may stand for it, and the base class's `symbol` ("": none).

    `result` and `arguments` are the callback's, behind `this`. A DLDevice is 8 bytes, its type below its number; a
    DLDataType 4 bytes; both travel as integers. An argument of a C++ class travels as its address.
    """

    name: str
    symbol: str
    result: Any = None
    arguments: tuple[Any, ...] = ()


_DEVICE, _DTYPE, _STREAM, _ANY = c_uint64, c_uint32, c_void_p, c_void_p
_OPTIONAL_STRING = c_void_p
_STRING_ARGUMENT = "NS_3ffi8OptionalINS{}_6StringEvEE"
# In the order of the class's declaration; overloads follow one another as they are declared.
_SLOTS = (
    _Slot("", ""),  # the destructor
    _Slot("", ""),  # the destructor that frees as well
    _Slot("set_device", "", None, (_DEVICE,)),
    _Slot("attribute", "", None, (_DEVICE, c_int, _ANY)),
    _Slot("", f"11GetDataSizeERK8DLTensor{_STRING_ARGUMENT.format(5)}"),
    _Slot("", "17GetTargetPropertyE8DLDeviceRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEPNS_3ffi3AnyE"),
    _Slot("allocate", "", c_size_t, (_DEVICE, c_size_t, c_size_t, _DTYPE)),
    _Slot(
        "allocate_shaped",
        f"14AllocDataSpaceE8DLDeviceiPKl10DLDataType{_STRING_ARGUMENT.format(6)}",
        c_size_t,
        (_DEVICE, c_int32, c_void_p, _DTYPE, _OPTIONAL_STRING),
    ),
    _Slot("free", "", None, (_DEVICE, c_size_t)),
    _Slot("", "14CopyDataFromToEP8DLTensorS3_Pv"),
    _Slot("create_stream", "12CreateStreamE8DLDevice", c_size_t, (_DEVICE,)),
    _Slot("free_stream", "10FreeStreamE8DLDevicePv", None, (_DEVICE, _STREAM)),
    _Slot("synchronize", "", None, (_DEVICE, _STREAM)),
    _Slot("", "9SetStreamE8DLDevicePv"),
    _Slot("", "16GetCurrentStreamE8DLDevice"),
    _Slot("follow", "16SyncStreamFromToE8DLDevicePvS3_", None, (_DEVICE, _STREAM, _STREAM)),
    _Slot("", "14AllocWorkspaceE8DLDevicem10DLDataType"),
    _Slot("", "13FreeWorkspaceE8DLDevicePv"),
    _Slot("", "38SupportsDevicePointerArithmeticsOnHostEv"),
    _Slot(
        "copy",
        "14CopyDataFromToEPKvmPvmm8DLDeviceS5_10DLDataTypeS4_",
        None,
        (c_size_t, c_size_t, c_size_t, c_size_t, c_size_t, _DEVICE, _DEVICE, _DTYPE, _STREAM),
    ),
)
NAMES = frozenset(slot.name for slot in _SLOTS if slot.name)


class DeviceInterface:
    """The object that TVM takes for a device, which lives as long as the process; `address` is where it lies.

    `functions` are callbacks by the names of slots, without `this`. Raises ArtifactError where TVM's class is another.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        library = _library()
        start = _address(library, _TABLE)
        words = _size_of(start) // ctypes.sizeof(c_size_t)
        base = (c_size_t * words).from_address(start)
        check_layout(list(base[_HEAD:]), lambda symbol: _address(library, f"_Z{_CLASS}{symbol}"))
        self._table = type(base)(*base)
        self._callbacks = {}
        for number, slot in enumerate(_SLOTS, _HEAD):
            if slot.name in functions:
                callback = ctypes.CFUNCTYPE(slot.result, c_void_p, *slot.arguments)(functions[slot.name])
                self._callbacks[number] = callback
                self._table[number] = ctypes.cast(callback, c_void_p).value or 0
        self._object = c_void_p(ctypes.addressof(self._table) + _HEAD * ctypes.sizeof(c_size_t))
        self.address = ctypes.addressof(self._object)

    def close(self) -> None:
        """From now on calls do nothing: Python's interpreter is about to end, or does not belong to this process."""
        harmless = _address(ctypes.CDLL(None), _HARMLESS)
        for number in self._callbacks:
            self._table[number] = harmless


def check_layout(found: list[int], address_of: Callable[[str], int]) -> None:
    """Raises ArtifactError unless the base class's table has each function at its place.

    `found` are the table's functions, `address_of` the address of one of the class's functions (0: there is none).
    Functions that the base class leaves to others all are the one that C++ has for that.
    """
    if len(found) != len(_SLOTS):
        raise _other_layout()
    open_places = {found[k] for k, slot in enumerate(_SLOTS) if k > 1 and not slot.symbol}
    own = [(found[k], address_of(slot.symbol)) for k, slot in enumerate(_SLOTS) if slot.symbol]
    if len(open_places) > 1 or any(not wanted or there != wanted for there, wanted in own):
        raise _other_layout()


def _other_layout() -> ArtifactError:
    return ArtifactError(
        "the loader drives AMD's GPUs through an interface of TVM's runtime, expected that of TVM 0.27, found another."
    )


class _SymbolInformation(ctypes.Structure):
    """Dl_info of dlfcn.h."""

    _fields_ = [(name, c_void_p) for name in ("file", "base", "name", "address")]


class _Symbol(ctypes.Structure):
    """Elf64_Sym of elf.h."""

    _fields_ = [("name", c_uint32), ("kind", c_uint32), ("value", c_uint64), ("size", c_uint64)]


def _size_of(address: int) -> int:
    """Bytes of the symbol at `address`, as the dynamic linker knows it; 0 if it knows none."""
    information, symbol = _SymbolInformation(), ctypes.POINTER(_Symbol)()
    look = ctypes.CDLL(None).dladdr1
    look.argtypes = (c_void_p, c_void_p, c_void_p, c_int)
    found = look(address, ctypes.byref(information), ctypes.byref(symbol), _SYMBOL_ENTRY)
    return int(symbol.contents.size) if found and symbol else 0


def _library() -> Any:
    """TVM's runtime library, which is loaded already."""
    everything = ctypes.CDLL(None)
    if _address(everything, _TABLE):
        return everything
    return ctypes.CDLL(str(find_runtime()), mode=os.RTLD_NOLOAD | os.RTLD_NOW)


def _address(library: Any, symbol: str) -> int:
    """Where `symbol` lies; 0 if there is none."""
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(library, symbol))
    except ValueError:
        return 0
