"""Operators of the onnx package's reference evaluator whose own version is wrong, as ONNX's text and ONNX Runtime
have them. Each class says what it mends. Class names are those of the operators.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_tfidf_vectorizer import TfIdfVectorizer as _TfIdfVectorizer

Results = tuple[Any, ...]
_RGB, _GRAY = "RGB", "L"
# Pixel formats of ImageDecoder: the mode that Pillow converts to, its channels, and whether their order is reversed.
_PIXELS = {"RGB": (_RGB, 3, False), "BGR": (_RGB, 3, True), "Grayscale": (_GRAY, 1, False)}
# Modes of 8 bits a channel; what else Pillow reads would be cut to them.
_IMAGE_MODES = frozenset(["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"])


class _MayBeNone(OpRun):
    """Operators whose results may be optionals without a value, which the evaluator's check refuses."""

    op_domain = ""

    def _check_and_fix_outputs(self, res: Results) -> Results:
        return tuple(np.array(x) if np.isscalar(x) else x for x in res)


class Identity(_MayBeNone):
    """The evaluator's refuses None."""

    def _run(self, x: Any) -> Results:
        return (None if x is None else x.copy(),)


class Optional(_MayBeNone):
    """The evaluator's puts the value into a list of its own, which OptionalGetElement then gives."""

    def _run(self, x: Any = None, type: Any = None) -> Results:
        return (x,)


class OptionalGetElement(_MayBeNone):
    """In its place because it reads what `Optional` gives."""

    def _run(self, x: Any) -> Results:
        if x is None:
            raise ValueError("the optional value is not there")
        return (x,)


class If(_MayBeNone):
    """The evaluator's refuses branches that give None."""

    def need_context(self) -> bool:
        return True

    def _run(
        self,
        condition: np.ndarray,
        context: Any = None,
        then_branch: Any = None,
        else_branch: Any = None,
        attributes: Any = None,
    ) -> Results:
        branch = then_branch if bool(condition.item()) else else_branch
        return tuple(branch.run(None, context, attributes=attributes))


class Loop(_MayBeNone):
    """The evaluator's never runs without a condition, stacks scan outputs of other than one dimension wrongly, and
    takes an initial value of None for one that is not there."""

    def need_context(self) -> bool:
        return True

    def _run(
        self,
        limit: Any,
        condition: Any = None,
        *given: Any,
        context: Any = None,
        body: Any = None,
        attributes: Any = None,
    ) -> Results:
        names, count = body.input_names, len(body.input_names) - 2
        carried = [*given, *[None] * (count - len(given))]
        rows: list[list[Any]] = [[] for _ in range(len(body.output_names) - 1 - count)]
        alive, step = condition is None or bool(condition.item()), 0
        most = None if limit is None else int(limit.item())
        while alive and (most is None or step < most):
            feeds = {**context, **dict(zip(names, [np.array(step), np.array(True), *carried], strict=True))}
            results = body.run(None, feeds, attributes=attributes)
            alive, carried = bool(results[0].item()), results[1 : 1 + count]
            for row, value in zip(rows, results[1 + count :], strict=True):
                row.append(value)
            step += 1
        if rows and not step:
            raise ValueError("a loop that never runs leaves the shapes of its scan outputs open")
        return (*carried, *map(np.stack, rows))


class SequenceMap(OpRun):
    """The evaluator's takes a sequence beside two or more further inputs for a tensor, and fails on empty ones."""

    op_domain = ""

    def _run(self, sequence: list[Any], *others: Any, body: Any = None, attributes: Any = None) -> Results:
        results: list[list[Any]] = [[] for _ in body.output_names]
        for k, item in enumerate(sequence):
            values = [item, *(other[k] if isinstance(other, list) else other for other in others)]
            for result, value in zip(
                results, body.run(None, dict(zip(body.input_names, values, strict=True))), strict=True
            ):
                result.append(value)
        return tuple(results)


class SequenceInsert(OpRun):
    """The evaluator's puts a tensor in front where the position is the length, which is the end."""

    op_domain = ""

    def _run(self, sequence: list[Any], tensor: np.ndarray, position: Any = None) -> Results:
        place = len(sequence) if position is None else int(position.item())
        if not -len(sequence) <= place <= len(sequence):
            raise IndexError(f"position {place} of a sequence of {len(sequence)}")
        place = place + len(sequence) if place < 0 else place
        return ([*sequence[:place], tensor, *sequence[place:]],)


class SequenceAt(OpRun):
    """The evaluator's takes no position of shape [1]."""

    op_domain = ""

    def _run(self, sequence: list[Any], position: np.ndarray) -> Results:
        place = int(position.item())
        if not -len(sequence) <= place < len(sequence):
            raise IndexError(f"position {place} of a sequence of {len(sequence)}")
        return (sequence[place],)


