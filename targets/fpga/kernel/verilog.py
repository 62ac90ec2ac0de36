"""Verilog of a kernel: a module per nest, the memories and FIFOs between them, and the order in which nests run.

The module's ports: `start` for one cycle begins, `done` is high from the end on. Arrays are filled and read through
the host port: `hsel` is the bank's number in `host_banks`, written when `hwe`, read HOST_READ cycles after `had`. An
interface to AXI is not part of it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from .ir import Array, Kernel
from .model import Estimate, estimate
from .schedule import READ_LATENCY, Schedule
from .verilog_nest import NestVerilog, address_bits, port_name, token_bits
from .verilog_units import UNITS

HOST_READ = 4
_STYLES = {"lutram": "distributed", "bram": "block", "uram": "ultra"}


@dataclass(frozen=True)
class VerilogDesign:
    """`text` holds the module `top` and those of its nests, without the shared units (`verilog_units.UNITS`)."""

    kernel: Kernel
    top: str
    text: str
    estimate: Estimate
    flip_flops: int

    def source(self) -> str:
        """A file that stands alone."""
        return UNITS + self.text


def bank_indices(array: Array) -> list[tuple[int, ...]]:
    """The banks of an array, in order."""
    return list(itertools.product(*(range(f) for f in array.factors)))


def host_banks(kernel: Kernel) -> list[tuple[Array, tuple[int, ...]]]:
    """What `hsel` selects: all banks of inputs, then of outputs."""
    return [(a, b) for a in (*kernel.role("in"), *kernel.role("out")) for b in bank_indices(a)]


def bank_of(data: np.ndarray, array: Array, bank: tuple[int, ...]) -> np.ndarray:
    """The words of one bank, flat, padded with zeros to the bank's depth."""
    padded = np.pad(data, [(0, -n % f) for n, f in zip(array.shape, array.factors, strict=True)])
    return padded[tuple(slice(b, None, f) for b, f in zip(bank, array.factors, strict=True))].ravel()


def emit_verilog(kernel: Kernel, name: str | None = None) -> VerilogDesign:
    """The Verilog of a valid kernel as a module called `name` (default: the kernel's); KompiloError if no schedule
    exists."""
    top = name or kernel.name
    made = estimate(kernel)
    nests = [NestVerilog(s, f"{top}_{s.graph.nest.name}") for s in made.schedules]
    modules = [n.text() for n in nests]
    body = _Top(kernel, nests, made.schedules).lines()
    ports = "input clk, input rst, input start, output done, input hwe, input [15:0] hsel, input [31:0] had,"
    head = [f"module {top}(", f"  {ports}", "  input [63:0] hwd, output reg [63:0] hrd);"]
    text = "\n".join([*modules, *head, *(f"  {line}" for line in body), "endmodule", ""])
    return VerilogDesign(kernel, top, text, made, sum(n.flip_flops for n in nests))


Port = tuple[str, tuple[int, ...]]


