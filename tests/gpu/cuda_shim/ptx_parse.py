"""Inline PTX as the text of an asm statement has it: declarations, labels, instructions and their operands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

WIDTHS = {"h": 16, "r": 32, "f": 32, "l": 64, "d": 64}
REGISTER_WIDTHS = {
    "pred": 1,
    **{f"{kind}{bits}": bits for kind in ("b", "u", "s") for bits in (16, 32, 64)},
    **{f"{kind}8": 16 for kind in ("b", "u", "s")},
    "f16": 16,
    "bf16": 16,
    "f16x2": 32,
    "bf16x2": 32,
    "f32": 32,
    "f64": 64,
}


class PtxError(ValueError):
    """PTX that the translation does not know; the message has the statement and the line of the source."""


@dataclass(frozen=True)
class Register:
    """A C++ variable with a register's bits; `width` is 1 for predicates; `index`: its place among the operands."""

    name: str
    width: int
    index: int | None = None
    negated: bool = False

    @property
    def read(self) -> str:
        """The register's value as C++."""
        return f"(!{self.name})" if self.negated else self.name


@dataclass(frozen=True)
class Immediate:
    """A constant, or a special register, as a C++ expression."""

    text: str

    @property
    def read(self) -> str:
        """The constant as C++."""
        return self.text


@dataclass(frozen=True)
class Vector:
    """`{a, b, ...}`."""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Address:
    """`[base + offset]`, or `[map, {coordinates}]` of a tensor copy."""

    base: Register | Immediate
    offset: int = 0
    coordinates: Vector | None = None

    @property
    def read(self) -> str:
        """The address as a C++ expression of 64 bits."""
        return f"(uint64_t({self.base.read}) + {self.offset})" if self.offset else f"uint64_t({self.base.read})"


