"""CUDA C++ as g++ takes it: asm statements become calls, shared arrays places in the block's arena, kernels a table.

The lines stay where they are, so that messages name the lines of the source.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from . import ptx_emit, ptx_tensor, ptx_warp
from .ptx_parse import Instruction, Label, Parser, PtxError

# Comments, and strings (raw ones too): where names mean nothing.
_INERT = re.compile(r'//[^\n]*|/\*.*?\*/|R"\((?:.*?)\)"|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'', re.S)
_ASM = re.compile(r"\b(?:asm|__asm__|__asm)\b\s*(?:\b(?:volatile|__volatile__|__volatile)\b)?\s*\(")
_STRING = re.compile(r'R"\((.*?)\)"|("(?:\\.|[^"\\])*")', re.S)
_ALIGN = r"(?:(?:__align__|alignas)\s*\(\s*(\w+)\s*\)\s*|__attribute__\s*\(\([^;]*?\)\)\s*)"
_TYPE = r"((?:(?:const|volatile|unsigned|signed|long|short|struct|typename)\s+)*[\w:]+(?:<[^;{}()]*>)?)"
_DECLARATORS = r"(\w+(?:\s*\[[^\];]*\])*(?:\s*,\s*\w+(?:\s*\[[^\];]*\])*)*)"
_EXTERN_SHARED = re.compile(rf"\bextern\s+__shared__\s+{_ALIGN}?{_TYPE}\s+{_ALIGN}?(\w+)\s*\[\s*\]\s*;")
_SHARED = re.compile(rf"(?:\bstatic\s+)?\b__shared__\s+{_ALIGN}?{_TYPE}\s+{_ALIGN}?{_DECLARATORS}\s*;")
_VOID = {"__launch_bounds__", "__cluster_dims__", "__maxnreg__", "__align__", "alignas", "__attribute__"}


class TranslationError(ValueError):
    """A source that cannot be run on the CPU; the message names line and statement."""


@dataclass(frozen=True)
class Translated:
    """C++ for g++, and the names of its kernels."""

    source: str
    kernels: tuple[str, ...]


def _blank(source: str) -> str:
    """The source with spaces where comments and strings are: same positions, nothing to mistake."""
    return _INERT.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), source)


def _closing(text: str, start: int) -> int:
    """Position of the bracket that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] in "([{") - (text[position] in ")]}")
        if depth == 0:
            return position
    raise TranslationError("a bracket is not closed")


def _line(source: str, position: int) -> int:
    return source.count("\n", 0, position) + 1


# --- asm statements ------------------------------------------------------------------------------------------------


def _unquote(text: str) -> str:
    return "".join(m[1] if m[1] is not None else ast.literal_eval(m[2]) for m in _STRING.finditer(text))


def _sections(inside: str) -> list[str]:
    """Template, outputs, inputs and clobbers: the parts between colons outside of brackets."""
    blank = _blank(inside)
    parts, depth, start = [], 0, 0
    for i, character in enumerate(blank):
        depth += (character in "([{") - (character in ")]}")
        if character == ":" and depth == 0:
            parts.append(inside[start:i])
            start = i + 1
    return [*parts, inside[start:]]


def _operands(section: str) -> list[tuple[str, str]]:
    """`"constraint"(expression), ...` as pairs."""
    found, position = [], 0
    while match := re.compile(r'\s*,?\s*(?:\[\w+\]\s*)?"([^"]*)"\s*\(').match(section, position):
        end = _closing(_blank(section), match.end() - 1)
        found.append((match[1], section[match.end() : end]))
        position = end + 1
    return found


def _declarations(number: int, operands: list[tuple[str, str]], by_address: set[int]) -> tuple[list[str], list[str]]:
    before, after = [], []
    for i, (constraint, expression) in enumerate(operands):
        letter = constraint.lstrip("=+&")
        if letter == "n":
            continue
        kind = {"h": "uint16_t", "r": "uint32_t", "f": "uint32_t", "l": "uint64_t", "d": "uint64_t"}.get(letter)
        if kind is None:
            raise PtxError(f'the constraint "{constraint}" is not known here')
        before.append(f"{kind} cushim_a{number}_{i} = cushim::ptx::in<{kind}>({expression});")
        if constraint[0] not in "=+":
            continue
        if i in by_address:
            before.append(f"void* cushim_p{number}_{i} = &({expression});")
        else:
            after.append(f"cushim::ptx::out({expression}, cushim_a{number}_{i});")
    return before, after


def _statement(part: Label | Instruction) -> str:
    if isinstance(part, Label):
        return f"{part.name}:;"
    emit = ptx_tensor.choose(part) or ptx_warp.choose(part) or ptx_emit.choose(part)
    if emit is None:
        raise PtxError(f"the instruction is not known here: {part.text}")
    code = emit(part)
    return f"if ({part.guard.read}) {{ {code} }}" if part.guard else code


