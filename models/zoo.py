"""The model zoo: every model by name. Nothing is downloaded or built before `ZooModel.path` is called."""

from __future__ import annotations

from difflib import get_close_matches

from ..compiler.errors import UsageError
from . import light_cnn, magika, minilm, mnist, ppocr, silero, speechmos, swift_f0
from .zoo_model import ZooModel

# Those that speed is judged by, that records and the cost model come from, and that every target is tried on; and those
# that show what else is understood: recurrent networks, branches, spectra, weights of 8 bits.
_FIRST = (*light_cnn.MODELS, magika.MODEL, *ppocr.MODELS, minilm.MODEL, mnist.MODEL)
_MORE = (*silero.MODELS, *speechmos.MODELS, swift_f0.MODEL, minilm.INT8_MODEL)
_MODELS = {m.name: m for m in (*_FIRST, *_MORE)}


def names() -> list[str]:
    """The names of the first group's models, as they follow `zoo:`."""
    return [m.name for m in _FIRST]


def more_names() -> list[str]:
    """The names of the second group's models."""
    return [m.name for m in _MORE]


def all_names() -> list[str]:
    """The names of all models."""
    return list(_MODELS)


def find(name: str) -> ZooModel:
    """The model called `name` (with or without `zoo:`); UsageError names the nearest ones if there is none."""
    key = name.removeprefix("zoo:")
    if key in _MODELS:
        return _MODELS[key]
    near = get_close_matches(key, _MODELS, n=3) or list(_MODELS)
    raise UsageError(f"unknown zoo model {key!r}: expected one of {', '.join(near)}.", "kompilo zoo list names all.")
