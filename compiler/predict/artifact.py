"""The work of an artifact: its operators and what lies between them, as its program calls them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..artifact.artifact import Artifact, Operator, TargetCode
from ..errors import ArtifactError, UsageError
from ..plan.work import INPUT, Value, WorkGraph, WorkNode
from ..runtime.library import load_executable
from ..schedule.flops import tensor_bytes
from ..schedule.whole_design import DESIGN
from .sizes import moved, types_in

_CALL = re.compile(r"\s*call\s+(\S+)\s+in:\s*(.*?)\s*dst:\s*(\S+)\s*")
_RETURN = re.compile(r"\s*ret\s+(%\d+)\s*")
_OTHER = "plan the model, or an artifact for another target"
_ALLOCATE = "vm.builtin.alloc_tensor"
_TUPLE = "vm.builtin.make_tuple"
_ELEMENT = "vm.builtin.tuple_getitem"
# Registers that these set hold the memory of their first operand.
_VIEWS = ("vm.builtin.reshape", "vm.builtin.copy", "vm.builtin.to_device")


@dataclass
class _Tensor:
    """A tensor in a register; nobody has written to it as long as `producer` is None."""

    producer: int | None
    size: float = 0.0
    dtype: str = "float32"
    consumers: list[int] = field(default_factory=list)
    is_result: bool = False


def work_of_artifact(artifact: Artifact, code: TargetCode) -> WorkGraph:
    """The work of `code`, one of the artifact's targets: each kernel call of its program is a node.

    Raises UsageError for sizes that only runs tell, and for designs, which are no program;
    ArtifactError if the program cannot be read here.
    """
    if any(device.format == DESIGN for device in code.device):
        raise UsageError(f"expected an artifact with a program to plan, found the design of {code.name!r}.", _OTHER)
    text = str(load_executable(code.library)["as_text"]())
    return _Program(artifact, code).read(_main_of(text, code.entry))


def _main_of(text: str, entry: str) -> list[str]:
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("@"):
            inside = line.rstrip(": ") == f"@{entry}"
        elif inside:
            lines.append(line)
    if not lines:
        raise ArtifactError(f"expected the program {entry!r} in the artifact, found none.")
    return lines


class _Program:
    """Follows registers through a program."""

    def __init__(self, artifact: Artifact, code: TargetCode):
        self.operators = {o.name: o for o in code.operators}
        self.name = str(artifact.provenance.get("model", "the artifact"))
        self.nodes: list[WorkNode] = []
        self.tensors: list[_Tensor] = []
        self.registers: dict[str, list[_Tensor]] = {}
        self.weights: dict[str, float] = {}
        first = len(artifact.inputs)
        for k in range(first):
            self.registers[f"%{k}"] = [self._tensor(INPUT)]
        taken = range(len(artifact.weights)) if code.weights is None else code.weights
        for k, index in enumerate(taken):
            self.weights[f"%{first + k}"] = float(artifact.weights[index].nbytes)

    def _tensor(self, producer: int | None) -> _Tensor:
        tensor = _Tensor(producer)
        self.tensors.append(tensor)
        return tensor

    def read(self, lines: list[str]) -> WorkGraph:
        """The graph of the calls in `lines`."""
        for line in lines:
            call, end = _CALL.fullmatch(line), _RETURN.fullmatch(line)
            if call is not None:
                name, given, target = call.groups()
                self._call(name, [g.strip() for g in given.split(",") if g.strip()], target)
            elif end is not None:
                for tensor in self.registers.get(end.group(1), []):
                    tensor.is_result = True
        values = tuple(
            Value(t.producer, t.size, tuple(t.consumers), t.dtype, t.is_result)
            for t in self.tensors
            if t.producer is not None
        )
        return WorkGraph(self.name, tuple(self.nodes), values)

    def _call(self, name: str, given: list[str], target: str) -> None:
        if name in self.operators:
            self._kernel(self.operators[name], [g for g in given if g.startswith("%")])
        elif name == _ALLOCATE:
            self.registers[target] = [self._tensor(None)]
        elif name == _TUPLE:
            self.registers[target] = [t for g in given for t in self.registers.get(g, [])]
        elif name == _ELEMENT:
            index = int(given[1].removeprefix("i"))
            self.registers[target] = self.registers.get(given[0], [])[index : index + 1]
        elif name in _VIEWS and (given[0] in self.registers or given[0] in self.weights):
            self._view(given[0], target)

    def _view(self, source: str, target: str) -> None:
        if source in self.weights:
            self.weights[target] = self.weights[source]
        else:
            self.registers[target] = self.registers[source]

    def _kernel(self, operator: Operator, given: list[str]) -> None:
        number = len(self.nodes)
        types = types_in(operator.spec, operator.name)
        operands, results, weights = [], [], []
        for register, kind in zip(given, types, strict=False):  # what remains is a workspace
            if register in self.weights:
                weights.append(self.weights[register])
                continue
            if register not in self.registers:
                raise UsageError(f"{operator.name}: expected a tensor in {register}, found none in the program.")
            for tensor in self.registers[register]:
                tensor.size, tensor.dtype = float(tensor_bytes(kind)), kind.dtype
                if tensor.producer is None:
                    tensor.producer = number
                    results.append(tensor.size)
                elif tensor.producer != number:
                    tensor.consumers.append(number)
                    operands.append(tensor.size)
        self.nodes.append(
            WorkNode(
                name=operator.name,
                kind="other" if operator.kind == "tir" else operator.kind,
                flops=float(operator.flops or max(sum(operands), sum(results)) / 4),
                moved_bytes=moved(operator.name, operands, weights, results),
                weight_bytes=sum(weights),
                dtype=types[0].dtype if types else "float32",
                spec=operator.spec if operator.kind != "tir" else "",
            )
        )
