"""Tensor maps: what cuTensorMapEncodeTiled takes, with its checks."""

from __future__ import annotations

from dataclasses import dataclass

# dtype -> (bytes, name of the element type in the runtime's table `Element`)
_KINDS = {
    "float16": 0,
    "bfloat16": 1,
    "tfloat32": 2,
    "float32": 3,
    "float64": 4,
    "int8": 5,
    "uint8": 6,
    "int32": 7,
    "uint32": 7,
}
_BYTES = {
    "float16": 2,
    "bfloat16": 2,
    "tfloat32": 4,
    "float32": 4,
    "float64": 8,
    "int8": 1,
    "uint8": 1,
    "int32": 4,
    "uint32": 4,
}
_SWIZZLES = {None: 0, "none": 0, "32B": 1, "64B": 2, "128B": 3}
_SPANS = {0: 0, 1: 32, 2: 64, 3: 128}


@dataclass(frozen=True)
class TensorMap:
    """A tensor in array `array` of the run, and the box of it that one copy moves. The innermost dimension is first.

    `sizes` and `box` are in elements, `strides` in bytes, of all dimensions but the innermost; `steps` are the element
    strides. `fill_nan`: what lies outside of the tensor is NaN rather than 0. Raises ValueError for what the driver
    would refuse.
    """

    array: int
    dtype: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: str | None = None
    steps: tuple[int, ...] | None = None
    offset: int = 0
    fill_nan: bool = False

    def __post_init__(self) -> None:
        for holds, message in self._requirements():
            if not holds:
                raise ValueError(f"no such tensor map: {message}: {self}")

    def _requirements(self) -> list[tuple[bool, str]]:
        rank, size = len(self.sizes), _BYTES.get(self.dtype, 0)
        inner = self.box[0] * size if self.box else 0
        span = _SPANS[_SWIZZLES.get(self.swizzle, 0)]
        return [
            (self.dtype in _KINDS, "unknown dtype"),
            (self.swizzle in _SWIZZLES, "unknown swizzle"),
            (1 <= rank <= 5, "1 to 5 dimensions"),
            (len(self.box) == rank and len(self.strides) == rank - 1, "one box size per dimension, one stride less"),
            (all(1 <= b <= 256 for b in self.box), "box sizes of 1 to 256"),
            (all(0 < s < 1 << 32 for s in self.sizes), "sizes of 1 to 2^32 - 1"),
            (all(s % 16 == 0 and 0 <= s < 1 << 40 for s in self.strides), "strides that are multiples of 16 bytes"),
            (inner % 16 == 0, "a box whose rows are multiples of 16 bytes"),
            (self.offset % 16 == 0, "an address that is a multiple of 16"),
            (not span or inner <= span, f"a box whose rows have at most the swizzle's {span} bytes"),
            (not span or inner == span, f"(known here:) rows of exactly the swizzle's {span} bytes"),
            (all(1 <= s <= 8 for s in self.steps or ()), "element strides of 1 to 8"),
        ]

    def job_text(self) -> str:
        """Its line of a job: buffer, offset, rank, element bytes, kind, swizzle, fill, sizes, strides, box, steps."""
        head = [self.array, self.offset, len(self.sizes), _BYTES[self.dtype], _KINDS[self.dtype]]
        head += [_SWIZZLES[self.swizzle], int(self.fill_nan)]
        steps = self.steps or (1,) * len(self.sizes)
        return " ".join(map(str, [*head, *self.sizes, *self.strides, *self.box, *steps]))
