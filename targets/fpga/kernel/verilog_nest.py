"""Verilog of one nest: counters, the pipeline that its schedule describes, ports to memories and FIFOs.

Addresses are registers that are added to when the counters advance, so that no multiplier computes them. The whole
pipeline stands still (`ce` low) while a FIFO has no token or no room for what is at its stage.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from .affine import Affine
from .graph import Node, signed_width
from .ir import Array, Pop, Push, Stream
from .ops import OPS
from .schedule import Schedule, latency
from .types import BOOL, FLOAT_FORMATS


def address_bits(depth: int) -> int:
    """Width of the address of a memory of `depth` words."""
    return max(1, (depth - 1).bit_length())


def port_name(array: str, bank: tuple[int, ...]) -> str:
    """Name of a bank in Verilog."""
    return "_".join(["m", array, *map(str, bank)])


Bank = tuple[Array, tuple[int, ...]]


class NestVerilog:
    """The text of a nest's module, and what it connects to: `reads` and `writes` are the banks."""

    def __init__(self, made: Schedule, module: str):
        self.made, self.module = made, module
        self.graph, self.nodes, self.nest = made.graph, made.graph.nodes, made.graph.nest
        self.wires: list[str] = []
        self.clocked: list[str] = []
        self.flip_flops = 0
        self._positions: dict[Affine, str] = {}
        self._delayed: dict[tuple[str, int, bool], set[int]] = {}
        self._names: dict[int, str] = {}
        self.reads = self._banks("load")
        self.writes = self._banks("store")
        self.pops: list[Stream] = self.nest.streams(Pop)
        self.pushes: list[Stream] = self.nest.streams(Push)

    def _banks(self, kind: str) -> list[Bank]:
        found = {(n.array, n.bank): None for n in self.nodes if n.kind == kind and n.array is not None}
        return list(found)

    def text(self) -> str:
        """The module."""
        for k in range(len(self.nodes)):
            self._names[k] = self._node(k)
        effects = self._effects()
        last = self._delay("last", 1, self.made.depth - 1, False)
        control = self._control()
        taps, chains = self._delays()
        lines = [f"module {self.module}(", "  " + ",\n  ".join(self._ports()), ");", *control]
        lines += [f"  {w}" for w in taps + self.wires + effects + chains]
        lines.append(f"  assign finish = ce && {last};")
        lines += ["  always @(posedge clk) if (ce) begin", *(f"    {c}" for c in self.clocked), "  end"]
        return "\n".join([*lines, "endmodule", ""])

    # Names ------------------------------------------------------------------------------------------------------------

    def _ports(self) -> list[str]:
        ports = ["input clk", "input rst", "input start", "output finish", "output ce"]
        for array, bank in self.reads:
            name = port_name(array.name, bank)
            if array.memory != "register":
                ports.append(f"output [{address_bits(array.depth) - 1}:0] {name}_ra")
            ports.append(f"input [{array.dtype.bits - 1}:0] {name}_rd")
        for array, bank in self.writes:
            name, bits = port_name(array.name, bank), array.dtype.bits
            ports += [f"output {name}_we", f"output [{bits - 1}:0] {name}_wd"]
            if array.memory != "register":
                ports.append(f"output [{address_bits(array.depth) - 1}:0] {name}_wa")
        for s in self.pops:
            ports += [f"input [{token_bits(s) - 1}:0] {s.name}_head", f"input {s.name}_empty", f"output {s.name}_pop"]
        for s in self.pushes:
            ports += [f"output [{token_bits(s) - 1}:0] {s.name}_tail", f"input {s.name}_full", f"output {s.name}_push"]
        return ports

    def _register(self, name: str, width: int, value: str, signed: bool = True) -> str:
        self.wires.append(f"reg {'signed ' if signed else ''}[{width - 1}:0] {name};")
        self.clocked.append(f"{name} <= {value};")
        self.flip_flops += width
        return name

    def _wire(self, name: str, width: int, value: str, signed: bool = True) -> str:
        self.wires.append(f"wire {'signed ' if signed else ''}[{width - 1}:0] {name} = {value};")
        return name

    def _delay(self, name: str, width: int, cycles: int, signed: bool = True) -> str:
        """`name` some cycles later."""
        self._delayed.setdefault((name, width, signed), set()).add(cycles)
        return f"{name}_d{cycles}" if cycles else name

    def _delays(self) -> tuple[list[str], list[str]]:
        """Wires for all delays, and the chains of registers that they are taps of."""
        wires, chains = [], []
        for (name, width, signed), taps in self._delayed.items():
            done, before = 0, name
            for tap in sorted(taps - {0}):
                made = f"{name}_d{tap}"
                wires.append(f"wire {'signed ' if signed else ''}[{width - 1}:0] {made};")
                module, reset = ("kp_flags", ".rst(rst), ") if name in ("issue", "last") else ("kp_delay", "")
                ports = f".clk(clk), {reset}.ce(ce), .d({before}), .q({made})"
                chains.append(f"{module} #(.W({width}), .N({tap - done})) {made}_ ({ports});")
                self.flip_flops += width * (tap - done)
                done, before = tap, made
        return wires, chains

    def at(self, node: int, time: int) -> str:
        """The value of `node` at `time` of the iteration."""
        n = self.nodes[node]
        if n.kind == "const":
            return self._names[node]
        return self._delay(self._names[node], n.width, time - self.made.ready(node), not _raw(n))

    def operand(self, node: int, time: int) -> str:
        """The same, as a number in arithmetic: bools are unsigned."""
        text = self.at(node, time)
        return f"$signed({{1'b0, {text}}})" if self.nodes[node].dtype == BOOL else text

    def _valid(self, time: int) -> str:
        return "issue" if time == 0 else self._delay("issue", 1, time, False)

    def _position(self, index: Affine, time: int) -> str:
        """The affine function of the counters, `time` cycles after an iteration has started."""
        low, high = index.bounds(self.nest.extents)
        if not index.terms:
            return _constant(index.const, signed_width(low, high))
        name = self._positions.setdefault(index, f"a{len(self._positions)}")
        return self._delay(name, signed_width(low, high), time)

    # Values -----------------------------------------------------------------------------------------------------------

    def _node(self, k: int) -> str:
        n = self.nodes[k]
        special: dict[str, Callable[[int, Node], str]] = {
            "const": self._const, "position": self._position_node, "load": self._load, "acc": self._acc,
            "pop": self._pop, "lane": self._lane, "store": lambda *_: "", "push": lambda *_: "",
            "lookup": self._lookup, "float_bits": self._reinterpret, "bits_float": self._reinterpret,
        }  # fmt: skip
        if n.kind in special:
            return special[n.kind](k, n)
        if n.kind == "select":
            c, a, b = (self.at(x, self.made.times[k]) for x in n.args)
            if not n.dtype.is_float:
                a, b = (self.operand(x, self.made.times[k]) for x in n.args[1:]) if n.dtype != BOOL else (a, b)
            return self._result(k, n, f"{c} ? {a} : {b}")
        if self.nodes[n.args[0]].dtype.is_float:
            return self._float(k, n)
        logical = n.kind in ("and", "or", "not")
        args = [self.at(a, self.made.times[k]) if logical else self.operand(a, self.made.times[k]) for a in n.args]
        return self._result(k, n, OPS[n.kind].verilog.format(*args))

    def _result(self, k: int, n: Node, expression: str) -> str:
        """A wire or registers that hold `expression`, wrapped to the node's type."""
        signed = not _raw(n)
        if n.dtype.kind == "uint" and n.dtype != BOOL and n.high == n.dtype.high:
            low = self._wire(f"n{k}_w", n.dtype.bits, expression, False)
            expression = f"{{1'b0, {low}}}"
        cycles = latency(n)
        if not cycles:
            return self._wire(f"n{k}", n.width, expression, signed)
        name = self._register(f"n{k}" if cycles == 1 else f"n{k}_p", n.width, expression, signed)
        return (
            name
            if cycles == 1
            else self._wire(f"n{k}", n.width, self._delay(name, n.width, cycles - 1, signed), signed)
        )

    def _const(self, k: int, n: Node) -> str:
        if n.dtype.is_float:
            bits = int.from_bytes(struct.pack(">f" if n.dtype.bits == 32 else ">e", n.value), "big")
            return f"{n.dtype.bits}'h{bits:x}"
        return f"1'b{int(n.value)}" if n.dtype == BOOL else _constant(int(n.value), n.width)

    def _position_node(self, k: int, n: Node) -> str:
        return self._wire(f"n{k}", n.width, self._position(n.address, 0))

    def _load(self, k: int, n: Node) -> str:
        assert n.array is not None
        return self._typed(k, n, f"{port_name(*n.port)}_rd")

    def _lookup(self, k: int, n: Node) -> str:
        mask = (1 << n.width) - 1
        words = " ".join(f"n{k}_rom[{i}] = {n.width}'h{value & mask:x};" for i, value in enumerate(n.table))
        self.wires.append(f"`KP_TABLE reg [{n.width - 1}:0] n{k}_rom [0:{len(n.table) - 1}]; initial begin {words} end")
        index = self._wire(f"n{k}_i", (len(n.table) - 1).bit_length(), self.at(n.args[0], self.made.times[k]), False)
        return self._register(f"n{k}", n.width, f"n{k}_rom[{index}]", not _raw(n))

    def _reinterpret(self, k: int, n: Node) -> str:
        return self._wire(f"n{k}", n.width, self.operand(n.args[0], self.made.times[k]), not _raw(n))

    def _typed(self, k: int, n: Node, bits: str) -> str:
        """Bits of memory as a number of the node's type."""
        zero = n.dtype.kind == "uint" and n.dtype != BOOL
        return self._wire(f"n{k}", n.width, f"{{1'b0, {bits}}}" if zero else bits, not _raw(n))

    def _acc(self, k: int, n: Node) -> str:
        time, cycles = self.made.times[k], latency(n)
        value, first, init = (self.at(a, time) for a in n.args)
        result, back = f"n{k}", f"n{k}_back"
        self.wires.append(f"wire {'' if _raw(n) else 'signed '}[{n.width - 1}:0] {back};")
        start = f"({first} ? {init} : {back})"
        if n.dtype.is_float and n.op == "add":
            self._float_unit("kp_fadd", k, n.dtype.bits, start, value)
        elif n.dtype.is_float:
            operand = self._wire(f"n{k}_s", n.width, start, False)
            gt = self._compare(k, n.dtype.bits, *((operand, value) if n.op == "max" else (value, operand)))
            self._register(result, n.width, f"{gt} ? {operand} : {value}", False)
        else:
            operand = self._wire(f"n{k}_s", n.width, start)
            term = self.operand(n.args[0], time)
            self._result(k, n, OPS[n.op].verilog.format(operand, term))
        wait = self.made.ii * n.distance - cycles
        self.wires.append(f"assign {back} = {self._delay(result, n.width, wait, not _raw(n))};")
        return result

    def _pop(self, k: int, n: Node) -> str:
        assert n.stream is not None
        width = token_bits(n.stream)
        guard = self.at(n.args[0], self.made.times[k]) if n.guarded else ""
        head = f"{n.stream.name}_head"
        return self._register(f"n{k}", width, f"{guard} ? {head} : {width}'d0" if guard else head, False)

    def _lane(self, k: int, n: Node) -> str:
        first = n.lane * n.dtype.bits
        return self._typed(k, n, f"{self._names[n.args[0]]}[{first + n.dtype.bits - 1}:{first}]")

    def _float(self, k: int, n: Node) -> str:
        time = self.made.times[k]
        a, b = (self.at(x, time) for x in n.args)
        bits = self.nodes[n.args[0]].dtype.bits
        if n.kind == "mul":
            return self._float_unit("kp_fmul", k, bits, a, b)
        if n.kind in ("add", "sub"):
            sign = f"{{~{b}[{bits - 1}], {b}[{bits - 2}:0]}}"
            plain = self.nodes[n.args[1]].kind != "const"
            if n.kind == "sub" and not plain:
                b = self._wire(f"n{k}_b", bits, b, False)
                sign = f"{{~{b}[{bits - 1}], {b}[{bits - 2}:0]}}"
            return self._float_unit("kp_fadd", k, bits, a, sign if n.kind == "sub" else b)
        swapped = n.kind in ("min", "lt", "le")
        gt = self._compare(k, bits, *((b, a) if swapped else (a, b)))
        value = {"max": f"{gt} ? {a} : {b}", "min": f"{gt} ? {a} : {b}", "lt": gt, "le": f"{gt} || n{k}_eq",
                 "eq": f"n{k}_eq"}[n.kind]  # fmt: skip
        return self._register(f"n{k}", n.width, value, False)

    def _float_unit(self, unit: str, k: int, bits: int, a: str, b: str) -> str:
        e, f = FLOAT_FORMATS[bits]
        self.wires.append(f"wire [{bits - 1}:0] n{k};")
        self.wires.append(f"{unit} #(.E({e}), .F({f})) u{k} (.clk(clk), .ce(ce), .a({a}), .b({b}), .y(n{k}));")
        return f"n{k}"

    def _compare(self, k: int, bits: int, a: str, b: str) -> str:
        e, f = FLOAT_FORMATS[bits]
        self.wires.append(f"wire n{k}_gt, n{k}_eq;")
        ports = f".a({a}), .b({b}), .gt(n{k}_gt), .eq(n{k}_eq), .ordered()"
        self.wires.append(f"kp_fcompare #(.E({e}), .F({f})) u{k} ({ports});")
        return f"n{k}_gt"

    # Effects and control ----------------------------------------------------------------------------------------------

    def _effects(self) -> list[str]:
        lines = []
        for array, bank in self.reads:
            if array.memory != "register":
                lines.append(self._choose(array, bank, "load", "ra", lambda k: self._address(k)))
        for array, bank in self.writes:
            enables = [self._enable(k) for k in self._users(array, bank, "store")]
            lines.append(f"assign {port_name(array.name, bank)}_we = ce && ({' || '.join(enables)});")
            lines.append(self._choose(array, bank, "store", "wd", self._stored))
            if array.memory != "register":
                lines.append(self._choose(array, bank, "store", "wa", lambda k: self._address(k)))
        return lines + self._stream_effects()

    def _users(self, array: Array, bank: tuple[int, ...], kind: str) -> list[int]:
        return [k for k in self.graph.of_kind(kind) if self.nodes[k].array == array and self.nodes[k].bank == bank]

    def _choose(self, array: Array, bank: tuple[int, ...], kind: str, port: str, value: Callable[[int], str]) -> str:
        users = self._users(array, bank, kind)
        text = value(users[-1])
        for k in reversed(users[:-1]):
            text = f"{self._valid(self.made.times[k])} ? {value(k)} : {text}"
        return f"assign {port_name(array.name, bank)}_{port} = {text};"

    def _address(self, k: int) -> str:
        return self._position(self.nodes[k].address, self.made.times[k])

    def _stored(self, k: int) -> str:
        return self.at(self.nodes[k].args[0], self.made.times[k])

    def _enable(self, k: int) -> str:
        """Whether the effect `k` happens in this cycle."""
        time, n = self.made.times[k], self.nodes[k]
        guard = f" && {self.at(n.args[-1], time)}" if n.guarded else ""
        return f"({self._valid(time)}{guard})"

    def _stream_effects(self) -> list[str]:
        lines, stalls = [], []
        for k in self.graph.of_kind("pop", "push"):
            n = self.nodes[k]
            assert n.stream is not None
            name, wants = n.stream.name, self._enable(k)
            if n.kind == "pop":
                stalls.append(f"({wants} && {name}_empty)")
                lines.append(f"assign {name}_pop = ce && {wants};")
                continue
            stalls.append(f"({wants} && {name}_full)")
            elements = n.args[:-1] if n.guarded else n.args
            lines.append(f"assign {name}_push = ce && {wants};")
            parts = []
            for j, e in enumerate(elements):
                text = self.at(e, self.made.times[k])
                parts.append(self._wire(f"n{k}_e{j}", n.dtype.bits, text, False))
            lines.append(f"assign {name}_tail = {{{', '.join(reversed(parts))}}};")
        stall = " || ".join(stalls)
        running = f"!({stall})" if stalls else "1'b1"
        return [*lines, f"assign ce = {running};"]

    def _control(self) -> list[str]:
        """Counters and the addresses that follow them; an iteration starts where `issue` is high."""
        loops = [loop for loop in self.nest.loops if loop.extent > 1]
        ii = self.made.ii
        ends = {loop.var: f"(c_{loop.var} == {loop.extent - 1})" for loop in loops}
        at_end = " && ".join(ends.values()) or "1'b1"
        lines = ["  reg run;", *(f"  reg [{(loop.extent - 1).bit_length() - 1}:0] c_{loop.var};" for loop in loops)]
        phase_bits = max(1, (ii - 1).bit_length())
        lines.append(f"  reg [{phase_bits - 1}:0] phase;" if ii > 1 else "")
        lines.append(f"  wire issue = run{' && phase == 0' if ii > 1 else ''}, last = issue && {at_end};")
        lines.append(f"  wire step = run{f' && phase == {ii - 1}' if ii > 1 else ''};")
        for index, name in self._positions.items():
            lines.append(f"  reg signed [{signed_width(*index.bounds(self.nest.extents)) - 1}:0] {name};")
        starts = ["run <= 1;", *(f"c_{loop.var} <= 0;" for loop in loops)]
        starts += [f"{name} <= {_constant(i.const, 32)};" for i, name in self._positions.items()]
        lines += [
            "  always @(posedge clk) begin",
            f"    if (rst) run <= 0; else if (start) begin {' '.join(starts)} end",
        ]
        lines += ["    else if (ce && step) begin", f"      if ({at_end}) run <= 0;", *self._advance(ends), "    end"]
        if ii > 1:
            lines.append(f"    if (start) phase <= 0; else if (ce) phase <= phase == {ii - 1} ? 0 : phase + 1;")
        return [*(line for line in lines if line), "  end"]

    def _advance(self, ends: dict[str, str]) -> list[str]:
        """Statements that move counters and addresses to the next iteration."""
        lines, inner = [], "1'b1"
        loops = [loop for loop in self.nest.loops if loop.extent > 1]
        steps: list[str] = []
        for k, loop in reversed(list(enumerate(loops))):
            lines.append(f"      if ({inner}) c_{loop.var} <= {ends[loop.var]} ? 0 : c_{loop.var} + 1;")
            deltas = {
                i: i.coefficient(loop.var) - sum(i.coefficient(x.var) * (x.extent - 1) for x in loops[k + 1 :])
                for i in self._positions
            }
            moves = " ".join(f"{name} <= {name} + {_constant(deltas[i], 32)};" for i, name in self._positions.items())
            steps.append(f"if (!{ends[loop.var]}) begin {moves} end")
            inner = f"{inner} && {ends[loop.var]}" if inner != "1'b1" else ends[loop.var]
        if self._positions and steps:
            lines.append("      " + " else ".join(steps))
        return lines


def token_bits(stream: Stream) -> int:
    """Width of a token."""
    bits = stream.dtype.bits
    for n in stream.shape:
        bits *= n
    return bits


def _raw(n: Node) -> bool:
    """Whether a node's wire is plain bits rather than a signed number."""
    return n.dtype.is_float or n.dtype == BOOL or n.kind == "pop"


def _constant(value: int, width: int) -> str:
    return f"$signed({width}'h{value % (1 << width):x})"
