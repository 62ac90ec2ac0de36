"""The model zoo: every model by name. Nothing is downloaded or built before `ZooModel.path` is called."""

from __future__ import annotations

from difflib import get_close_matches

from ..compiler.errors import UsageError
from . import light_cnn, magika, minilm, mnist, ppocr
from .zoo_model import ZooModel

_MODELS = {m.name: m for m in (*light_cnn.MODELS, magika.MODEL, *ppocr.MODELS, minilm.MODEL, mnist.MODEL)}


def names() -> list[str]:
    """The names of all models, as they follow `zoo:`."""
    return list(_MODELS)


def find(name: str) -> ZooModel:
    """The model called `name` (with or without `zoo:`); UsageError names the nearest ones if there is none."""
    key = name.removeprefix("zoo:")
    if key in _MODELS:
        return _MODELS[key]
    near = get_close_matches(key, _MODELS, n=3) or list(_MODELS)
    raise UsageError(f"unknown zoo model {key!r}: expected one of {', '.join(near)}.", "kompilo zoo list names all.")
