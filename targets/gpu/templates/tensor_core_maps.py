"""Operands that the copy engine brings: descriptors of their tiles, made by the host, and the copies of their pieces.

A descriptor has a tensor's sizes and strides, and the box that one copy moves. Its rows here are 128 bytes, with the
chunks of 16 bytes exchanged as warpgroups read them (tensor_core_wgmma.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm import tirx
from tvm.tirx import Stmt

from ...shared.tir_loops import Index, i64, seq
from . import tensor_core_tma as tma
from .gemm_index import i32
from .tensor_core_wgmma import ROW_BYTES, SharedOperand

_ENCODE = "runtime.cuTensorMapEncodeTiled"
# CUtensorMapSwizzle 128 bytes, CUtensorMapL2promotion 256 bytes; no interleaving, zeros outside.
_SWIZZLE, _PROMOTION, _INTERLEAVE, _FILL = 3, 3, 0, 0
# Dimensions of a descriptor.
_MOST_AXES = 5
_ELEMENT = {1: "uint8", 2: "float16"}  # copies do not look at what they bring


@dataclass(frozen=True)
class Tiled:
    """An operand as the copy engine sees it.

    Attributes:
        buffer: the parameter that holds it.
        along_k: whether k runs fastest, else the rows of A (columns of B) do.
        positions: rows of A (columns of B), `depth` the length of K.
        stride: elements from one line to the next.
        batch: extent and stride of each further axis.
    """

    buffer: tirx.Buffer
    along_k: bool
    positions: Index
    depth: Index
    stride: Index
    batch: tuple[tuple[Index, Index], ...] = ()

    @property
    def fits(self) -> bool:
        """Whether descriptors have enough dimensions."""
        return 2 + len(self.batch) <= _MOST_AXES


class TileMap:
    """Brings pieces of `extent` rows of A (columns of B) and bk of k, each as segments of rows of 128 bytes."""

    def __init__(self, operand: Tiled, extent: int, size: int, name: str) -> None:
        self.operand, self.size = operand, size
        self.per_row = ROW_BYTES // size
        self.bk, self.extent = self.per_row, extent
        self.var = tirx.Var(f"{name}_tiles", tvm.ir.PointerType(tirx.type.TensorMapType()))

    @property
    def shared(self) -> SharedOperand:
        """How warpgroups find a piece."""
        return SharedOperand(self.operand.along_k, self.bk, self.size)

    @property
    def piece_bytes(self) -> int:
        """Shared memory of a piece."""
        return self.extent * self.bk * self.size

    def encode(self, part: int = 1) -> list[Stmt]:
        """The host's statements that make the descriptor; a copy along k brings 1/`part` of a piece."""
        operand = self.operand
        box = (self.per_row, self.extent // part if operand.along_k else self.bk)
        inner, outer = operand.depth, operand.positions
        sizes = [inner, outer] if operand.along_k else [outer, inner]
        strides = [operand.stride]
        for extent, stride in operand.batch:
            sizes.append(extent)
            strides.append(stride)
        rank = len(sizes)
        boxes = [*box, *(1 for _ in operand.batch)]
        numbers = [*sizes, *(s * self.size for s in strides), *boxes, *(1 for _ in sizes)]
        flags = [_INTERLEAVE, _SWIZZLE, _PROMOTION, _FILL]
        made = tirx.Bind(self.var, tirx.tvm_stack_alloca("tensormap", 1))
        arguments = [i64(n) for n in (*numbers, *flags)]
        data = operand.buffer.data
        encoded = tirx.call_packed(_ENCODE, self.var, _ELEMENT[self.size], rank, data, *arguments)
        return [made, tirx.Evaluate(encoded)]

    def copy(
        self, to: tirx.Buffer, start: tirx.Expr, position: Index, k: Index, batch: Sequence[Index], barrier: tirx.Expr,
        part: tuple[Index, int] = (0, 1), blocks: int = 0,
    ) -> Stmt:  # fmt: skip
        """Begins to copy the piece at (position, k) to byte `start` of `to`, or share number `part[0]` of `part[1]`.

        `blocks` is the mask of the blocks of the cluster that get it; 0 for this block only.
        """
        number, parts = part
        rest = [i32(b) for b in batch]

        def one(offset: Index, at: list[Index]) -> Stmt:
            place = tirx.address_of(tirx.BufferLoad(to, [start + offset]))
            return tma.copy_box(place, self.var, [*map(i32, at), *rest], barrier, blocks)

        if self.operand.along_k:
            lines = self.extent // parts
            return one(number * (lines * ROW_BYTES), [k, position + number * lines])
        segments = self.extent // self.per_row // parts
        copies = []
        for segment in range(segments):
            which = number * segments + segment
            copies.append(one(which * (self.bk * ROW_BYTES), [position + which * self.per_row, k]))
        return seq(*copies)
