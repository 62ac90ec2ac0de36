"""The small languages of the options: NAME:1x3x224x224, NAME=VALUE, DIM=SIZE, 1,2."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError, UsageError
from ..tensor_spec import Dim, TensorSpec, dim_name

if TYPE_CHECKING:
    import numpy as np

_FILLS = ("random", "zeros", "ones")
_VALUE_HINT = "a VALUE is a .npy or .npz file, random, zeros, ones, a number or [1,2,3]."


def parse_shape(text: str) -> tuple[str, tuple[Dim, ...]]:
    """ "NAME:1x3x224x224" or "NAME:Nx3xHxW" (names are dynamic dimensions) or "NAME:batch,3,max_len".

    A comma as separator allows dimension names with an "x" in them; "NAME:" alone is a scalar. Raises UsageError.
    """
    name, colon, dims = text.rpartition(":")
    if not colon or not name:
        raise UsageError(f"expected NAME:SHAPE, found {text!r}.", "for example x:1x3x224x224, or x:Nx3x224x224.")
    parts = dims.split("," if "," in dims else "x") if dims else []
    return name, tuple(_parse_dim(part.strip(), text) for part in parts)


def _parse_dim(part: str, text: str) -> Dim:
    if part.isdecimal():
        return int(part)
    if part.isidentifier():
        return part
    raise UsageError(f"expected dimensions that are sizes or names, found {part!r} in {text!r}.")


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[Dim, ...]]:
    """Several `parse_shape` options as a mapping; UsageError if a name comes twice."""
    shapes: dict[str, tuple[Dim, ...]] = {}
    for text in texts:
        name, shape = parse_shape(text)
        if name in shapes:
            raise UsageError(f"the shape of input {name!r} is given twice.")
        shapes[name] = shape
    return shapes


def a_folder(text: str) -> Path:
    """A folder that an option names. An empty one, of a variable that is not set, is not the current one."""
    if not text:
        raise typer.BadParameter("expected the name of a folder, found nothing.")
    return Path(text)


def parse_threads(text: str) -> list[int]:
    """ "1" or "1,2": positive thread counts, in the order given."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UsageError(f"expected --threads N or N,M with positive numbers, found {text!r}.")
    return counts


def split_shape_options(texts: Iterable[str]) -> tuple[dict[str, tuple[Dim, ...]], dict[str, int]]:
    """The --shape options: whole shapes "NAME:1x3x224x224" and sizes of named dimensions "N=4"."""
    shapes: list[str] = []
    sizes: dict[str, int] = {}
    for text in texts:
        name, equals, size = text.rpartition("=")  # names may have a "=" in them
        if equals and name and size.isdecimal():
            sizes[name] = int(size)
        elif ":" in (size if equals else text):
            shapes.append(text)
        elif equals:
            raise UsageError(f"expected --shape NAME:1x3x224x224 or DIM=SIZE, found {text!r}.")
        else:
            shapes.append(text)
    return parse_shapes(shapes), sizes


def fix_shapes(
    specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[Dim, ...]], sizes: Mapping[str, int]
) -> list[TensorSpec]:
    """`specs` with the dimensions that the --shape options settle replaced by their sizes.

    A whole shape also settles the dimension names it meets, for all inputs. Raises InputError for an unknown input or
    dimension name, a wrong rank, or a size that differs from a fixed one.
    """
    by_name = {s.name: s for s in specs}
    names = {d for s in specs for d in s.shape if isinstance(d, str)}
    known = {_known_dim(name, names): size for name, size in sizes.items()}
    for name, shape in shapes.items():
        spec = by_name.get(name) or _unknown("input", name, by_name)
        if len(shape) != len(spec.shape):
            raise InputError(f"input {name!r} has {len(spec.shape)} dimensions, --shape gives {len(shape)}.")
        for want, have in zip(shape, spec.shape, strict=True):
            if isinstance(have, str) and isinstance(want, int):
                known[have] = want
            elif want != have:
                raise InputError(f"input {spec} has a fixed dimension {have}, --shape gives {want}.")
    return [
        TensorSpec(s.name, tuple(known.get(d, d) if isinstance(d, str) else d for d in s.shape), s.dtype) for s in specs
    ]


def _known_dim(name: str, names: Collection[str]) -> str:
    """The one of `names` that a user means who may spell it as the model does: "n+1" for "n_1"."""
    spelled = dim_name(name)
    if name not in names and spelled not in names:
        _unknown("dimension", name, names)
    return name if name in names else spelled


def _unknown(what: str, name: str, known: Iterable[str]) -> TensorSpec:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else None
    raise InputError(f"the model has no {what} {name!r}: expected one of {', '.join(names) or 'none'}.", hint)


