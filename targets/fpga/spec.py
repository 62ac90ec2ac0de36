"""Facts of an FPGA as frozen, self-checking records. Templates and models read these and never a part's name."""

from __future__ import annotations

from dataclasses import dataclass

from ...compiler.errors import TargetError
from ...compiler.schedule.target_spec import TargetSpec


@dataclass(frozen=True)
class DspKind:
    """A kind of multiplier block.

    Attributes:
        name: the maker's name ("DSP48E2").
        a_bits, b_bits: signed operands of its multiplier, the wider one first.
        accumulator_bits: width of its adder.
        int8_macs: multiply-accumulates of int8 that one block does per cycle at most, with the known packing.
        float32_multiplier: whether it multiplies (and adds) float32 by itself.
    """

    name: str
    a_bits: int
    b_bits: int
    accumulator_bits: int
    int8_macs: int
    float32_multiplier: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.b_bits <= self.a_bits <= self.accumulator_bits or self.int8_macs < 1:
            raise TargetError(
                f"DSP kind {self.name}: expected 2 <= b <= a <= accumulator bits and a rate, found {self}."
            )


@dataclass(frozen=True)
class ExternalMemory:
    """Memory beside the fabric: `channels` independent ports that share `bandwidth` (bytes/s, peak) evenly.

    `kind` is "hbm" or "ddr"; `capacity` is in bytes.
    """

    kind: str
    channels: int
    bandwidth: float
    capacity: int

    def __post_init__(self) -> None:
        if self.kind not in ("hbm", "ddr") or self.channels < 1 or self.bandwidth <= 0 or self.capacity <= 0:
            raise TargetError(f"external memory: expected hbm or ddr with channels, rate and size, found {self}.")


@dataclass(frozen=True)
class FpgaSpec(TargetSpec):
    """An FPGA on its board; `cores` is 1: the fabric is one pool of resources.

    Attributes:
        part: the maker's part number.
        family: "ultrascale+", "versal" or "ecp5".
        dsp: kind of multiplier block; `dsps` how many.
        bram18: block RAMs of 18 Kib (a RAMB36 counts as two).
        uram: UltraRAMs of 288 Kib.
        luts, flip_flops: of the whole part; `lut_inputs` per look-up table.
        slrs: dies of the part; a path between two costs a pipeline register.
        memories: external memory, the fastest first.
        clock_hz: kernel clock that is assumed unless the user names another.
        usable: (resource, share) pairs: how much of a resource a design may take and still be routed at that clock.
    """

    part: str
    family: str
    dsp: DspKind
    dsps: int
    bram18: int
    uram: int
    luts: int
    flip_flops: int
    lut_inputs: int
    slrs: int
    memories: tuple[ExternalMemory, ...]
    clock_hz: float
    usable: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.family not in FAMILIES:
            raise TargetError(f"target {self.key}: expected a family of {', '.join(FAMILIES)}, found {self.family!r}.")
        if min(self.dsps, self.bram18, self.luts, self.flip_flops, self.slrs) < 1 or self.uram < 0:
            raise TargetError(f"target {self.key}: expected counts of resources above 0, found {self}.")
        if set(dict(self.usable)) != set(RESOURCES) or not all(0 < share <= 1 for _, share in self.usable):
            raise TargetError(f"target {self.key}: expected shares in (0, 1] of {', '.join(RESOURCES)}.")
        if self.clock_hz <= 0:
            raise TargetError(f"target {self.key}: expected a clock above 0, found {self.clock_hz}.")

    def total(self, resource: str) -> int:
        """All of `resource`, one of RESOURCES."""
        return {
            "dsp": self.dsps, "bram18": self.bram18, "uram": self.uram, "lut": self.luts, "ff": self.flip_flops,
        }[resource]  # fmt: skip

    def budget(self, resource: str) -> int:
        """How much of `resource` a design may take."""
        return int(self.total(resource) * dict(self.usable)[resource])

    @property
    def bandwidth(self) -> float:
        """Bytes/s of the fastest external memory; 0.0 without any."""
        return self.memories[0].bandwidth if self.memories else 0.0

    def int8_macs_per_second(self) -> float:
        """Peak rate with every block packed."""
        return self.dsps * self.dsp.int8_macs * self.clock_hz


FAMILIES = ("ultrascale+", "versal", "ecp5")
RESOURCES = ("dsp", "bram18", "uram", "lut", "ff")
