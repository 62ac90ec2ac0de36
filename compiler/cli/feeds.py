"""The arrays a verb feeds to a model: as the options say, else the zoo's samples, else random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..model_source import find_zoo_model
from ..tensor_spec import Dim, TensorSpec
from .arguments import fix_shapes, fixed_shape, read_values, split_shape_options
from .host_view import nothing_to_draw

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Feeds:
    """Input arrays by name, sizes assumed for dynamic dimensions, and whether anything was drawn at random."""

    arrays: dict[str, np.ndarray]
    assumed: dict[str, int]
    random: bool

    @property
    def remark(self) -> str | None:
        """What to tell the user about assumed sizes."""
        if not self.assumed:
            return None
        sizes = ", ".join(f"{d}={n}" for d, n in self.assumed.items())
        return f"assumed {sizes} for dynamic dimensions; --shape DIM=SIZE sets others"


def make_feeds(
    specs: Sequence[TensorSpec],
    values: Sequence[str] = (),
    shapes: Sequence[str] = (),
    seed: int = 0,
    bounds: Mapping[str, int] | None = None,
    assume: bool = False,
) -> Feeds:
    """An array for every input: as the --input options `values` say, else random.

    Sizes of dynamic dimensions come from --shape options, then from arrays given; `assume` invents the rest, else
    InputError. `bounds` are those of `sampling.integer_bounds`.
    """
    import numpy as np

    from ..peers.sampling import assume_sizes

    whole, sizes = split_shape_options(shapes)
    specs = fix_shapes(specs, whole, sizes)
    given = read_values(values, specs)
    specs = fix_shapes(specs, {}, _sizes_of(given, specs))
    assumed: dict[str, int] = {}
    if assume:
        numeric, assumed = assume_sizes([s for s in specs if s.is_numeric])
        fixed = {s.name: s for s in numeric}
        specs = [fixed.get(s.name, s) for s in specs]
    rng = np.random.default_rng(seed)
    values_of = {s.name: given.get(s.name, "random") for s in specs}
    arrays = {s.name: _array(s, values_of[s.name], rng, (bounds or {}).get(s.name)) for s in specs}
    return Feeds(arrays, assumed, any(isinstance(value, str) for value in values_of.values()))


def _array(spec: TensorSpec, value: np.ndarray | str, rng: np.random.Generator, bound: int | None) -> np.ndarray:
    """`value`, or what the word of a fill means for the shape of `spec`."""
    import numpy as np

    from ..peers.sampling import draw

    if not isinstance(value, str):
        return value
    if not spec.is_numeric:
        raise nothing_to_draw(spec)
    shape = fixed_shape(spec)
    try:
        if value == "random":
            return draw(TensorSpec(spec.name, shape, spec.dtype), rng, bound)
        return np.full(shape, 1 if value == "ones" else 0, dtype=spec.dtype)
    except (MemoryError, ValueError):  # numpy's words for too large a size, and for one that no machine could hold
        raise InputError(f"input {spec}: there is not enough memory for the shape {list(shape)}.") from None


def sample_feeds(
    model: str | None,
    source: Path | None,
    specs: Sequence[TensorSpec],
    values: Sequence[str] = (),
    shapes: Sequence[str] = (),
    seed: int = 0,
) -> Feeds:
    """Like `make_feeds` with assumed sizes, but the zoo's own samples where nothing is asked for and they fit.

    `model` is what the user called the model and `source` its ONNX file, from which bounds of integers are read.
    """
    entry = find_zoo_model(model)
    if entry is not None and not values and not shapes:
        samples = entry.sample_inputs(seed)
        if fits(samples, specs):
            return Feeds({s.name: samples[s.name] for s in specs}, {}, True)
    return make_feeds(specs, values, shapes, seed, _bounds(source, specs), assume=True)


def _bounds(source: Path | None, specs: Sequence[TensorSpec]) -> dict[str, int]:
    if source is None or all(s.dtype.startswith("float") for s in specs):
        return {}
    from ..peers.fixed_model import load_model
    from ..peers.sampling import integer_bounds

    return integer_bounds(load_model(source, external_data=False))


def _sizes_of(given: Mapping[str, np.ndarray | str], specs: Sequence[TensorSpec]) -> dict[str, int]:
    """Sizes of the dynamic dimensions that the given arrays settle."""
    sizes: dict[str, int] = {}
    for spec in specs:
        array = given.get(spec.name)
        if not isinstance(array, str | list | None) and array.ndim == len(spec.shape):
            sizes |= {d: n for d, n in zip(spec.shape, array.shape, strict=True) if isinstance(d, str)}
    return sizes


def fits(arrays: Mapping[str, np.ndarray], specs: Sequence[TensorSpec]) -> bool:
    """Whether there is an array of the right shape for every one of `specs`."""

    def same(shape: Sequence[int], dims: Sequence[Dim]) -> bool:
        return len(shape) == len(dims) and all(isinstance(d, str) or n == d for n, d in zip(shape, dims, strict=True))

    return all(s.name in arrays and same(arrays[s.name].shape, s.shape) for s in specs)
