"""Goes through the graphs of `If` and `Loop` as a run's values say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..element_types import array_dtype
from ..errors import KompiloError
from ..segments import Control, ControlGraph, Segment
from ..tensor_spec import ANY_SHAPE

Values = dict[str, Any]
Step = Callable[[Values], Values]


class ControlSegment:
    """One `If` or `Loop`; `steps` are what its graphs go through."""

    def __init__(self, segment: Segment, control: Control, steps: Sequence[Sequence[Step]]) -> None:
        self._control, self._inputs = control, segment.inputs
        self._rows = {spec.name: spec for spec in segment.outputs}
        self._graphs = [_Graph(graph, own) for graph, own in zip(control.graphs, steps, strict=True)]

    def run(self, values: Values) -> Values:
        """The segment's outputs by name, for the values by name that it may read.

        Raises:
            KompiloError: a condition is not one value, or the rows of a loop's output differ in shape.
        """
        results = self._loop(values) if self._control.is_loop else self._branch(values)
        return {name: value for name, value in zip(self._control.results, results, strict=True) if name}

    def _branch(self, values: Values) -> list[Any]:
        return self._graphs[0 if self._scalar(values, self._control.condition) else 1].run(values, {})

    def _loop(self, values: Values) -> list[Any]:
        control, body = self._control, self._graphs[0]
        limit = None if control.limit is None else int(self._scalar(values, control.limit))
        alive = control.condition is None or bool(self._scalar(values, control.condition))
        carried = [values[name] for name in control.first]
        rows: list[list[Any]] = [[] for _ in control.results[len(carried) :]]
        step = 0
        while alive and (limit is None or step < limit):
            own: Values = dict(zip(control.carried, carried, strict=True))
            own[control.step or ""] = np.array(step, np.int64)
            condition, *results = body.run(values, own)
            alive = bool(self._single(condition))
            carried = results[: len(carried)]
            for row, value in zip(rows, results[len(carried) :], strict=True):
                row.append(value)
            step += 1
        names = control.results[len(carried) :]
        return [*carried, *(self._stacked(n, r, values) for n, r in zip(names, rows, strict=True))]

    def _stacked(self, name: str, rows: list[Any], values: Values) -> Any:
        """The rows as one array; without any, their sizes are those that the inputs tell, and else 0."""
        if len({row.shape for row in rows}) > 1:
            raise self._error(f"the rows of its output {name!r} have several shapes")
        if rows:
            return np.stack(rows)
        spec = self._rows[name]
        sizes = self._sizes(values)
        row = [size if isinstance(size, int) else sizes.get(size, 0) for size in spec.shape[1:]]
        return np.empty((0, *row), array_dtype(spec.dtype))

    def _sizes(self, values: Values) -> dict[str, int]:
        """The open sizes of the inputs by name."""
        found: dict[str, int] = {}
        for spec in self._inputs:
            shape = getattr(values[spec.name], "shape", ())
            if spec.shape != ANY_SHAPE and len(shape) == len(spec.shape):
                found |= {dim: size for dim, size in zip(spec.shape, shape, strict=True) if isinstance(dim, str)}
        return found

    def _scalar(self, values: Values, name: str | None) -> Any:
        return self._single(values[name or ""])

    def _single(self, value: Any) -> Any:
        if value.size != 1:
            raise self._error(f"expected one value to decide by, found the shape {list(value.shape)}")
        return value.reshape(-1)[0]

    def _error(self, reason: str) -> KompiloError:
        operator = self._control.operator
        return KompiloError(f"{operator.operator} node {operator.node!r} cannot run on these inputs: {reason}.")


class _Graph:
    def __init__(self, graph: ControlGraph, steps: Sequence[Step]) -> None:
        self._outputs, self._steps = graph.outputs, steps

    def run(self, around: Values, own: Values) -> list[Any]:
        """The results, where `around` is known outside and `own` inside only."""
        known = {**around, **own}
        for step in self._steps:
            known.update(step(known))
        return [known[name] for name in self._outputs]