class SplitToSequence(OpRun):
    """The evaluator's gives less than all of a tensor, or empty parts, where the sizes do not add up."""

    op_domain = ""

    def _run(self, data: np.ndarray, split: Any = None, axis: int = 0, keepdims: int = 1) -> Results:
        size = data.shape[axis]
        if split is None or split.ndim == 0:
            part = 1 if split is None else int(split.item())
            if part < 1:
                raise ValueError(f"parts of size {part}")
            bounds = list(range(part, size, part))
        else:
            if (split < 0).any() or split.sum() != size:
                raise ValueError(f"parts of sizes {split.tolist()} for an axis of {size}")
            bounds = np.cumsum(split)[:-1].tolist()
        parts = np.split(data, bounds, axis)
        return ([p.squeeze(axis) for p in parts] if split is None and not keepdims else parts,)


class Slice(OpRun):
    """The evaluator's counts a start before the first element from the end once more, where steps are negative."""

    op_domain = ""

    def _run(self, data: np.ndarray, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Results:
        axes = range(len(starts)) if axes is None else axes.tolist()
        steps = [1] * len(starts) if steps is None else steps.tolist()
        taken = [slice(None)] * data.ndim
        for axis, start, end, step in zip(axes, starts.tolist(), ends.tolist(), steps, strict=True):
            size, back = data.shape[axis], int(step < 0)
            start, end = (bound + size if bound < 0 else bound for bound in (start, end))
            start, end = min(max(start, 0), size - back), min(max(end, -back), size - back)
            taken[axis] = slice(max(start, 0), None if end < 0 else end, step) if size else slice(None)
        return (data[tuple(taken)],)


class GatherElements(OpRun):
    """The evaluator's counts an index that is far outside back to the axis step by step, for years."""

    op_domain = ""

    def _run(self, data: np.ndarray, indices: np.ndarray, axis: int = 0) -> Results:
        size = data.shape[axis]
        outside = (indices < -size) | (indices >= size)
        if outside.any():
            raise IndexError(f"index {indices[outside][0]} for an axis of {size}")
        within = tuple(slice(n) if k != axis % data.ndim else slice(None) for k, n in enumerate(indices.shape))
        return (np.take_along_axis(data[within], indices, axis),)


class StringNormalizer(OpRun):
    """The evaluator's takes accents away, removes words inside strings, drops empty strings, and sets the locale of
    the process."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray,
        case_change_action: str = "NONE",
        is_case_sensitive: int = 0,
        locale: str | None = None,
        stopwords: Sequence[str] | None = None,
    ) -> Results:
        if x.ndim not in (1, 2) or (x.ndim == 2 and x.shape[0] != 1):
            raise ValueError(f"expected a tensor of shape [C] or [1, C], found {list(x.shape)}")
        same = str if is_case_sensitive else str.lower
        stops = {same(word) for word in stopwords or ()}
        change = {"LOWER": str.lower, "UPPER": str.upper}.get(case_change_action, str)
        kept = [change(word) for word in x.reshape(-1).tolist() if same(word) not in stops] or [""]
        return (np.array(kept, object).reshape((-1,) if x.ndim == 1 else (1, -1)),)


class RegexFullMatch(OpRun):
    """The evaluator's \\w and \\d take letters and digits of all languages, where those of RE2 are of ASCII."""

    op_domain = ""

    def _run(self, x: np.ndarray, pattern: str = "") -> Results:
        regex = re.compile(pattern, re.ASCII)
        found = [regex.fullmatch(text) is not None for text in x.reshape(-1).tolist()]
        return (np.array(found, bool).reshape(x.shape),)


class ImageDecoder(OpRun):
    """The evaluator's gives palettes, masks and transparency as they lie in the file, whatever the pixel format; and
    it fails where the text asks for an empty image."""

    op_domain = ""

    def _run(self, encoded: np.ndarray, pixel_format: str = "RGB") -> Results:
        try:
            from PIL import Image
        except ImportError:
            raise ValueError("Pillow, which decodes images, is not installed (pip install pillow)") from None
        mode, channels, reverse = _PIXELS[pixel_format]
        try:
            image = Image.open(io.BytesIO(encoded.tobytes()))
            if image.mode not in _IMAGE_MODES:
                raise ValueError(f"images of Pillow's mode {image.mode} have no 8 bits a channel")
            pixels = np.asarray(image.convert(mode)).reshape(image.height, image.width, channels)
        except (OSError, SyntaxError, EOFError):
            return (np.zeros((0, 0, channels), np.uint8),)
        return (np.ascontiguousarray(pixels[:, :, ::-1] if reverse else pixels),)


class TfIdfVectorizer(_TfIdfVectorizer):
    """The evaluator's takes the weights for those of the outputs, where they are of the n-grams."""

    op_domain = ""

    def __init__(self, onnx_node: Any, run_params: Mapping[str, Any]) -> None:
        super().__init__(onnx_node, run_params)
        weights: Sequence[float] = self.weights or ()
        by_output = [1.0] * self.output_size_
        for index, weight in zip(self.ngram_indexes, weights, strict=bool(weights)):
            by_output[index] = weight
        self.weights_ = by_output if weights else ()


OPERATORS = [
    Identity, Optional, OptionalGetElement, If, Loop, SequenceMap, SequenceInsert, SequenceAt, SplitToSequence, Slice,
    GatherElements, StringNormalizer, RegexFullMatch, ImageDecoder, TfIdfVectorizer,
]  # fmt: skip
