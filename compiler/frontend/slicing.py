"""How ONNX's Slice counts: bounds wrap once when negative and are then clamped to the axis."""

from __future__ import annotations


def slice_bounds(start: int, end: int, step: int, size: int) -> tuple[int, int, int]:
    """First index, step and number of elements of `[start:end:step]` on an axis of `size`; ValueError for step 0."""
    if step == 0:
        raise ValueError("a slice has step 0")
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    if step > 0:
        start, end = min(max(start, 0), size), min(max(end, 0), size)
    else:
        start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return start, step, max(0, -((start - end) // step))


def python_slice(start: int, end: int, step: int, size: int) -> slice:
    """The same slice in Python's terms, where an end before the first element is None."""
    first, step, count = slice_bounds(start, end, step, size)
    stop = first + count * step
    return slice(first, None if stop < 0 else stop, step) if count else slice(0, 0)
