"""Which operators stay on the host and why, and what the reference evaluator of the onnx package is trusted with there.

The evaluator is slow, and wrong in places: its defects are mended where it runs (`runtime/host_operators.py`), and
what nobody has compared with ONNX Runtime or with ONNX's text is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping

import onnx
from onnx import AttributeProto, NodeProto, TensorProto, TypeProto

from ..errors import ModelError
from .converters.registry import canonical_domain
from .graph_order import describe, free_names, reads
from .host_types import hints_at_host, type_text, why_on_host
from .reference import OLDEST_OPSET, TRUSTED

# Operators on tensors of numbers that no target has.
_WITHOUT_TARGET = {
    "ImageDecoder": "no target decodes images",
    "TfIdfVectorizer": "no target looks up n-grams",
}

# Why some operators cannot be compiled, and what to do about it.
OPEN_RANK = "only a run knows how many dimensions"
FIX_SIZES = (
    "fix sizes with --input NAME:1x576, and values that branches depend on with --value NAME=16000 "
    "(inputs= and values= in Python)."
)

# What a node has that the evaluator cannot be trusted with, in words; None where it can.
Objection = Callable[[NodeProto], str | None]


def why_host(node: NodeProto, types: Mapping[str, TypeProto], rank_unknown: Mapping[str, bool]) -> str | None:
    """Why `node` is not compiled; None where it is.

    Args:
        types: of the values that are known.
        rank_unknown: the values of the host whose number of dimensions only runs know.
    """
    if not canonical_domain(node.domain) and node.op_type in _WITHOUT_TARGET:
        return _WITHOUT_TARGET[node.op_type]
    for what, names in (("input", reads(node)), ("output", filter(None, node.output))):
        for name in names:
            kind = why_on_host(types.get(name))
            if kind is not None:
                verb = "holds" if kind == "strings" else "is"
                return f"its {what} {name!r} {verb} {kind}"
    inner = next((n for n in inner_nodes(node) if hints_at_host(n)), None)
    if inner is not None:
        return f"its graphs hold {inner.op_type} operators"
    open_rank = next((name for name in reads(node) if name in rank_unknown), None)
    if open_rank is not None:
        return f"{OPEN_RANK} its input {open_rank!r} has"
    return None


def inner_nodes(node: NodeProto) -> Iterator[NodeProto]:
    """The nodes in the graphs that `node` has, and in theirs."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield inner
                yield from inner_nodes(inner)


def check_trusted(node: NodeProto, opsets: Mapping[str, int], types: Mapping[str, TypeProto], reason: str) -> None:
    """ModelError unless the evaluator can be trusted with `node` and all nodes in its graphs."""
    for inner in (node, *inner_nodes(node)):
        objection = _objection(inner, opsets) or _objection_to_strings(inner, types)
        if objection is not None:
            where = "it" if inner is node else f"{describe(inner)} in its graph"
            raise ModelError(
                f"{describe(node)} cannot be compiled ({reason}), and {where} cannot run on the host: {objection}.",
                FIX_SIZES if reason.startswith(OPEN_RANK) else None,
            )


def check_made_well(
    node: NodeProto, opsets: Mapping[str, int], ir_version: int, types: Mapping[str, TypeProto]
) -> None:
    """ModelError where ONNX's checker finds a fault in `node`, or an input is of a type that is not for it.

    Nodes with graphs are looked at by the inputs only: the checker knows nothing of what is around a graph.
    """
    _check_types(node, opsets, types)
    if any(a.type == AttributeProto.GRAPH for a in node.attribute):
        return
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = ir_version, dict(opsets)
    try:
        onnx.checker.check_node(node, context)
    except onnx.checker.ValidationError as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "it is not made as ONNX asks")
        raise ModelError(f"{describe(node)} is not made as ONNX asks: {reason.strip().rstrip('.')}.") from error


def _check_types(node: NodeProto, opsets: Mapping[str, int], types: Mapping[str, TypeProto]) -> None:
    domain = canonical_domain(node.domain)
    parameters = onnx.defs.get_schema(node.op_type, opsets.get(domain, 1), domain).inputs
    for index, name in enumerate(node.input):
        kind = type_text(types.get(name)) if parameters else None
        allowed = parameters[min(index, len(parameters) - 1)].types if parameters else set()
        if kind is not None and kind not in allowed:
            raise ModelError(f"{describe(node)}: input {index} is a {kind}, which {node.op_type} does not take.")


def _objection(node: NodeProto, opsets: Mapping[str, int]) -> str | None:
    domain = canonical_domain(node.domain)
    opset = opsets.get(domain, 1)
    if not domain and node.op_type in TRUSTED:
        least, objection = OLDEST_OPSET, _HOSTED.get(("", node.op_type), (0, None))[1]
    elif (domain, node.op_type) in _HOSTED:
        least, objection = _HOSTED[domain, node.op_type]
    else:
        return f"the onnx package's evaluator is not trusted with {node.op_type}"
    if opset < least:
        return f"the onnx package's evaluator is trusted with {node.op_type} from opset {least} on, found {opset}"
    return objection(node) if objection is not None else None


