"""What a kernel's host function does, found by walking it: the launches with all sizes and arguments as numbers.

Candidates are measured by these lists rather than by TVM's host code, so that a machine with a GPU needs neither TVM
nor a compiler. Sizes must be known: an open one has no number to walk with.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import tvm
from tvm import tirx

from ...compiler.device_code import Kernel
from ...compiler.errors import KompiloError
from ...compiler.launches import Argument, Extent, Launch, Number, Place, Tiles
from .host_arithmetic import BINARY, CALLS, EXTENTS

_SHARED = "tirx.use_dyn_shared_memory"
_ENCODE = "runtime.cuTensorMapEncodeTiled"


def host_capture() -> Any:
    """An instrument of passes: `functions` are the host functions by name, as they are right behind their split."""

    @tvm.ir.instrument.pass_instrument
    class Capture:
        def __init__(self) -> None:
            self.functions: dict[str, tirx.PrimFunc] = {}

        def run_after_pass(self, mod: tvm.IRModule, info: Any) -> None:
            if info.name == "tirx.SplitHostDevice":
                self.functions = {g.name_hint: f for g, f in mod.functions_items()}

    return Capture()


class _Slot:
    """A tensor map on the host's stack: empty until the host encodes it."""

    tiles: Tiles | None = None


class HostWalk:
    """Walks a host function of known sizes; `launches` and the bytes of `scratch` buffers are what it does.

    Raises KompiloError where the function does anything that is not known here.
    """

    def __init__(self, host: tirx.PrimFunc, kernels: dict[str, Kernel]) -> None:
        self.launches: list[Launch] = []
        self.scratch: list[int] = []
        self._kernels = kernels
        self._values: dict[Any, Any] = {param: Place(k) for k, param in enumerate(host.params)}
        for param in host.params:
            if isinstance(getattr(param.ty, "elem_offset", None), tirx.Var):
                self._values[param.ty.elem_offset] = 0  # arrays begin at their first element
        self._arrays = len(host.params)
        self._walk(host.body)

    def _walk(self, stmt: Any) -> None:
        kind = type(stmt).__name__
        if kind not in _STATEMENTS:
            raise KompiloError(f"measuring on a GPU: a host function with a {kind} is not known.")
        _STATEMENTS[kind](self, stmt)

    def _evaluate(self, expr: Any) -> Any:
        """The value of an expression: a number, a Place, a slot, or a string."""
        kind = type(expr).__name__
        if kind in ("IntImm", "FloatImm", "StringImm"):
            return expr.value
        if kind in BINARY:
            return BINARY[kind](self._evaluate(expr.a), self._evaluate(expr.b))
        if kind == "Var" and expr in self._values:
            return self._values[expr]
        if kind == "Cast":
            value = self._evaluate(expr.value)
            return int(value) if "int" in str(expr.ty.dtype) else float(value)
        if kind == "Select":
            return self._evaluate(expr.true_value if self._evaluate(expr.condition) else expr.false_value)
        if kind == "Not":
            return not self._evaluate(expr.a)
        if kind == "Call":
            return self._call(expr)
        raise KompiloError(f"measuring on a GPU: the value of {expr} is not known before the run.")

    def _call(self, call: Any) -> Any:
        name = str(call.op.name)
        if name == "tirx.tvm_stack_alloca":
            return _Slot()
        if name in CALLS:
            return CALLS[name](*map(self._evaluate, call.args))
        if name == "tirx.call_ffi_kernel":
            return self._launch(call)
        if name == "tirx.tvm_call_packed" and self._evaluate(call.args[0]) == _ENCODE:
            slot, *rest = map(self._evaluate, call.args[1:])
            slot.tiles = _tiles(*rest)
            return 0
        raise KompiloError(f"measuring on a GPU: a host function that calls {name} is not known.")

    def _launch(self, call: Any) -> int:
        tags = [str(tag) for tag in call.attrs.launch_params]
        kernel, *values = map(self._evaluate, call.args)
        arguments, extents = values[: len(values) - len(tags)], values[len(values) - len(tags) :]
        sizes = {kind: [1, 1, 1] for kind in ("block", "thread", "cluster")}
        shared = 0
        for tag, extent in zip(tags, extents, strict=True):
            if tag in EXTENTS:
                kind, axis = EXTENTS[tag]
                sizes[kind][axis] = int(extent)
            elif tag == _SHARED:
                shared = int(extent)
            else:
                raise KompiloError(f"measuring on a GPU: the launch parameter {tag} is not known.")
        dtypes = self._kernels[str(kernel)].arguments
        typed = tuple(_argument(value, dtype) for value, dtype in zip(arguments, dtypes, strict=True))
        grid, block, cluster = (_extent(sizes[kind]) for kind in ("block", "thread", "cluster"))
        self.launches.append(Launch(str(kernel), grid, block, cluster, shared, typed))
        return 0

    def _bind(self, stmt: Any) -> None:
        self._values[stmt.var] = self._evaluate(stmt.value)

    def _declare(self, stmt: Any) -> None:
        self._values[stmt.buffer] = self._evaluate(stmt.data)

    def _allocate(self, stmt: Any) -> None:
        size = math.prod(self._evaluate(extent) for extent in stmt.buffer.shape)
        self._values[stmt.buffer] = Place(self._arrays + len(self.scratch))
        self.scratch.append(size * -(-tvm.DataType(str(stmt.buffer.dtype)).bits // 8))

    def _loop(self, stmt: Any) -> None:
        start = self._evaluate(stmt.min)
        for i in range(start, start + self._evaluate(stmt.extent)):
            self._values[stmt.loop_var] = i
            self._walk(stmt.body)

    def _branch(self, stmt: Any) -> None:
        if self._evaluate(stmt.condition):
            self._walk(stmt.then_case)
        elif stmt.else_case is not None:
            self._walk(stmt.else_case)

    def _all(self, stmt: Any) -> None:
        for part in stmt.seq:
            self._walk(part)


_STATEMENTS: dict[str, Callable[[HostWalk, Any], Any]] = {
    "SeqStmt": HostWalk._all,
    "Evaluate": lambda walk, stmt: walk._evaluate(stmt.value),
    "AttrStmt": lambda walk, stmt: walk._walk(stmt.body),
    "Bind": HostWalk._bind,
    "DeclBuffer": HostWalk._declare,
    "AllocBuffer": HostWalk._allocate,
    "For": HostWalk._loop,
    "IfThenElse": HostWalk._branch,
}


def _extent(sizes: list[int]) -> Extent:
    x, y, z = sizes
    return x, y, z


def _argument(value: Any, dtype: str) -> Argument:
    if isinstance(value, Place):
        return value
    if isinstance(value, _Slot):
        if value.tiles is None:
            raise KompiloError("measuring on a GPU: a kernel takes a descriptor of tiles that the host has not made.")
        return value.tiles
    return Number(dtype, value)


def _tiles(dtype: Any, rank: int, place: Place, *numbers: int) -> Tiles:
    """From the arguments of the packed function: sizes, strides, box, steps, then four flags."""
    ends = (0, rank, 2 * rank - 1, 3 * rank - 1, 4 * rank - 1)
    sizes, strides, box, steps = (tuple(map(int, numbers[a:b])) for a, b in itertools.pairwise(ends))
    interleave, swizzle, promotion, fill = map(int, numbers[ends[-1] :])
    return Tiles(str(dtype), place, sizes, strides, box, steps, interleave, swizzle, promotion, fill)