def read_values(texts: Iterable[str], specs: Sequence[TensorSpec]) -> dict[str, np.ndarray | str]:
    """The --input options of verbs that feed a model.

    Each is NAME=FILE.npy, NAME=FILE.npz (its member NAME, or its only one), FILE.npz (all members),
    NAME=random|zeros|ones, NAME=NUMBER, or NAME=[1,2,3] (JSON). Returns an array, or the word of a fill, for each
    input that is mentioned. Raises InputError for unknown names and unreadable files, UsageError for bad syntax.
    """
    by_name = {s.name: s for s in specs}
    values: dict[str, np.ndarray | str] = {}
    for text in texts:
        if "=" not in text and text.endswith(".npz"):
            members = _read_npz(Path(text))
            for name, array in members.items():
                if name not in by_name:
                    _unknown("input", name, by_name)
                values[name] = array
            continue
        name, value = _split_value(text, by_name)
        if not name or not value:
            raise UsageError(
                f"expected --input NAME=VALUE, found {text!r}.",
                _VALUE_HINT,
            )
        spec = by_name.get(name) or _unknown("input", name, by_name)
        values[name] = value if value in _FILLS else _read_value(value, spec)
    return values


def read_fixed_values(texts: Iterable[str]) -> dict[str, Any]:
    """The --value options: NAME=NUMBER, NAME=[1,2,3] (JSON) or NAME=FILE.npy.

    Raises InputError for unreadable files, UsageError for bad syntax or a name that comes twice.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, value = _split_value(text, ())
        if not name or not value:
            raise UsageError(f"expected --value NAME=VALUE, found {text!r}.", "for example sr=16000.")
        if name in values:
            raise UsageError(f"the value of input {name!r} is given twice.")
        try:
            values[name] = _read_npy(Path(value), name) if value.endswith(".npy") else json.loads(value)
        except ValueError:
            raise UsageError(f"expected a number, [1,2,3] or FILE.npy for input {name!r}, found {value!r}.") from None
    return values


def _split_value(text: str, known: Iterable[str]) -> tuple[str, str]:
    """ "NAME=VALUE" in two, at the first "=" unless a known name has one in it; empty where there is none."""
    fitting = [name for name in known if text.startswith(f"{name}=")]
    if fitting:
        name = max(fitting, key=len)
        return name, text[len(name) + 1 :]
    name, _, value = text.partition("=")
    return name, value


def _read_value(value: str, spec: TensorSpec) -> np.ndarray:
    import numpy as np

    path = Path(value)
    if path.suffix == ".npz":
        members = _read_npz(path)
        if spec.name not in members and len(members) != 1:
            raise InputError(f"{value!r} has no array {spec.name!r}: found {', '.join(members)}.")
        return members.get(spec.name, next(iter(members.values())))
    if path.suffix == ".npy":
        return _read_npy(path, spec.name)
    if not spec.is_numeric:
        from .host_view import read_host_value

        return read_host_value(value, spec)
    try:
        parsed = json.loads(value)
        array = np.asarray(parsed, dtype=spec.dtype)
    except (ValueError, TypeError):
        raise InputError(
            f"expected a value of {spec}, found {value!r}.",
            _VALUE_HINT,
        ) from None
    return array if array.ndim or not spec.shape else _filled(spec, array)


def _read_npy(path: Path, name: str) -> np.ndarray:
    import numpy as np

    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"there is no file {str(path)!r} for input {name!r}.") from None
    except (ValueError, EOFError):  # numpy's words are on how to unpickle what one trusts
        raise InputError(f"{str(path)!r} is no readable .npy file of numbers.") from None


def _filled(spec: TensorSpec, value: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.full(fixed_shape(spec), value)


def fixed_shape(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of `spec` as ints; InputError naming --shape if a dimension is dynamic."""
    free = [d for d in spec.shape if isinstance(d, str)]
    if free:
        raise InputError(
            f"the size of dimension {free[0]!r} of input {spec} is not known.",
            f"give the input as a file, or --shape {free[0]}=SIZE.",
        )
    return tuple(int(d) for d in spec.shape)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as members:
            return dict(members)
    except FileNotFoundError:
        raise InputError(f"there is no file {str(path)!r}.") from None
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError):
        raise InputError(f"{str(path)!r} is no readable .npz file of arrays of numbers.") from None


def artifact_values(told: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each input that was fixed at compile time: as the artifact tells it, else as it is `given`.

    Raises UsageError where it is neither, or an input is given that was not fixed.
    """
    import numpy as np

    for name in given:
        if name not in told:
            listed = ", ".join(repr(n) for n in told) or "none"
            raise UsageError(f"--value {name}: expected an input that the artifact has a value of, which are {listed}.")
    for name, value in told.items():
        # Many numbers are told as text, as are those that JSON has no word for.
        if name not in given and np.asarray(value).dtype.kind == "U":
            raise UsageError(
                f"the artifact does not tell the value of input {name!r}, found {value!r}.",
                f"--value {name}=FILE.npy, as it was compiled.",
            )
    return {**told, **given}