@dataclass(frozen=True)
class Pair:
    """`a|b`: two results."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Sink:
    """`_`: a result that nobody wants."""


Operand = Register | Immediate | Vector | Address | Pair | Sink


@dataclass(frozen=True)
class Label:
    """A place that branches go to; `name` is its C++ name."""

    name: str


@dataclass(frozen=True)
class Instruction:
    """One instruction: the words of its opcode, operands, and the predicate that guards it."""

    words: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Register | None
    text: str
    target: str = ""  # label of a branch


@dataclass
class Body:
    """A parsed asm statement: registers to declare (C++ name -> width), and labels and instructions in order."""

    registers: dict[str, int] = field(default_factory=dict)
    parts: list[Label | Instruction] = field(default_factory=list)


_NUMBER = re.compile(r"^[+-]?(0[xX][0-9a-fA-F]+|\d+)[uU]?$")
_FLOAT_BITS = re.compile(r"^(-?)0([fd])([0-9a-fA-F]+)$")
_LABEL = re.compile(r"\s*([A-Za-z_$%][\w$%]*)\s*:(?!:)")
_DECLARATION = re.compile(r"\.reg\s+(?:\.v[24]\s+)?\.(\w+)\s+(.*)", re.S)


class Parser:
    """Parses one asm statement; `number` makes the names of its registers and labels unique in the function."""

    def __init__(self, number: int, constraints: list[str], expressions: list[str]) -> None:
        self.number = number
        self.constraints = constraints
        self.expressions = expressions
        self.body = Body()
        self.known: dict[str, Register] = {}

    def parse(self, text: str) -> Body:
        """All of a statement's text; PtxError names what is not understood."""
        text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.S)
        pending: list[tuple[str, str]] = []
        while text := text.lstrip():
            if text[0] in "{};":
                text = text[1:]
            elif match := _LABEL.match(text):
                pending.append(("label", match[1]))
                text = text[match.end() :]
            else:
                statement, _, text = text.partition(";")
                if not self._declare(statement.strip()):
                    pending.append(("instruction", statement.strip()))
        labels = {name for kind, name in pending if kind == "label"}
        for kind, content in pending:
            self.body.parts.append(
                Label(self._label(content)) if kind == "label" else self._instruction(content, labels)
            )
        return self.body

    def _label(self, name: str) -> str:
        return f"cushim_l{self.number}_{re.sub(r'[^0-9A-Za-z_]', '_', name)}"

    def _declare(self, statement: str) -> bool:
        if statement.startswith(".pragma"):
            return True
        match = _DECLARATION.match(statement)
        if not match:
            return False
        if match[1] not in REGISTER_WIDTHS:
            raise PtxError(f"registers of type .{match[1]} are not known here: {statement}")
        for name in match[2].split(","):
            name = name.strip().lstrip("%")
            ranged = re.match(r"^(\w+)<(\d+)>$", name)
            names = [f"{ranged[1]}{i}" for i in range(int(ranged[2]))] if ranged else [name]
            for single in names:
                variable = f"cushim_r{self.number}_{re.sub(r'[^0-9A-Za-z_]', '_', single)}"
                self.known[single] = Register(variable, REGISTER_WIDTHS[match[1]])
                self.body.registers[variable] = REGISTER_WIDTHS[match[1]]
        return True

    def _instruction(self, text: str, labels: set[str]) -> Instruction:
        guard = None
        rest = text
        if match := re.match(r"@(!?)\s*([%\w$]+)\s+", rest):
            named = self._operand(match[2])
            if not isinstance(named, Register):
                raise PtxError(f"the guard is not a predicate: {text}")
            guard = Register(named.name, named.width, named.index, match[1] == "!")
            rest = rest[match.end() :]
        opcode, operands = [*re.split(r"\s+", rest, maxsplit=1), ""][:2]
        words = tuple(opcode.split("."))
        if words[0] in ("bra", "brx"):
            if operands.strip() not in labels:
                raise PtxError(f"a branch to a label that the statement does not have: {text}")
            return Instruction(words, (), guard, text, self._label(operands.strip()))
        return Instruction(words, tuple(self._operand(o) for o in _split(operands)), guard, text)

    def _operand(self, text: str) -> Operand:
        text = text.strip()
        if text == "_":
            return Sink()
        if text.startswith("{"):
            return Vector(tuple(self._operand(item) for item in _split(text[1:-1])))
        if text.startswith("["):
            return self._address(text[1:-1])
        if "|" in text:
            first, second = text.split("|")
            return Pair(self._operand(first), self._operand(second))
        if text.startswith("!"):
            register = self._operand(text[1:])
            if not isinstance(register, Register):
                raise PtxError(f"only predicates can be negated: {text}")
            return Register(register.name, register.width, register.index, not register.negated)
        return self._scalar(text)

    def _scalar(self, text: str) -> Register | Immediate:
        if match := re.match(r"^%(\d+)$", text):
            return self._numbered(int(match[1]))
        name = text.lstrip("%")
        if name in self.known:
            return self.known[name]
        if text.startswith("%"):
            wide = "64" if name in ("clock64", "globaltimer") else ""
            return Immediate(f'cushim::ptx::special{wide}("{name}")')
        if _NUMBER.match(text):
            return Immediate(f"int64_t({text.rstrip('uU')}ll)")
        if match := _FLOAT_BITS.match(text):
            bits = int(match[3], 16) ^ ((1 << (31 if match[2] == "f" else 63)) if match[1] else 0)
            return Immediate(f"uint{32 if match[2] == 'f' else 64}_t({bits:#x}u)")
        if re.match(r"^[+-]?\d*\.\d+([eE][+-]?\d+)?$", text):
            return Immediate(f"double({text})")
        raise PtxError(f"the operand '{text}' is not known")

    def _numbered(self, index: int) -> Register | Immediate:
        if index >= len(self.constraints):
            raise PtxError(f"operand %{index} of {len(self.constraints)}")
        letter = self.constraints[index].lstrip("=+&")
        if letter == "n":
            return Immediate(f"int64_t({self.expressions[index]})")
        if letter not in WIDTHS:
            raise PtxError(f'the constraint "{self.constraints[index]}" is not known here')
        return Register(f"cushim_a{self.number}_{index}", WIDTHS[letter], index)

    def _address(self, text: str) -> Address:
        parts = _split(text)
        if len(parts) == 2:
            coordinates = self._operand(parts[1])
            if not isinstance(coordinates, Vector):
                raise PtxError(f"coordinates of a tensor are written in braces: [{text}]")
            return Address(self._base(parts[0]), 0, coordinates)
        base, _, offset = parts[0].partition("+")
        return Address(self._base(base), int(offset.strip() or "0", 0))

    def _base(self, text: str) -> Register | Immediate:
        return self._scalar(text.strip())


def _split(text: str) -> list[str]:
    """At the commas outside of brackets and braces."""
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if character == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += character
    return [part.strip() for part in [*parts, current] if part.strip()]
