"""Strict JSON for frozen dataclasses: what a field's type says is what a file must hold."""

from __future__ import annotations

import json
import types
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import isfinite
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..errors import ArtifactError

_MAX_DEPTH = 64


def encode(value: Any) -> Any:
    """A dataclass, tuple, list, dict or scalar as plain JSON values that UTF-8 can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {_text(key): encode(item) for key, item in value.items()}
    if isinstance(value, float) and not isfinite(value):
        return str(value)  # JSON has no word for them
    if value is None or isinstance(value, bool | int | float):
        return value
    return _text(value)


def _text(value: Any) -> str:
    """`value` as text; the bytes of a file name that is no UTF-8, which Python has as surrogates, are escaped."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def parse(text: bytes) -> Any:
    """JSON values of `text`; refuses what is not UTF-8 JSON, repeated keys, and NaN or infinity."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"manifest.json is not valid JSON: {error}.") from None
    _limit_depth(value, 0)
    return value


def decode(kind: Any, value: Any, where: str) -> Any:
    """`value` as an instance of the type `kind`.

    `kind` is a dataclass, int, float, str, bool, None, Any, `tuple[T, ...]`, `dict[str, T]` or a union of these.
    Unknown keys of a dataclass are ignored, so that later versions can add fields; a missing key takes its default.

    Raises:
        ArtifactError: a value of another type, or a missing key without a default; `where` names the place.
    """
    if kind is Any:
        return value
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(kind, value, where)
    if origin is tuple and isinstance(value, list):
        item = get_args(kind)[0]
        return tuple(decode(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        item = get_args(kind)[1]
        return {k: decode(item, v, f"{where}.{k}") for k, v in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return _decode_dataclass(kind, value, where)
    if origin is None and not is_dataclass(kind) and _is_scalar(kind, value):
        return value
    raise ArtifactError(f"{where}: expected {_describe(kind)}, found {_shorten(value)}.")


def _decode_union(kind: Any, value: Any, where: str) -> Any:
    for option in get_args(kind):
        try:
            return decode(option, value, where)
        except ArtifactError:
            continue
    raise ArtifactError(f"{where}: expected {_describe(kind)}, found {_shorten(value)}.")


def _decode_dataclass(kind: Any, value: dict[str, Any], where: str) -> Any:
    hints = _hints(kind)
    arguments = {}
    for field in fields(kind):
        if field.name in value:
            arguments[field.name] = decode(hints[field.name], value[field.name], f"{where}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ArtifactError(f"{where}: the key {field.name!r} is missing.")
    return kind(**arguments)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _is_scalar(kind: Any, value: Any) -> bool:
    if kind is None or kind is type(None):
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind  # bool is an int to isinstance, not to us


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is repeated")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _limit_depth(value: Any, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ArtifactError(f"manifest.json is nested deeper than {_MAX_DEPTH} levels.")
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        _limit_depth(child, depth + 1)


def _describe(kind: Any) -> str:
    if kind is None or kind is type(None):
        return "null"
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in get_args(kind))
    if origin is tuple:
        return "a list"
    if origin is dict or is_dataclass(kind):
        return "an object"
    return {int: "an integer", str: "a string", float: "a number", bool: "true or false"}.get(kind, str(kind))


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
