"""Random inputs that a model can digest: token ids inside the vocabulary, masks that leave something to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..tensor_spec import TensorSpec

if TYPE_CHECKING:
    import onnx

# Without a model to read bounds from, 0 and 1 are the only integers that index every table of two rows or more.
_SAFE_BOUND = 2
# Dynamic dimensions in the absence of better knowledge: one item, of 64 tokens or 64x64 pixels (a multiple of 32, which
# networks that halve the resolution five times need).
DEFAULT_BATCH = 1
DEFAULT_EXTENT = 64

# Operators that hand on their first input's values, so that a bound on their output is a bound on that input.
_CARRIERS = {
    "Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Slice", "Split", "Tile",
    "Concat", "Gather", "Dropout",
}  # fmt: skip


def assume_sizes(specs: Sequence[TensorSpec]) -> tuple[list[TensorSpec], dict[str, int]]:
    """`specs` without dynamic dimensions, and the sizes assumed: 1 for a name in first place of some input, else 64."""
    sizes: dict[str, int] = {}
    for spec in specs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and (axis == 0 or dim not in sizes):
                sizes[dim] = DEFAULT_BATCH if axis == 0 else DEFAULT_EXTENT
    fixed = [TensorSpec(s.name, tuple(sizes[d] if isinstance(d, str) else d for d in s.shape), s.dtype) for s in specs]
    return fixed, sizes


def draw_inputs(
    specs: Sequence[TensorSpec], seed: int, bounds: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """One random array for each of `specs`, whose shapes must be fixed.

    Floats are standard normal; integers lie in [0, bound) with the bound from `bounds` (see `integer_bounds`), else 0
    or 1; an input with "mask" in its name has ones up to a random length and zeros behind it, as padding masks have.
    Raises InputError for dtypes that cannot be drawn.
    """
    rng = np.random.default_rng(seed)
    return {spec.name: draw(spec, rng, (bounds or {}).get(spec.name)) for spec in specs}


def draw(spec: TensorSpec, rng: np.random.Generator, bound: int | None = None) -> np.ndarray:
    """A random array for `spec`; see `draw_inputs`."""
    shape = tuple(int(d) for d in spec.shape)
    dtype = _numpy_dtype(spec)
    if dtype.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    if dtype.kind not in "iub":
        return rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    if "mask" in spec.name.lower() and shape:
        lengths = rng.integers(1, shape[-1] + 1, size=(*shape[:-1], 1)) if shape[-1] else np.zeros((*shape[:-1], 1))
        return (np.arange(shape[-1]) < lengths).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, size=shape).astype(dtype)
    if bound is None and dtype.itemsize == 1:
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max + 1, size=shape).astype(dtype)
    return rng.integers(0, max(1, bound or _SAFE_BOUND), size=shape).astype(dtype)


def integer_bounds(model: onnx.ModelProto) -> dict[str, int]:
    """For each integer input that indexes a constant table (or is one-hot encoded), the least number of rows it meets.

    The walk follows the input through operators that only move or cast values, in the main graph.
    """
    graph = model.graph
    constants = {i.name: tuple(i.dims) for i in graph.initializer}
    depths = {i.name: i for i in graph.initializer if not i.dims or tuple(i.dims) == (1,)}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            constants[node.output[0]] = tuple(tensor.dims)
            depths[node.output[0]] = tensor
    origins = {i.name: {i.name} for i in graph.input if i.name not in constants}
    bounds: dict[str, int] = {}
    for node in graph.node:
        limit = _index_limit(node, constants, depths)
        if limit is not None:
            operand, rows = limit
            for name in origins.get(operand, ()):
                bounds[name] = min(rows, bounds.get(name, rows))
        if node.op_type in _CARRIERS:
            sources = node.input if node.op_type == "Concat" else node.input[:1]
            carried = set().union(*(origins.get(s, set()) for s in sources))
            for output in node.output if carried else ():
                origins[output] = carried
    return bounds


def _index_limit(
    node: onnx.NodeProto, constants: Mapping[str, tuple[int, ...]], depths: Mapping[str, onnx.TensorProto]
) -> tuple[str, int] | None:
    """The operand of `node` that is used as an index, and how many values it may take; None if there is none."""
    from onnx import numpy_helper

    if node.op_type in ("Gather", "GatherElements") and node.input[0] in constants:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        dims = constants[node.input[0]]
        return (node.input[1], int(dims[axis])) if dims else None
    if node.op_type == "OneHot" and node.input[1] in depths:
        return node.input[0], int(numpy_helper.to_array(depths[node.input[1]]).reshape(-1)[0])
    return None


def _numpy_dtype(spec: TensorSpec) -> np.dtype:
    try:
        return np.dtype(spec.dtype)
    except TypeError:
        pass
    try:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, spec.dtype))
    except (ImportError, AttributeError):
        raise InputError(f"cannot draw random values for input {spec}.", "give it as a .npy file.") from None
