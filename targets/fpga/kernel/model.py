"""Cycles and resources of a kernel, from its schedule: no synthesis, no simulation.

Exact by construction and checked against RTL simulation: cycles. Exact rules checked by synthesis: DSP blocks and
block RAMs. Estimates: look-up tables and flip-flops.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from ..spec import DspKind
from .dataflow import dataflow_cycles
from .graph import Node, elaborate
from .ir import Array, Kernel
from .schedule import Schedule, schedule

# Shapes of one 18 Kib block RAM with a port to read and one to write: bits of a word, words (UG573, table of SDP mode).
BRAM18_SHAPES = ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384))
URAM_SHAPE = (72, 4096)
# Products narrower than this are made of look-up tables.
_DSP_PRODUCT_BITS = 9
# Factors of a DSP58's three products in mode INT8 (it takes 9 bits on one side, which nothing here uses).
_DOT_BITS = 8
_SIGNIFICAND = {16: 11, 32: 24}


@dataclass(frozen=True)
class Estimate:
    """What a kernel takes. `cycles` from start to done; `schedules` has one for each nest, in order."""

    kernel: Kernel
    schedules: tuple[Schedule, ...]
    cycles: int

    @property
    def iis(self) -> tuple[int, ...]:
        """Initiation interval of each nest."""
        return tuple(s.ii for s in self.schedules)

    def nodes(self) -> list[Node]:
        """All values that are computed."""
        return [n for s in self.schedules for n in s.graph.nodes]

    def dsps(self, kind: DspKind) -> int:
        """Multiplier blocks of that kind."""
        total = 0
        for s in self.schedules:
            for n in (n for n in s.graph.nodes if n.kind in ("mul", "dot3")):
                bits = [_operand_bits(s.graph.nodes[arg]) for arg in n.args]
                if n.kind == "dot3" and kind.int8_macs == 3 and max(bits) <= _DOT_BITS:
                    total += 1
                else:
                    total += sum(product_dsps(a, b, kind) for a, b in zip(bits[::2], bits[1::2], strict=True))
        return total

    def bram18(self) -> int:
        """Block RAMs of 18 Kib."""
        return sum(a.banks * bram18_of(a.dtype.bits, a.depth) for a in self._memories("bram"))

    def uram(self) -> int:
        """UltraRAMs."""
        width, depth = URAM_SHAPE
        return sum(
            a.banks * math.ceil(a.dtype.bits / width) * math.ceil(a.depth / depth) for a in self._memories("uram")
        )

    def _memories(self, kind: str) -> list[Array]:
        return [a for a in self.kernel.arrays if a.memory == kind]

    def macs_per_cycle(self, macs: int) -> float:
        """Rate at which `macs` multiply-accumulates are done."""
        return macs / self.cycles


def estimate(kernel: Kernel) -> Estimate:
    """The model of a valid kernel; KompiloError if it has no schedule or waits for itself."""
    schedules = tuple(schedule(elaborate(kernel, nest)) for nest in kernel.nests)
    cycles = dataflow_cycles(schedules) if kernel.dataflow else sum(s.cycles for s in schedules)
    return Estimate(kernel, schedules, cycles)


@functools.lru_cache(maxsize=1 << 14)
def bram18_of(bits: int, depth: int) -> int:
    """Fewest 18 Kib block RAMs for `depth` words of `bits`."""
    return min(math.ceil(bits / w) * math.ceil(depth / d) for w, d in BRAM18_SHAPES)


def product_dsps(a: int, b: int, kind: DspKind) -> int:
    """Blocks for a signed product of `a` by `b` bits; 0 where look-up tables do, or a power of two (0 bits)."""
    if min(a, b) == 0 or a + b < _DSP_PRODUCT_BITS:
        return 0
    wide, narrow = max(a, b), min(a, b)
    ways = ((wide, narrow), (narrow, wide))
    return min(_pieces(x, kind.a_bits) * _pieces(y, kind.b_bits) for x, y in ways)


def _pieces(bits: int, port: int) -> int:
    """Signed pieces of a factor: only the first uses the sign bit of the port."""
    return 1 if bits <= port else 1 + math.ceil((bits - port) / (port - 1))


def _operand_bits(n: Node) -> int:
    """Signed width of a factor; a float's significand is unsigned, and of a constant one low zeros do not count."""
    if n.dtype.is_float and n.kind == "const" and math.isfinite(n.value) and n.value:
        numerator = abs(int(math.frexp(n.value)[0] * (1 << _SIGNIFICAND[n.dtype.bits])))
        odd = numerator // (numerator & -numerator)
        return odd.bit_length() + 1 if odd > 1 else 0
    return _SIGNIFICAND[n.dtype.bits] + 1 if n.dtype.is_float else n.width