class _Top:
    def __init__(self, kernel: Kernel, nests: list[NestVerilog], schedules: tuple[Schedule, ...]):
        self.kernel, self.nests, self.schedules = kernel, nests, schedules
        # By array's name and bank: designs have thousands of banks.
        self.numbers = {(a.name, bank): k for k, (a, bank) in enumerate(host_banks(kernel))}
        self.readers: dict[Port, list[int]] = {}
        self.writers: dict[Port, list[int]] = {}
        for k, nest in enumerate(nests):
            for users, banks in ((self.readers, nest.reads), (self.writers, nest.writes)):
                for a, bank in banks:
                    users.setdefault((a.name, bank), []).append(k)

    def lines(self) -> list[str]:
        lines = self._order()
        touched = {name for name, _ in (*self.readers, *self.writers)}
        for array in self.kernel.arrays:
            if array.name in touched or array.role != "local":
                for bank in bank_indices(array):
                    lines += self._bank(array, bank)
        for s in self.kernel.streams:
            bits = token_bits(s)
            wires = f"wire [{bits - 1}:0] {s.name}_tail, {s.name}_head;"
            lines.append(f"{wires} wire {s.name}_full, {s.name}_push, {s.name}_empty, {s.name}_pop;")
            sizes = f"#(.W({bits}), .D({s.depth}), .A({address_bits(s.depth)}))"
            ports = ", ".join(f".{p}({s.name}_{p})" for p in ("push", "tail", "full", "pop", "head", "empty"))
            lines.append(f"kp_fifo {sizes} f_{s.name} (.clk(clk), .rst(rst), {ports});")
        for k, nest in enumerate(self.nests):
            lines += self._instance(k, nest)
        return lines + self._host()

    def _order(self) -> list[str]:
        """Who starts when."""
        count = len(self.nests)
        finished = [f"finish{k}" for k in range(count)]
        lines = [f"wire {', '.join(finished)}; wire {', '.join(f'ce{k}' for k in range(count))};"]
        if self.kernel.dataflow:
            lines += [f"wire {', '.join(f'start{k} = start' for k in range(count))};", f"reg [{count - 1}:0] finished;"]
            both = ", ".join(reversed(finished))
            lines.append(f"always @(posedge clk) finished <= rst || start ? {count}'d0 : finished | {{{both}}};")
            return [*lines, "assign done = &finished;"]
        starts = ["start0 = start", *(f"start{k} = finish{k - 1}" for k in range(1, count))]
        lines += [f"wire {', '.join(starts)};", "reg finished; assign done = finished;"]
        lines.append(f"always @(posedge clk) finished <= rst || start ? 1'b0 : finished | {finished[-1]};")
        if count > 1:
            moves = " else ".join(f"if (start{k}) stage <= {k};" for k in range(count))
            lines += [f"reg [{(count - 1).bit_length() - 1}:0] stage;", f"always @(posedge clk) {moves}"]
        return lines

    def _bank(self, array: Array, bank: tuple[int, ...]) -> list[str]:
        name, bits, depth = port_name(array.name, bank), array.dtype.bits, array.depth
        address = address_bits(depth)
        readers, writers = (users.get((array.name, bank), []) for users in (self.readers, self.writers))
        chosen = f"hsel == {self.numbers.get((array.name, bank), -1)}"
        write = [(f"s{k}_{name}_we", f"s{k}_{name}_wa", f"s{k}_{name}_wd") for k in writers]
        if array.role == "in":
            write.insert(0, (f"(hwe && {chosen})", f"had[{address - 1}:0]", f"hwd[{bits - 1}:0]"))
        read = [(f"stage == {k}", f"s{k}_{name}_ra", f"ce{k}") for k in readers]
        if array.role == "out":
            read.append(("done", f"had[{address - 1}:0]", "1'b1"))
        wires = [f"wire [{bits - 1}:0] {name}_rd;"]
        for k in readers:
            wires.append(f"wire [{address - 1}:0] s{k}_{name}_ra;")
        for k in writers:
            wires.append(
                f"wire s{k}_{name}_we; wire [{bits - 1}:0] s{k}_{name}_wd; wire [{address - 1}:0] s{k}_{name}_wa;"
            )
        enable = " || ".join(w[0] for w in write) or "1'b0"
        ports = f".clk(clk), .rdata({name}_rd), .we({enable}), .wdata({_mux([(w[0], w[2]) for w in write])})"
        if array.memory == "register":
            return [*wires, f"kp_register #(.W({bits})) {name} ({ports});"]
        ports += f", .waddr({_mux([(w[0], w[1]) for w in write])})"
        ports += f", .raddr({_mux([(r[0], r[1]) for r in read])}), .ren({_mux([(r[0], r[2]) for r in read])})"
        sizes = f".W({bits}), .D({depth}), .A({address}), .LATENCY({READ_LATENCY[array.memory]})"
        return [*wires, f'kp_ram #({sizes}, .STYLE("{_STYLES[array.memory]}")) {name} ({ports});']

    def _instance(self, k: int, nest: NestVerilog) -> list[str]:
        ports = [".clk(clk)", ".rst(rst)", f".start(start{k})", f".finish(finish{k})", f".ce(ce{k})"]
        for array, bank in nest.reads:
            name = port_name(array.name, bank)
            ports.append(f".{name}_rd({name}_rd)")
            if array.memory != "register":
                ports.append(f".{name}_ra(s{k}_{name}_ra)")
        for array, bank in nest.writes:
            name = port_name(array.name, bank)
            names = ("we", "wd") if array.memory == "register" else ("we", "wd", "wa")
            ports += [f".{name}_{p}(s{k}_{name}_{p})" for p in names]
        for streams, names in ((nest.pops, ("head", "empty", "pop")), (nest.pushes, ("tail", "full", "push"))):
            ports += [f".{s.name}_{p}({s.name}_{p})" for s in streams for p in names]
        return [f"{nest.module} nest{k} ({', '.join(ports)});"]

    def _host(self) -> list[str]:
        banks = list(enumerate(host_banks(self.kernel)))
        lines = ["reg [15:0] hsel1, hsel2;", "always @(posedge clk) begin hsel1 <= hsel; hsel2 <= hsel1;"]
        lines.append("  case (hsel2)")
        for k, (array, bank) in banks:
            if array.role == "out":
                lines.append(f"    {k}: hrd <= {port_name(array.name, bank)}_rd;")
        return [*lines, "    default: hrd <= 0;", "  endcase", "end"]


def _mux(choices: list[tuple[str, str]]) -> str:
    """The value of the first condition that holds; that of the last if none does."""
    if not choices:
        return "0"
    text = choices[-1][1]
    for condition, value in reversed(choices[:-1]):
        text = f"{condition} ? {value} : {text}"
    return text
