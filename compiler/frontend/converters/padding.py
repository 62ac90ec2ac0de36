"""The arithmetic of sliding windows that convolutions and poolings share: padding, auto_pad and output sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tvm import ir, relax, sym, te, tirx

from ..values import Dim, static_dim

if TYPE_CHECKING:
    from ..node import Node

_AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


def tidy(size: Dim) -> Dim:
    """The size simplified; a Python int where it is fixed."""
    return size if isinstance(size, int) else static_dim(sym.Analyzer().simplify(size))


def ceil_div(size: Dim, by: int) -> Dim:
    return (size + (by - 1)) // by


def at_least(size: Dim, least: int) -> Dim:
    return max(size, least) if isinstance(size, int) else tirx.max(size, tirx.const(least, "int64"))


def all_fixed(sizes: Sequence[Dim]) -> bool:
    return all(isinstance(s, int) for s in sizes)


@dataclass(frozen=True)
class Window:
    """A window sliding over the spatial axes of a tensor; one entry for each axis.

    Attributes:
        kernel, strides, dilations: elements of the window, its step, and the step between its elements.
        size: extent of the input; int or symbolic.
        begin, end: padding; symbolic only for SAME padding of a symbolic size with a stride above 1.
        out: number of window positions.
        ceil_mode: whether a last, incomplete window is kept.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    size: tuple[Dim, ...]
    begin: tuple[Dim, ...]
    end: tuple[Dim, ...]
    out: tuple[Dim, ...]
    ceil_mode: bool = False

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @property
    def extent(self) -> tuple[int, ...]:
        """Input elements from the window's first to its last, inclusive."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def fixed_padding(self) -> bool:
        return all_fixed(self.begin + self.end)

    @property
    def padding(self) -> list[Dim]:
        """Begins, then ends: the order of ONNX and of Relax."""
        return [*self.begin, *self.end]

    @property
    def is_padded(self) -> bool:
        return any(not isinstance(p, int) or p != 0 for p in self.padding)

    def end_reaching_last(self) -> tuple[Dim, ...] | None:
        """End padding with which rounding down gives exactly `out` positions (so that ceil_mode can be dropped); None
        where that would depend on a symbolic size."""
        ends = []
        for out, stride, extent, size, begin, end in zip(
            self.out, self.strides, self.extent, self.size, self.begin, self.end, strict=True
        ):
            if all_fixed((out, size, begin, end)):
                ends.append(max(end, (out - 1) * stride + extent - size - begin))
                continue
            surplus = end + stride - 1 if self.ceil_mode else end
            if not isinstance(surplus, int) or (self.ceil_mode and surplus >= extent):
                return None
            ends.append(surplus)
        return tuple(ends)

    def with_end(self, end: tuple[Dim, ...]) -> Window:
        return replace(self, end=end)


def spatial_list(node: Node, name: str, rank: int, default: int) -> tuple[int, ...]:
    """A per-axis attribute such as `strides`; all `default` where it is absent."""
    values = node.attr(name) or [default] * rank
    if len(values) != rank:
        raise node.error(f"attribute {name!r} needs {rank} values, found {len(values)}")
    if min(values) < default:
        raise node.error(f"attribute {name!r} needs values of at least {default}, found {list(values)}")
    return tuple(values)


def auto_pad_mode(node: Node) -> str:
    mode = node.attr("auto_pad", "NOTSET") or "NOTSET"
    if mode not in _AUTO_PADS:
        raise node.error(f"attribute 'auto_pad' must be one of {', '.join(_AUTO_PADS)}, found {mode!r}")
    return mode


def split_same(total: Dim, mode: str) -> tuple[Dim, Dim]:
    """Distribute padding; the odd element goes to the end for SAME_UPPER, to the beginning otherwise."""
    small = total // 2
    return (small, total - small) if mode == "SAME_UPPER" else (total - small, small)


def read_window(node: Node, kernel: Sequence[int], spatial: Sequence[Dim], ceil_mode: bool = False) -> Window:
    """The window that a node's attributes describe, over axes of extents `spatial`.

    Raises:
        ModelError: an attribute has the wrong length or sign, or the window is larger than the padded input.
    """
    rank = len(spatial)
    if len(kernel) != rank or not all_fixed(kernel):
        raise node.error(f"the kernel needs {rank} fixed sizes, found {list(kernel)}")
    if min(kernel) < 1:
        raise node.error(f"kernel sizes must be positive, found {list(kernel)}")
    strides = spatial_list(node, "strides", rank, 1)
    dilations = spatial_list(node, "dilations", rank, 1)
    mode = auto_pad_mode(node)
    pads = node.attr("pads") if mode == "NOTSET" else None
    pads = list(pads or [0] * (2 * rank))
    if len(pads) != 2 * rank or min(pads) < 0:
        raise node.error(f"attribute 'pads' needs {2 * rank} values of at least 0, found {pads}")
    begin, end, out = [], [], []
    for i, size in enumerate(spatial):
        extent = (kernel[i] - 1) * dilations[i] + 1
        if mode.startswith("SAME"):
            first, last, count = _same_axis(size, extent, strides[i], mode)
        else:
            first, last = pads[i], pads[rank + i]
            if isinstance(size, int) and size + first + last < extent:
                raise node.error(
                    f"the window spans {extent} elements of spatial axis {i}, found {size} with padding {first}+{last}"
                )
            count = _positions(size, first, last, extent, strides[i], ceil_mode)
        begin.append(first)
        end.append(last)
        out.append(count)
    return Window(tuple(kernel), strides, dilations, tuple(spatial), tuple(begin), tuple(end), tuple(out), ceil_mode)


def _same_axis(size: Dim, extent: int, stride: int, mode: str) -> tuple[Dim, Dim, Dim]:
    """Padding and positions such that the output has ceil(size / stride) elements."""
    out = ceil_div(size, stride)
    total = extent - 1 if stride == 1 else at_least((out - 1) * stride + extent - size, 0)
    begin, end = split_same(total, mode)
    return tidy(begin), tidy(end), tidy(out)


def _positions(size: Dim, begin: int, end: int, extent: int, stride: int, ceil_mode: bool) -> Dim:
    """Window positions. With ceil_mode a last window that would start in the padding behind the input is dropped."""
    span = size + begin + end - extent
    if not ceil_mode:
        return tidy(span // stride + 1)
    out = ceil_div(span, stride) + 1
    if end + stride - 1 < extent:  # the last window cannot start behind the input
        return tidy(out)
    outside = (out - 1) * stride >= size + begin
    if isinstance(outside, bool):
        return out - outside
    return tidy(out - tirx.Select(outside, tirx.const(1, "int64"), tirx.const(0, "int64")))


def pad_spatial(
    node: Node, data: relax.Expr, window: Window, filling: relax.Expr | None = None
) -> tuple[relax.Expr, Window]:
    """Pad `data` (N, C, spatial...) by the padding of `window`, with zeros or with `filling`, a tensor of one element.

    Returns:
        The padded tensor, whose extents are exactly what the window positions cover, and the window without padding.
    """
    covered = [
        tidy((out - 1) * stride + extent)
        for out, stride, extent in zip(window.out, window.strides, window.extent, strict=True)
    ]

    def pad(x: te.Tensor, begin: list[Dim], covered: list[Dim], *filling: te.Tensor) -> te.Tensor:
        outside = filling[0](*(0 for _ in filling[0].shape)) if filling else tirx.const(0, x.dtype)

        def element(n: tirx.Var, c: tirx.Var, *at: tirx.Var) -> ir.Expr:
            source = [i - b for i, b in zip(at, begin, strict=True)]
            inside = [tirx.all(s >= 0, s < x.shape[2 + i]) for i, s in enumerate(source)]
            return tirx.if_then_else(tirx.all(*inside), x(n, c, *source), outside)

        return te.compute((x.shape[0], x.shape[1], *covered), element, name="pad_same")

    fillings = [filling] if filling is not None else []
    padded = node.te(pad, data, list(window.begin), covered, *fillings, name="pad_same")
    zeros = (0,) * window.rank
    return padded, replace(window, size=tuple(covered), begin=zeros, end=zeros)
