"""The one place that turns what a user calls a model (path, bytes, ModelProto, "zoo:NAME") into something readable."""

from __future__ import annotations

import difflib
import os
import zipfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import onnx

ZOO_PREFIX = "zoo:"


class ZooModel(Protocol):
    """What the model zoo knows about one of its models."""

    name: str
    tolerance: float
    shapes: dict[str, tuple[int, ...]]

    def path(self) -> Path:
        """The ONNX file; downloaded or built on first use, then cached."""

    def sample_inputs(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Inputs the model was made for, by name."""

    def real_inputs(self) -> list[dict[str, np.ndarray]]:
        """Inputs made of real data, if there are any."""


def zoo() -> Any:
    """The module `kompilo.models.zoo`, imported by name: `compiler` does not depend on the models."""
    return import_module("kompilo.models.zoo")


def find_zoo_model(model: object) -> ZooModel | None:
    """The zoo entry that "zoo:NAME" means, or None for anything else; UsageError lists close names if it is unknown."""
    if not isinstance(model, str) or not model.startswith(ZOO_PREFIX):
        return None
    return zoo().find(model)


def resolve(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> Path | bytes | onnx.ModelProto:
    """The readable form of `model`: an existing path, or the bytes or ModelProto as given.

    Raises UsageError for an unknown zoo name, ModelError if the path is no file.
    """
    entry = find_zoo_model(model)
    if entry is not None:
        return Path(entry.path())
    if not isinstance(model, (str, os.PathLike)):
        return model
    if not os.fspath(model):
        raise ModelError("expected an ONNX file, found an empty name.")
    path = Path(os.fsdecode(model))
    if not path.exists():
        raise ModelError(f"there is no model file {str(path)!r}.", _path_hint(path))
    if not path.is_file():
        found = "a directory" if path.is_dir() else "not a regular file"
        raise ModelError(f"expected an ONNX file, found that {str(path)!r} is {found}.")
    return path


def stem(model: str | Path) -> str:
    """The name that files made from `model` take: its file name without suffix, or its zoo name."""
    text = str(model)
    return text.removeprefix(ZOO_PREFIX) if text.startswith(ZOO_PREFIX) else Path(text).stem


def is_artifact(path: str | Path) -> bool:
    """Whether `path` names a compiled artifact: by its suffix, or because it is a zip file."""
    if str(path).startswith(ZOO_PREFIX):
        return False
    return Path(path).suffix == ".kpo" or (Path(path).is_file() and zipfile.is_zipfile(path))


def _path_hint(path: Path) -> str | None:
    """A file of nearly the same name in the same directory, or the zoo's spelling."""
    if path.name in zoo().all_names():
        return f"the zoo has it: write zoo:{path.name}."
    if not path.parent.is_dir():
        return f"the directory {str(path.parent)!r} does not exist."
    names = [p.name for p in path.parent.iterdir() if p.suffix in (".onnx", ".kpo")]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {str(path.parent / close[0])!r}?" if close else None
