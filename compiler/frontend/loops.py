"""Scan and Loop with a number of iterations that is known at compile time: the body once for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from tvm import relax

from .control import DecidedInRuns
from .node import Node
from .symbols import as_expr
from .values import Dim, Value

op = relax.op

# Each iteration is a copy of the body: more of them make a graph that takes minutes to compile.
MOST_ITERATIONS = 512

# What converts the body for the values of its inputs.
Body = Callable[[onnx.GraphProto, Sequence[Value]], list[Value]]


def unroll_scan(node: Node, convert: Body) -> list[Value | None]:
    """Final states, then scan outputs; the scanned axes have one fixed size."""
    if node.opset < 9:
        return _batched_scan(node, convert)
    values = [node.value(i) for i in range(len(node.values))]
    count = _scan_count(node, len(values))
    scanned = range(len(values) - count, len(values))
    axes = [
        node.axis(a, node.rank(i)) for i, a in zip(scanned, _of_scanned(node, "scan_input_axes", count), strict=True)
    ]
    steps = _steps(node, [node.shape(i)[a] for i, a in zip(scanned, axes, strict=True)])
    return [*_scan(node, convert, values, axes, _of_scanned(node, "scan_input_directions", count), steps)]


def _scan_count(node: Node, most: int) -> int:
    """How many of the last inputs are scanned; ModelError where that is not in [0, most]."""
    count = node.required("num_scan_inputs")
    if not 0 <= count <= most:
        raise node.error(f"attribute 'num_scan_inputs' must be 0 to {most}, found {count}")
    return count


def _of_scanned(node: Node, name: str, count: int) -> Sequence[int]:
    """The attribute `name`, a number for each of `count` scanned inputs; zeros where it is absent."""
    numbers = node.attr(name, [0] * count)
    if len(numbers) != count:
        raise node.error(f"attribute {name!r} needs {count} values, found {list(numbers)}")
    return numbers


def _batched_scan(node: Node, convert: Body) -> list[Value | None]:
    """Scan of opset 8: axis 0 of everything is a batch, whose elements are scanned one by one along axis 1."""
    if node.has(0):
        raise node.error("lengths of the sequences are not supported")
    inputs = range(1, len(node.values))
    count = _scan_count(node, len(inputs))
    scanned = inputs[len(inputs) - count :]
    batch = _steps(node, [node.shape(i)[0] if node.rank(i) else 0 for i in inputs])
    steps = _steps(node, [node.shape(i)[1] if node.rank(i) > 1 else 0 for i in scanned])
    backward = _of_scanned(node, "directions", count)
    results = [
        _scan(node, convert, [_slice(node, node.value(i), 0, k) for i in inputs], [0] * count, backward, steps)
        for k in range(batch)
    ]
    return [_stacked(node, [row[i] for row in results], 0) for i in range(len(results[0]))]


def _scan(
    node: Node, convert: Body, values: Sequence[Value], axes: Sequence[int], backward: Sequence[int], steps: int
) -> list[Value]:
    """The last states, then the scan outputs, for first states and scanned tensors, as many as there are `axes`."""
    body, first = node.required("body"), len(values) - len(axes)
    states, scanned = list(values[:first]), values[first:]
    rows: list[list[Value]] = []
    for step in range(steps):
        slices = [
            _slice(node, value, axis, steps - 1 - step if back else step)
            for value, axis, back in zip(scanned, axes, backward, strict=True)
        ]
        results = convert(body, [*states, *slices])
        states, outputs = results[: len(states)], results[len(states) :]
        rows.append(outputs)
    return [*states, *_scan_outputs(node, rows, len(body.output) - len(states))]


def _steps(node: Node, sizes: list[Dim]) -> int:
    steps = sizes[0] if sizes else 0
    if not isinstance(steps, int) or any(not isinstance(s, int) or s != steps for s in sizes):
        raise node.error(f"the scanned axes must have one fixed size, found {[str(s) for s in sizes]}")
    return _few(node, steps)


def _few(node: Node, steps: int) -> int:
    if not 0 < steps <= MOST_ITERATIONS:
        raise node.error(f"expected 1 to {MOST_ITERATIONS} iterations, found {steps}")
    return steps


def _slice(node: Node, value: Value, axis: int, index: int) -> Value:
    if value.array is not None:
        return Value(array=np.take(value.array, index, axis))
    x = value.expr(node.bb)
    part = node.emit(op.strided_slice(x, [axis], [index], [index + 1]))
    rest = [as_expr(d) for i, d in enumerate(value.shape or []) if i != axis]
    return Value(expr=node.emit(op.reshape(part, relax.ShapeExpr(rest))), dtype=value.dtype)


def _scan_outputs(node: Node, rows: list[list[Value]], count: int) -> list[Value]:
    """Each scan output of all iterations, side by side on a new axis."""
    axes = node.attr("scan_output_axes", [0] * count)
    backward = node.attr("scan_output_directions", [0] * count)
    return [
        _stacked(node, [row[i] for row in (reversed(rows) if backward[i] else rows)], axes[i]) for i in range(count)
    ]


def _stacked(node: Node, parts: list[Value], axis: int) -> Value:
    if any(p.shape is None for p in parts) or len({tuple(map(str, p.shape or ())) for p in parts}) > 1:
        raise node.error("the iterations give outputs of several shapes, which is not supported")
    axis = node.axis(axis, len(parts[0].shape or ()) + 1)
    if all(p.array is not None for p in parts):
        return Value(array=np.stack([p.array for p in parts if p.array is not None], axis))
    rows = [node.emit(op.expand_dims(p.expr(node.bb), axis)) for p in parts]
    return Value(expr=rows[0] if len(rows) == 1 else node.emit(op.concat(rows, axis)), dtype=parts[0].dtype)


def unroll_loop(node: Node, convert: Body) -> list[Value | None]:
    """Final values, then scan outputs; the conditions and, unless they end it, the count are known."""
    body = node.required("body")
    most, goes_on = (node.const(i) for i in (0, 1))
    if (most is None and node.has(0)) or (goes_on is None and node.has(1)):
        raise _in_runs(node, "its count or its condition is data")
    limit = MOST_ITERATIONS + 1 if most is None else int(most.reshape(-1)[0])
    alive = goes_on is None or bool(goes_on.reshape(-1)[0])
    carried = [node.value(i) for i in range(2, len(node.values))]
    rows: list[list[Value]] = []
    while alive and len(rows) < limit:
        if len(rows) == MOST_ITERATIONS:
            raise _in_runs(node, f"it has more than {MOST_ITERATIONS} iterations")
        results = convert(body, [Value(array=np.array(len(rows), np.int64)), Value(array=np.array(True)), *carried])
        alive = _known(node, results[0])
        carried = results[1 : 1 + len(carried)]
        rows.append(results[1 + len(carried) :])
    scans = len(body.output) - 1 - len(carried)
    if scans and not rows:
        raise _in_runs(node, "it never runs")
    return [*carried, *(_stacked(node, [row[i] for row in rows], 0) for i in range(scans))]


def _known(node: Node, condition: Value) -> bool:
    if condition.array is None:
        raise _in_runs(node, "its condition is data")
    return bool(condition.array.reshape(-1)[0])


def _in_runs(node: Node, reason: str) -> DecidedInRuns:
    return DecidedInRuns(node.error(f"{reason}, which is not supported here").message, reason)