def translate_asm(inside: str, number: int, line: int) -> str:
    """The text between the brackets of an asm statement as one C++ statement without its semicolon."""
    sections = [*_sections(inside), "", "", ""]
    outputs, inputs = _operands(sections[1]), _operands(sections[2])
    operands = outputs + inputs
    text = _unquote(sections[0]).replace("%%", "%")
    try:
        body = Parser(number, [c for c, _ in operands], [e for _, e in operands]).parse(text)
        instructions = [part for part in body.parts if isinstance(part, Instruction)]
        by_address = {getattr(r, "index", None) for ins in instructions for r in ptx_tensor.accumulators_of(ins)}
        before, after = _declarations(number, operands, {i for i in by_address if i is not None})
        registers = [
            f"{'bool' if width == 1 else f'uint{width}_t'} {name}{{}};" for name, width in body.registers.items()
        ]
        code = [_statement(part) for part in body.parts]
    except (PtxError, StopIteration, IndexError) as error:
        raise TranslationError(f"line {line}: {error} in the asm statement {text.strip()!r}") from error
    return " ".join(["do { cushim::at(__LINE__);", *before, *registers, *code, *after, "} while (0)"])


def _translate_asm_statements(source: str) -> str:
    blank = _blank(source)
    pieces, position, number = [], 0, 0
    while match := _ASM.search(blank, position):
        end = _closing(blank, match.end() - 1)
        inside = source[match.end() : end]
        number += 1
        code = translate_asm(inside, number, _line(source, match.start()))
        pieces += [source[position : match.start()], code, "\n" * source.count("\n", match.start(), end)]
        position = end + 1
    return "".join([*pieces, source[position:]])


# --- shared memory -------------------------------------------------------------------------------------------------


def _depth(blank: str, position: int) -> int:
    text = re.sub(r'extern\s+"?\s*C?\s*"?\s*\{', "", blank[:position])
    return text.count("{") - text.count("}")


def _translate_shared(source: str) -> str:
    blank = _blank(source)
    beside_static = "true" if _SHARED.search(_EXTERN_SHARED.sub("", blank)) else "false"
    number = -1

    def dynamic(match: re.Match[str]) -> str:
        align, kind, align_behind, name = match.groups()
        call = f"cushim::dynamic_shared<{kind}>({align or align_behind or 1}, {beside_static})"
        if _depth(blank, match.start()):
            return f"{kind}* const {name} = {call};"
        return f"\n#define {name} ({call})\n#line {_line(source, match.start())}\n"

    def static(match: re.Match[str]) -> str:
        nonlocal number
        align, kind, align_behind, declarators = match.groups()
        if not _depth(_blank(text), match.start()):
            raise TranslationError(f"__shared__ {declarators} outside of a function: only within one is known here")
        places = []
        for declarator in declarators.split(","):
            number += 1
            name, bracket, dimensions = declarator.strip().partition("[")
            of = f"cushim_shared_{number}"
            place = f"cushim::shared_at<{of}>({number}, {align or align_behind or 1})"
            places.append(f"typedef {kind} {of}{bracket}{dimensions}; {of}& {name.strip()} = {place};")
        return " ".join(places)

    text = _EXTERN_SHARED.sub(dynamic, source)
    return _SHARED.sub(static, text)


# --- kernels -------------------------------------------------------------------------------------------------------


def _find_kernels(blank: str) -> dict[str, int]:
    """Names of the __global__ functions and their launch bounds (0: none)."""
    found = {}
    for start in re.finditer(r"\b__global__\b", blank):
        position, bounds = start.end(), 0
        while match := re.compile(r"\s*(\w+)\s*(\()?").match(blank, position):
            position = match.end()
            if not match[2]:
                continue
            if match[1] not in _VOID:
                found[match[1]] = bounds
                break
            end = _closing(blank, match.end() - 1)
            if match[1] == "__launch_bounds__":
                number = re.match(r"\s*(\d+)", blank[match.end() : end])
                bounds = int(number[1]) if number else 0
            position = end + 1
    return found


def _table(kernels: dict[str, int]) -> str:
    rows = "".join(
        f'    {{"{name}", cushim::parameters({name}), {bounds}, '
        f"[](const cushim::Argument* a) {{ cushim::call({name}, a); }}}},\n"
        for name, bounds in kernels.items()
    )
    return (
        f'\n#include "cushim/launch.h"\nconst cushim::Kernel cushim::kernels[] = {{\n{rows}}};\n'
        f"const int cushim::kernel_count = {len(kernels)};\n"
    )


def translate(source: str) -> Translated:
    """Translates a whole CUDA C++ source; TranslationError tells what in it cannot be run."""
    kernels = _find_kernels(_blank(source))
    if not kernels:
        raise TranslationError("the source has no __global__ function")
    body = _translate_shared(_translate_asm_statements(source))
    head = '#include "cuda.h"\n#include "cushim/ptx.h"\n#line 1 "kernel.cu"\n'
    return Translated(head + body + _table(kernels), tuple(kernels))
