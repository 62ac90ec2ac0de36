"""FPGAs by board name, with what their makers have published of them.

Sources. DSP blocks: UG579 (DSP48E2), AM004 (DSP58), Lattice FPGA-TN-02205 (MULT18X18D); two int8 products per DSP48E2:
white paper WP486; three per DSP58: AM004, mode INT8. Boards and parts:
- u250, u280, u50: data sheets DS962, DS963, DS965 of the cards (resources of the part, memories and their peak rates).
- v80: product brief and DS1013 (XCV80: 10848 DSP58, 132 Mb block RAM, 541 Mb UltraRAM, 32 GB HBM2e at 819 GB/s).
- vhk158: UG1611 (board), DS950 and the product tables of the Versal HBM series (XCVH1582).
- zcu104: UG1267 (board), DS891 and the product tables of Zynq UltraScale+ (XCZU7EV).
- kv260: DS987 (K26 module, XCK26).
- ecp5: FPGA-DS-02012 (LFE5U-85F); no memory is assumed beside it.
Flip-flops of Versal and UltraScale+ parts are two per look-up table, by construction of their logic blocks.

Clocks are what designs of this kind are usually closed at, not limits; shares of what is usable are those that FINN
assumes (70% of the look-up tables, 80% of DSPs and block RAMs), half of the flip-flops.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...compiler.errors import TargetError
from .spec import DspKind, ExternalMemory, FpgaSpec

_GIB = 1 << 30
_MHZ = 1e6

DSP48E2 = DspKind("DSP48E2", 27, 18, 48, int8_macs=2)
DSP58 = DspKind("DSP58", 27, 24, 58, int8_macs=3, float32_multiplier=True)
MULT18X18D = DspKind("MULT18X18D", 18, 18, 54, int8_macs=1)

_USABLE = (("dsp", 0.8), ("bram18", 0.8), ("uram", 0.8), ("lut", 0.7), ("ff", 0.5))


def _hbm(bandwidth: float, capacity: int) -> ExternalMemory:
    return ExternalMemory("hbm", 32, bandwidth, capacity)  # two stacks of 16 pseudo-channels


def _ddr(channels: int, bandwidth: float, capacity: int) -> ExternalMemory:
    return ExternalMemory("ddr", channels, bandwidth, capacity)


def _spec(
    name: str,
    part: str,
    family: str,
    dsp: DspKind,
    dsps: int,
    bram18: int,
    uram: int,
    luts: int,
    slrs: int,
    clock_hz: float,
    *memories: ExternalMemory,
    flip_flops: int | None = None,
    lut_inputs: int = 6,
) -> FpgaSpec:
    return FpgaSpec(
        kind="fpga", key=f"fpga-{name}", cores=1, part=part, family=family, dsp=dsp, dsps=dsps, bram18=bram18,
        uram=uram, luts=luts, flip_flops=flip_flops or 2 * luts, lut_inputs=lut_inputs, slrs=slrs, memories=memories,
        clock_hz=clock_hz, usable=_USABLE,
    )  # fmt: skip


# name: (part, family, DSP kind, DSPs, BRAM18, URAM, LUTs, SLRs, clock, memories)
_SPECS = (
    _spec("u250", "XCU250-FIGD2104-2L", "ultrascale+", DSP48E2, 12288, 5376, 1280, 1_728_000, 4, 300 * _MHZ,
          _ddr(4, 77e9, 64 * _GIB)),
    _spec("u280", "XCU280-FSVH2892-2L", "ultrascale+", DSP48E2, 9024, 4032, 960, 1_303_680, 3, 300 * _MHZ,
          _hbm(460e9, 8 * _GIB), _ddr(2, 38e9, 32 * _GIB)),
    _spec("u50", "XCU50-FSVH2104-2", "ultrascale+", DSP48E2, 5952, 2688, 640, 871_680, 2, 300 * _MHZ,
          _hbm(316e9, 8 * _GIB)),
    _spec("v80", "XCV80-LSVA4737-2MHP", "versal", DSP58, 10848, 7482, 1925, 2_574_208, 3, 300 * _MHZ,
          _hbm(819e9, 32 * _GIB), _ddr(1, 25.6e9, 32 * _GIB)),
    _spec("vhk158", "XCVH1582-VSVA3697-2MP", "versal", DSP58, 7392, 5082, 1301, 1_753_984, 2, 300 * _MHZ,
          _hbm(819e9, 32 * _GIB)),
    _spec("zcu104", "XCZU7EV-2FFVC1156", "ultrascale+", DSP48E2, 1728, 624, 96, 230_400, 1, 200 * _MHZ,
          _ddr(1, 19.2e9, 2 * _GIB)),
    _spec("kv260", "XCK26-SFVC784-2LV", "ultrascale+", DSP48E2, 1248, 288, 64, 117_120, 1, 200 * _MHZ,
          _ddr(1, 19.2e9, 4 * _GIB)),
    _spec("ecp5", "LFE5U-85F-8BG381", "ecp5", MULT18X18D, 156, 208, 0, 83_640, 1, 80 * _MHZ,
          flip_flops=83_640, lut_inputs=4),
)  # fmt: skip

BOARDS = {spec.key.removeprefix("fpga-"): spec for spec in _SPECS}
# Parts that are asked for by the name of the part or module.
STANDS_FOR = {"zu7ev": "zcu104", "k26": "kv260"}


def preset_names() -> Sequence[str]:
    """Names accepted after "fpga:"."""
    return (*BOARDS, *STANDS_FOR)


def fpga_spec(name: str) -> FpgaSpec:
    """The facts of "fpga:name" (or just "name"); TargetError names the known ones."""
    plain = name.lower().removeprefix("fpga:")
    if plain not in preset_names():
        raise TargetError(f"unknown target 'fpga:{plain}': expected one of {', '.join(preset_names())}.")
    return BOARDS[STANDS_FOR.get(plain, plain)]
