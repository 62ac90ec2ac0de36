"""What the verbs say of operators on the host, and of the values that only the host holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError, UsageError
from ..number_words import count
from ..tensor_spec import OPTIONAL, SEQUENCE, STRING, TensorSpec
from . import console

if TYPE_CHECKING:
    import numpy as np

    from ..segments import Segment

_HINT = 'strings are given as NAME=["a","b"], sequences as NAME=[[1,2],[3]], optionals as NAME=null or by their value.'


def host_facts(segments: Iterable[Segment]) -> list[dict[str, Any]]:
    """For JSON: each operator on the host with its node, the reason, and the number of its segment."""
    return [
        {"segment": number, "operator": o.operator, "node": o.node, "reason": o.reason}
        for number, segment in enumerate(segments)
        for o in segment.operators
    ]


def decided_facts(segments: Iterable[Segment]) -> list[dict[str, Any]]:
    """For JSON: each `If` and `Loop` that the loader decides, as `host_facts` has operators on the host."""
    return [
        {"segment": number, "operator": o.operator, "node": o.node, "reason": o.reason}
        for number, segment in enumerate(segments)
        for o in ((segment.control.operator,) if segment.control else ())
    ]


def print_decided(operators: Sequence[Mapping[str, Any]]) -> None:
    """The table of `decided_facts`, where there is anything in it."""
    if operators:
        rows = [(o["segment"], o["operator"], o["node"], o["reason"]) for o in operators]
        title = f"Decided in each run, between compiled segments: {count(len(rows), 'operator')}"
        console.print_table(title, (">segment", "operator", "node", "why"), rows, fold=("node", "why"))


def print_host(operators: Sequence[Mapping[str, Any]], segments: int = 0) -> None:
    """The table of `host_facts`, where there is anything in it, and of how many segments a run is (0: unknown)."""
    if not operators:
        return
    rows = [(o["segment"], o["operator"], o["node"], o["reason"]) for o in operators]
    title = f"On the host, in the onnx package's evaluator: {count(len(rows), 'operator')}"
    console.print_table(title, (">segment", "operator", "node", "why"), rows, fold=("node", "why"))
    if segments:
        console.say(f"a run goes through {count(segments, 'segment')}, compiled ones and those on the host in turn")


def check_tensors(specs: Iterable[TensorSpec], verb: str, strings: bool = False) -> None:
    """UsageError for values that `verb` cannot feed or compare: sequences, optionals and, unless allowed, strings."""
    wanted = "tensors" if strings else "tensors of numbers"
    for spec in specs:
        if spec.wrappers or (spec.dtype == STRING and not strings):
            raise UsageError(f"{verb}: expected a model whose inputs and outputs are {wanted}, found {spec}.")


def read_host_value(text: str, spec: TensorSpec) -> Any:
    """A value of strings, a sequence or an optional, written as JSON; InputError where it does not fit."""
    import numpy as np

    from ..runtime.host_values import accept

    def arrays(value: Any, wrappers: Sequence[str]) -> Any:
        if wrappers and wrappers[0] == OPTIONAL:
            return None if value is None else arrays(value, wrappers[1:])
        if wrappers and wrappers[0] == SEQUENCE and isinstance(value, list):
            return [arrays(item, wrappers[1:]) for item in value]
        return value if spec.element == STRING else np.asarray(value, spec.element)

    try:
        return accept(arrays(json.loads(text), spec.wrappers), spec)
    except (ValueError, TypeError):
        raise InputError(f"expected a value of {spec}, found {text!r}.", _HINT) from None


def nothing_to_draw(spec: TensorSpec) -> InputError:
    """What to raise where a value of strings, a sequence or an optional is not given."""
    return InputError(f"nothing can be drawn for input {spec}.", _HINT)


def flat(results: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of all results: items of sequences as NAME.0, NAME.1, ..., strings as numpy's own, what is not there
    left out."""
    import numpy as np

    def items(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from items(f"{name}.{index}", item)
        elif value is not None:
            yield name, value.astype(np.str_) if value.dtype == object else value

    return dict(pair for name, value in results.items() for pair in items(name, value))


def absent(results: Mapping[str, Any]) -> list[str]:
    """What to say of results that are no arrays: optionals without a value, empty sequences."""
    said = []
    for name, value in results.items():
        if value is None:
            said.append(f"{name}: none")
        elif isinstance(value, list):
            said.append(f"{name}: a sequence of {len(value)}")
    return said
