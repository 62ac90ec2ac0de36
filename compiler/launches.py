"""A compiled kernel with all that is needed to run it without TVM: code objects and the launches in their order.

Standard library only: measuring bundles carry this file to machines without Kompilo.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

Extent = tuple[int, int, int]


@dataclass(frozen=True)
class Place:
    """The address of array number `array`, `offset` bytes behind its start."""

    array: int
    offset: int = 0


@dataclass(frozen=True)
class Number:
    """A number that a kernel takes by value, of a dtype such as "int32"."""

    dtype: str
    value: int | float


@dataclass(frozen=True)
class Tiles:
    """A descriptor of tiles for the copy engine, the arguments of cuTensorMapEncodeTiled in its order.

    `sizes`, `box` and `steps` are in elements, innermost first; `strides` in bytes, without the innermost.
    """

    dtype: str
    place: Place
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    steps: tuple[int, ...]
    interleave: int
    swizzle: int
    promotion: int
    fill: int


Argument = Place | Number | Tiles


@dataclass(frozen=True)
class Launch:
    """One launch: extents are x, y, z, of the grid in blocks, the block in threads, the cluster in blocks."""

    kernel: str
    grid: Extent
    block: Extent
    cluster: Extent
    shared_bytes: int
    arguments: tuple[Argument, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        arguments = [{"is": type(a).__name__, **asdict(a)} for a in self.arguments]
        return {**asdict(self), "arguments": arguments}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Launch:
        """The inverse of `to_json`."""
        grid, block, cluster = (_extent(data[name]) for name in ("grid", "block", "cluster"))
        arguments = tuple(_argument(a) for a in data["arguments"])
        return cls(str(data["kernel"]), grid, block, cluster, int(data["shared_bytes"]), arguments)


def _extent(values: list[int]) -> Extent:
    x, y, z = map(int, values)
    return x, y, z


def _argument(data: dict[str, Any]) -> Argument:
    kind = data["is"]
    values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in data.items() if n != "is"}
    if kind == "Place":
        return Place(**values)
    if kind == "Number":
        return Number(**values)
    return Tiles(**{**values, "place": Place(**data["place"])})


@dataclass(frozen=True)
class DeviceProgram:
    """An operator's code object, its launches, and the bytes of buffers between its kernels.

    Arrays are numbered: the function's parameters in order, then the `scratch` buffers.
    """

    format: str
    arch: str
    code: bytes
    launches: tuple[Launch, ...]
    scratch: tuple[int, ...] = ()
