"""What a kernel takes of the GPU, read from its machine code: registers, local memory, shared memory, code size.

Nothing is asked of the compiler and no tool is run: the numbers are those that the driver launches with. Cubins carry
them in sections `.nv.info*`, whose layout NVIDIA does not publish; the attributes read here were identified with
`cuobjdump -res-usage`, to which the tests compare. Code objects of AMD carry them as MessagePack in a note, described
in https://llvm.org/docs/AMDGPUUsage.html ("Code Object V3 and Above Metadata").
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...compiler.errors import KompiloError
from .elf import MACHINE_AMDGPU, MACHINE_CUDA, SYMBOL_FUNCTION, ElfFile, Section
from .message_pack import unpack

# Attributes of .nv.info: one byte says how the value is stored, one which attribute it is, two are value or size.
_STORED_APART = 4
_MAX_THREADS = 0x05  # __launch_bounds__: x, y, z
_REQUIRED_THREADS = 0x10
_FRAME_SIZE = 0x11  # index of the function's symbol, bytes of stack per thread
_REGISTERS = 0x2F  # index of the function's symbol, registers per thread

# From sm_90 on, the section of a kernel's shared memory starts with what the driver keeps for itself. The file tells
# by an empty section of that name; older toolkits put the bytes there, and not into the kernel's section.
_RESERVED_SECTION = ".nv.shared.reserved.0"
_RESERVED_BYTES = 1024

_NOTE_METADATA = 32


@dataclass(frozen=True)
class Resources:
    """What one kernel takes.

    Attributes:
        kernel: its name.
        registers: 32-bit registers per thread; on AMD the vector registers, accumulation registers among them.
        spills_bytes: local (NVIDIA) or private (AMD) memory per thread in bytes. It holds registers that did not fit,
            and arrays that are indexed at run time; 0 says that there are neither.
        shared_bytes: shared memory per block that the code itself declares; what a launch adds is not in it.
        code_bytes: size of the instructions.
        threads: most threads of a block that the code was compiled for; 0 where it does not say.
        scalar_registers: per warp; 0 on NVIDIA, which does not count them.
        accumulation_registers: of `registers`, those that only matrix instructions and moves reach; CDNA has them.
    """

    kernel: str
    registers: int
    spills_bytes: int
    shared_bytes: int
    code_bytes: int
    threads: int = 0
    scalar_registers: int = 0
    accumulation_registers: int = 0


def resources_of_cubin(data: bytes) -> dict[str, Resources]:
    """Kernel name -> resources, for all kernels of a cubin. Raises KompiloError if it is none, or damaged."""
    elf = ElfFile(data, "cubin")
    if elf.machine != MACHINE_CUDA:
        raise KompiloError(f"cubin: expected code for NVIDIA's GPUs, found an ELF file for machine {elf.machine}.")
    symbols = elf.symbols()
    registers: dict[str, int] = {}
    frames: dict[str, int] = {}
    for attribute, words in _attributes(elf, elf.section(".nv.info")):
        table = {_REGISTERS: registers, _FRAME_SIZE: frames}.get(attribute)
        if table is not None and len(words) == 2 and words[0] < len(symbols):
            table[symbols[words[0]].name] = words[1]
    reserved = elf.section(_RESERVED_SECTION)
    kept = _RESERVED_BYTES if reserved is not None and reserved.size == 0 else 0
    kernels = {}
    for section in elf.sections:
        name = section.name.removeprefix(".text.")
        facts = elf.section(f".nv.info.{name}")
        if name == section.name or facts is None:  # a function that kernels call has no section of facts
            continue
        if name not in registers:
            raise KompiloError(f"cubin: expected a count of registers of kernel {name!r}, found none.")
        local, shared = elf.section(f".nv.local.{name}"), elf.section(f".nv.shared.{name}")
        kernels[name] = Resources(
            kernel=name,
            registers=registers[name],
            spills_bytes=frames.get(name, 0) + (local.size if local else 0),
            shared_bytes=max(0, shared.size - kept) if shared else 0,
            code_bytes=section.size,
            threads=_block_of(elf, facts),
        )
    return kernels


def resources_of_code_object(data: bytes) -> dict[str, Resources]:
    """Kernel name -> resources, of all kernels in an AMD code object. Raises KompiloError if it is none, or damaged."""
    elf = ElfFile(data, "code object")
    if elf.machine != MACHINE_AMDGPU:
        raise KompiloError(f"code object: expected code for AMD's GPUs, found an ELF file for machine {elf.machine}.")
    sizes = {symbol.name: symbol.size for symbol in elf.symbols() if symbol.type == SYMBOL_FUNCTION}
    return {name: _amd_kernel(name, facts, sizes.get(name, 0)) for name, facts in _amd_metadata(elf)}


def _attributes(elf: ElfFile, section: Section | None) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(attribute, 32-bit words) of a section of facts; attributes whose value is no list of words have none."""
    content = elf.content(section) if section else b""
    position = 0
    while position + 4 <= len(content):
        storage, attribute, size = struct.unpack_from("<BBH", content, position)
        position += 4
        value = b""
        if storage == _STORED_APART:
            value = content[position : position + size]
            position += size
        if position > len(content):
            raise KompiloError("cubin: a section of kernels' attributes ends within an attribute.")
        yield attribute, struct.unpack(f"<{len(value) // 4}I", value[: len(value) // 4 * 4])


def _block_of(elf: ElfFile, facts: Section) -> int:
    for attribute, words in _attributes(elf, facts):
        if attribute in (_MAX_THREADS, _REQUIRED_THREADS) and len(words) == 3:
            return math.prod(words)
    return 0


def _amd_metadata(elf: ElfFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kernel name, its metadata) for each kernel."""
    for note in elf.notes():
        if note.name == "AMDGPU" and note.type == _NOTE_METADATA:
            metadata = unpack(note.content)
            kernels = metadata.get("amdhsa.kernels") if isinstance(metadata, dict) else None
            if not isinstance(kernels, list) or not all(isinstance(k, dict) and ".name" in k for k in kernels):
                raise KompiloError("code object: expected a list of kernels in its metadata, found none.")
            for facts in kernels:
                yield str(facts[".name"]), facts


def _amd_kernel(name: str, facts: dict[str, Any], code_bytes: int) -> Resources:
    def number(key: str, required: bool = True) -> int:
        value = facts.get(key, None if required else 0)
        if not isinstance(value, int):
            raise KompiloError(f"code object: kernel {name!r}: expected a number for {key!r}, found {value!r}.")
        return value

    return Resources(
        kernel=name,
        registers=number(".vgpr_count"),
        spills_bytes=number(".private_segment_fixed_size"),
        shared_bytes=number(".group_segment_fixed_size"),
        code_bytes=code_bytes,
        threads=number(".max_flat_workgroup_size", required=False),
        scalar_registers=number(".sgpr_count"),
        accumulation_registers=number(".agpr_count", required=False),
    )
