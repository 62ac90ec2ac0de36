"""The texts of a project around its sources: scripts for the vendor's tools, a Makefile, a page for people."""

from __future__ import annotations

from typing import Any

from ..design.pack import TOP
from ..design.record import Design


def hls_script(design: Design) -> str:
    """run_hls.tcl: C simulation, synthesis, co-simulation and export by vitis_hls."""
    period = 1e9 / design.spec.clock_hz
    return f"""\
# vitis_hls -f run_hls.tcl
open_project -reset hls
set_top {TOP}
add_files kernels.cpp
add_files -tb testbench.cpp
add_files -tb data
open_solution -reset solution -flow_target vitis
set_part {{{design.spec.part.lower()}}}
create_clock -period {period:.3f} -name default
csim_design
csynth_design
cosim_design
export_design -format xo -output {TOP}.xo
exit
"""


def makefile(design: Design) -> str:
    """Makefile: `make check` needs g++ and the open ap_* headers only; `make xclbin` and `make host` Vitis and XRT."""
    return f"""\
# make check AP_TYPES=folder of ap_int.h   the testbench, without a vendor's tool
# make xo | xclbin | host                  Vitis and XRT; PLATFORM names the board's platform
AP_TYPES ?= $(XILINX_HLS)/include
PLATFORM ?= set-PLATFORM-to-that-of-{design.spec.key.removeprefix("fpga-")}
MHZ := {design.spec.clock_hz / 1e6:.0f}

check: testbench
\t./testbench data
testbench: testbench.cpp kernels.cpp kernels.h
\tg++ -std=c++17 -O1 -w -ffp-contract=off -I $(AP_TYPES) testbench.cpp kernels.cpp -o $@
xo: {TOP}.xo
{TOP}.xo: run_hls.tcl kernels.cpp kernels.h
\tvitis_hls -f run_hls.tcl
xclbin: {TOP}.xclbin
{TOP}.xclbin: {TOP}.xo connectivity.cfg
\tv++ -l -t hw --platform $(PLATFORM) --kernel_frequency $(MHZ) --config connectivity.cfg $< -o $@
host: host.cpp
\tg++ -std=c++17 -O2 -I $(XILINX_XRT)/include -L $(XILINX_XRT)/lib $< -lxrt_coreutil -o $@
clean:
\trm -rf testbench host hls *.xo *.xclbin
.PHONY: check xo xclbin clean
"""


def readme(facts: dict[str, Any]) -> str:
    """README.md."""
    resources = "\n".join(
        f"| {r} | {v['used']:,} | {v['budget']:,} | {v['of']:,} |" for r, v in facts["resources"].items()
    )
    unchecked = "\n".join(f"- {text}" for text in facts["not_checked"])
    return f"""\
# A model in hardware for {facts["board"]} ({facts["part"]})

Made by Kompilo. Predicted: {facts["latency_cycles"]:,} cycles from start to done,
{facts["latency_seconds"] * 1e3:.3f} ms at {facts["clock_hz"] / 1e6:.0f} MHz. `report.html` and `report.json` have the
figures of every stage.

| resource | used | budget | part |
|---|---|---|---|
{resources}

| file | what |
|---|---|
| `kernels.cpp`, `kernels.h` | HLS C++: a function for each stage, the top function `{TOP}` |
| `testbench.cpp`, `data/` | runs the kernel, compares with the model on a CPU; status 1 if anything differs |
| `run_hls.tcl`, `Makefile`, `connectivity.cfg` | for vitis_hls and v++ |
| `host.cpp` | a run on a board by XRT |
| `verilog/{TOP}.v` | the same kernel as pipelined Verilog, with a plain port for its arrays |

`make check AP_TYPES=DIR` needs g++ and the open ap_* headers only.

## Not checked

{unchecked}
"""
