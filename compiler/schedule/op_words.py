"""An OpSpec in a few words for people: "conv 3x3 64->64 56x56 +relu" where its text form takes three lines.

Convolutions and pooling: kernel, stride ("/2"), channels, size of the result. Matmuls: rows x depth by depth x columns,
with the number of products before them; attention alike. Batches above one come first ("8x").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import prod

from ..tensor_spec import Dim
from .op_spec import OpSpec, Step

# Steps of an epilogue that are named; more of them are only counted.
_NAMED_STEPS = 2


def op_words(op: OpSpec, epilogue: bool = False) -> str:
    """The anchor of `op` in words, with its epilogue if asked for; symbolic sizes stand by their names."""
    words = _WORDS.get(op.kind, _other)(op)
    if not epilogue:
        return words
    steps = [_step_word(op, s) for s in op.epilogue if not _is_bias(op, s)]
    if len(steps) > _NAMED_STEPS:
        return f"{words} +{len(steps)} steps"
    return " ".join([words, *(f"+{s}" for s in steps)])


def distinct_words(ops: Sequence[OpSpec]) -> list[str]:
    """Words for each of `ops`, no two the same: epilogues, and then numbers, tell those apart that look alike."""
    short = [op_words(op) for op in ops]
    counts = Counter(short)
    words = [w if counts[w] == 1 else op_words(op, epilogue=True) for w, op in zip(short, ops, strict=True)]
    counts = Counter(words)
    seen: Counter[str] = Counter()
    for k, word in enumerate(words):
        if counts[word] > 1:
            seen[word] += 1
            words[k] = f"{word} #{seen[word]}"
    return words


def _conv2d(op: OpSpec) -> str:
    out_channels, group_channels, *kernel = op.inputs[1].shape
    groups = op.ints("groups")[0]
    channels = op.inputs[0].shape[-1]
    depthwise = groups > 1 and group_channels == 1 and channels == out_channels
    name, through = ("depthwise", str(channels)) if depthwise else ("conv", f"{channels}->{out_channels}")
    extra = f" in {groups} groups" if groups > 1 and not depthwise else ""
    return f"{_batch(op)}{name} {_sizes(kernel)}{_window(op)} {through}{extra} {_image(op)}"


def _conv2d_transpose(op: OpSpec) -> str:
    group_channels, kernel = op.inputs[1].shape[1], op.inputs[1].shape[2:]
    groups = op.ints("groups")[0]
    extra = f" in {groups} groups" if groups > 1 else ""
    out_channels = int(group_channels) * groups if isinstance(group_channels, int) else group_channels
    through = f"{op.inputs[0].shape[-1]}->{out_channels}{extra}"
    return f"{_batch(op)}transposed conv {_sizes(kernel)}{_window(op)} {through} {_image(op)}"


def _pool2d(op: OpSpec) -> str:
    window = f"{_sizes(op.ints('pool_size'))}{_window(op)}"
    return f"{_batch(op)}{op.attr('mode')} pool {window} {op.anchor_type.shape[-1]} {_image(op)}"


def _matmul(op: OpSpec) -> str:
    lhs = [op.inputs[0].shape[a] for a in op.ints("lhs_perm")]
    rhs = [op.inputs[1].shape[a] for a in op.ints("rhs_perm")]
    one = f"{_sizes(lhs[-2:])} by {_sizes(rhs[-2:])}"
    # Leading dimensions of the left side only are more rows of one product, not more products.
    if all(d == 1 for d in rhs[:-2]):
        return f"matmul {_sizes([_product(lhs[:-1]), lhs[-1]])} by {_sizes(rhs[-2:])}"
    return f"matmul {_product(op.anchor_type.shape[: max(len(lhs), len(rhs)) - 2])}x ({one})"


def _attention(op: OpSpec) -> str:
    """Products x (rows by keys, depth), and what besides."""
    query, key = ([op.inputs[k].shape[a] for a in op.ints(name)] for k, name in enumerate(("q_perm", "k_perm")))
    words = f"attention {_product(query[:-2])}x ({query[-2]} by {key[-2]}, {query[-1]} deep)"
    grouped = [q for q, k in zip(query[:-2], key[:-2], strict=True) if q != k]
    extra = " causal" if op.attr("causal") else ""
    extra += " masked" if op.ints("masks") else ""
    return words + extra + (" grouped" if grouped else "")


def _other(op: OpSpec) -> str:
    operands = ", ".join(_sizes(t.shape) or "scalar" for t in op.inputs)
    return f"{op.kind} {operands} -> {_sizes(op.output.shape) or 'scalar'}"


_WORDS: dict[str, Callable[[OpSpec], str]] = {
    "conv2d": _conv2d,
    "conv2d_transpose": _conv2d_transpose,
    "pool2d": _pool2d,
    "matmul": _matmul,
    "attention": _attention,
}


def _sizes(dims: Iterable[Dim]) -> str:
    return "x".join(str(d) for d in dims)


def _product(dims: Sequence[Dim]) -> Dim:
    if all(isinstance(d, int) for d in dims):
        return prod(int(d) for d in dims)
    return "*".join(str(d) for d in dims if d != 1)


def _batch(op: OpSpec) -> str:
    batch = op.anchor_type.shape[0]
    return "" if batch == 1 else f"{batch}x "


def _image(op: OpSpec) -> str:
    return _sizes(op.anchor_type.shape[1:3])


def _window(op: OpSpec) -> str:
    """Stride and dilation where they are not 1."""
    strides, dilation = op.ints("strides"), op.ints("dilation")
    text = "" if set(strides) == {1} else f"/{_same(strides)}"
    return text if set(dilation) == {1} else f"{text} dilated {_same(dilation)}"


def _same(values: Sequence[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else _sizes(values)


def _is_bias(op: OpSpec, step: Step) -> bool:
    """Whether `step` adds a number or a constant operand to what was computed before."""
    computed = [isinstance(a, str) and a[0] != "i" for a in step.args]
    known = [isinstance(a, float) or (a[0] == "i" and op.constant[int(a[1:])]) for a in step.args]
    return step.op == "add" and sum(computed) == sum(known) == 1


def _step_word(op: OpSpec, step: Step) -> str:
    if step.op == "clip" and step.args[1:] == (0.0, 6.0):
        return "relu6"
    return step.op.removeprefix("nn.")
