"""Calibration data: what a model is run on to learn the ranges of its values.

A .npz file, or a mapping, has one array for each input of the model: samples stacked along a new leading axis, so that
`array[k]` is what a run takes. All arrays hold equally many.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..tensor_spec import TensorSpec

Samples = list[dict[str, np.ndarray]]
Source = str | os.PathLike[str] | Mapping[str, np.ndarray]
_HINT = "numpy.savez(FILE, {name}=numpy.stack(list of arrays)) writes such a file."


def read_samples(source: Source, specs: Sequence[TensorSpec]) -> Samples:
    """The samples of `source` as inputs of runs, by name.

    Raises InputError in one sentence: a file that is none, an input that is missing or unknown, a wrong dtype or shape,
    no samples, as many as another input has not, or numbers that are not finite.
    """
    arrays = dict(source) if isinstance(source, Mapping) else _read_file(Path(source))
    names = [s.name for s in specs]
    for name in arrays:
        if name not in names:
            raise InputError(f"calibration: the model has no input {name!r}: expected {', '.join(names)}.")
    counts: dict[str, int] = {}
    for spec in specs:
        if spec.name not in arrays:
            hint = _HINT.format(name=spec.name) if spec.name.isidentifier() else None
            raise InputError(
                f"calibration: expected an array for input {spec}, found {', '.join(arrays) or 'none'}.", hint
            )
        counts[spec.name] = _checked(spec, np.asarray(arrays[spec.name]))
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        raise InputError(f"calibration: expected equally many samples of each input, found {found}.")
    return [{s.name: np.asarray(arrays[s.name])[k] for s in specs} for k in range(next(iter(counts.values()), 0))]


def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:
            members = np.load(file, allow_pickle=False)
            if not isinstance(members, np.lib.npyio.NpzFile):
                raise InputError(
                    f"calibration: expected a .npz file of named arrays, found one array in {str(path)!r}."
                )
            return {name: members[name] for name in members.files}
    except FileNotFoundError:
        raise InputError(f"calibration: there is no file {str(path)!r}.") from None
    except MemoryError:
        raise InputError(f"calibration: expected arrays that fit into memory, {str(path)!r} has larger ones.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise InputError(f"calibration: expected a .npz file of arrays, found that {str(path)!r} is none.") from None


def _checked(spec: TensorSpec, array: np.ndarray) -> int:
    """The number of samples in `array`, which fits `spec` behind its first axis."""
    wanted = ", ".join(["samples", *map(str, spec.shape)])
    fits = array.ndim == len(spec.shape) + 1 and all(
        isinstance(d, str) or d == size for d, size in zip(spec.shape, array.shape[1:], strict=True)
    )
    if not fits:
        found = ", ".join(map(str, array.shape))
        hint = "each sample is what one run takes, its batch axis included: shape (100, 1, 3, 224, 224) for 100 images."
        raise InputError(f"calibration: expected shape ({wanted}) for input {spec.name!r}, found ({found}).", hint)
    if str(array.dtype) != spec.dtype:
        raise InputError(f"calibration: expected {spec.dtype} for input {spec.name!r}, found {array.dtype}.")
    if array.size == 0:
        raise InputError(f"calibration: expected samples of input {spec.name!r}, found an empty array.")
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
        raise InputError(f"calibration: expected finite numbers for input {spec.name!r}, found NaN or infinity.")
    return int(array.shape[0])