def _objection_to_strings(node: NodeProto, types: Mapping[str, TypeProto]) -> str | None:
    """What is trusted with numbers need not be with strings: some of it computes with them."""
    key = canonical_domain(node.domain), node.op_type
    if key in _HOSTED or node.op_type in _ON_STRINGS:
        return None
    strings = any(why_on_host(types.get(name)) == "strings" for name in (*node.input, *node.output) if name)
    return f"the onnx package's evaluator is not trusted with {node.op_type} of strings" if strings else None


def _attribute(node: NodeProto, name: str) -> AttributeProto | None:
    return next((a for a in node.attribute if a.name == name), None)


def _cast(node: NodeProto) -> str | None:
    """Strings of floats differ from runtime to runtime, and Python's words for truth are others than ONNX's."""
    to = _attribute(node, "to")
    if to is not None and to.i == TensorProto.STRING:
        return "how numbers look as strings is left open by ONNX"
    if to is not None and to.i == TensorProto.BOOL:
        return "it makes truth values"
    return None


# RE2 and Python's `re` agree on these: classes of ASCII, plain groups, counts, and escapes of punctuation.
_COMMON_SYNTAX = re.compile(
    r"(?:[^\\$({\[]|\\[dDwWbB]|\\[^\w\s]|\$(?=\)*$)|\((?!\?)|\(\?:|\{\d+(?:,\d*)?\}|\[(?![:.=]))*"
)


def _pattern(node: NodeProto) -> str | None:
    pattern = _attribute(node, "pattern")
    text = pattern.s.decode("utf-8", "replace") if pattern is not None else ""
    if _COMMON_SYNTAX.fullmatch(text) and not re.search(r"[*+?}]\+|\[\[|\[\^?\]|&&|\|\|[^)]|~~|--", text):
        return None
    return f"the pattern {text!r} may mean other things to RE2, whose syntax ONNX asks for, than to Python"


def _label_encoder(node: NodeProto) -> str | None:
    keys = _attribute(node, "keys_floats")
    return "a key is NaN" if keys is not None and any(map(math.isnan, keys.floats)) else None


def _closed(node: NodeProto) -> str | None:
    """The evaluator gives the graph of SequenceMap nothing but its inputs."""
    body = _attribute(node, "body")
    free = free_names(body.g) if body is not None else []
    return f"its graph reads {free[0]!r} from around it" if free else None


def _case(node: NodeProto) -> str | None:
    action = _attribute(node, "case_change_action")
    text = action.s.decode("utf-8", "replace") if action is not None else "NONE"
    return None if text in ("NONE", "LOWER", "UPPER") else f"case_change_action is {text!r}"


_SEQUENCES = """
SequenceEmpty SequenceConstruct SequenceInsert SequenceErase SequenceAt SequenceLength SplitToSequence
ConcatFromSequence Loop If
"""
_OPTIONALS = "Optional OptionalHasElement OptionalGetElement"
_SINCE_EVER = "Constant Identity Transpose Shape Size Flatten"
_SINCE_13 = "Squeeze Unsqueeze Reshape Concat Gather Slice Split ConstantOfShape"
# What only moves or compares elements does so with strings as well.
_ON_STRINGS = frozenset(
    [
        "Compress",
        "Equal",
        "Expand",
        "GatherND",
        "Pad",
        "ScatterElements",
        "ScatterND",
        "Tile",
        "Where",
    ]
)
# (domain, operator) -> the opset from which on the evaluator is trusted, and what it is not trusted with.
_HOSTED: dict[tuple[str, str], tuple[int, Objection | None]] = {
    **dict.fromkeys((("", name) for name in _SEQUENCES.split()), (11, None)),
    **dict.fromkeys((("", name) for name in _OPTIONALS.split()), (15, None)),
    **dict.fromkeys((("", name) for name in _SINCE_EVER.split()), (1, None)),
    **dict.fromkeys((("", name) for name in _SINCE_13.split()), (13, None)),
    ("", "GatherElements"): (11, None),
    ("", "SequenceMap"): (17, _closed),
    ("", "Cast"): (OLDEST_OPSET, _cast),
    ("", "StringConcat"): (20, None),
    ("", "StringSplit"): (20, None),
    ("", "StringNormalizer"): (10, _case),
    ("", "RegexFullMatch"): (20, _pattern),
    ("", "TfIdfVectorizer"): (9, None),
    ("", "ImageDecoder"): (20, None),
    ("ai.onnx.ml", "LabelEncoder"): (2, _label_encoder),
}


def host_word(node: NodeProto) -> str:
    """The operator as the lists of host operators name it."""
    domain = canonical_domain(node.domain)
    return f"{domain}.{node.op_type}" if domain else node.op_type
