"""Clusters as TOML files: a table for each device, node and link, with rates in units of one (no prefixes).

entry = "host"                       # optional: where requests arrive and results are wanted

[[device]]
name = "host"                        # flops_per_s, bytes_per_s and memory_bytes must be there, too
...
[[node]]
name = "one"                         # latency_s and bytes_per_s are of the bus between its devices
[[link]]
between = ["one", "two"]             # devices, nodes or sites
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from sys import float_info
from typing import Any

from ..errors import UsageError
from .cluster import Cluster, Device, Link, Node

Table = Mapping[str, Any]

_NUMBER = "a number"
_TEXT = "a text"
_PARTS = "a table of numbers"
_WHOLE = "a whole number"
_PAIR = "two names"

# Field -> (what it must be, whether it must be there).
_DEVICE = {
    "name": (_TEXT, True),
    "kind": (_TEXT, False),
    "node": (_TEXT, False),
    "flops_per_s": (_NUMBER, True),
    "bytes_per_s": (_NUMBER, True),
    "memory_bytes": (_NUMBER, True),
    "watts_idle": (_NUMBER, False),
    "watts_active": (_NUMBER, False),
    "price_per_hour": (_NUMBER, False),
    "overhead_s": (_NUMBER, False),
    "speed": (_PARTS, False),
    "peaks": (_PARTS, False),
    "target": (_TEXT, False),
    "cores": (_WHOLE, False),
}
_NODE = {
    "name": (_TEXT, True),
    "site": (_TEXT, False),
    "latency_s": (_NUMBER, False),
    "bytes_per_s": (_NUMBER, False),
}
_LINK = {"between": (_PAIR, True), "latency_s": (_NUMBER, True), "bytes_per_s": (_NUMBER, True)}
_TOP = {"entry": (_TEXT, False), "device": ("tables", True), "node": ("tables", False), "link": ("tables", False)}


def _is_number(value: object) -> bool:
    """Whether it is finite as a float, which integers need not be."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= float_info.max


_IS = {
    _NUMBER: _is_number,
    _TEXT: lambda v: isinstance(v, str) and bool(v),
    _PARTS: lambda v: isinstance(v, dict) and all(_is_number(x) for x in v.values()),
    _WHOLE: lambda v: isinstance(v, int) and not isinstance(v, bool),
    _PAIR: lambda v: isinstance(v, list) and len(v) == 2 and all(isinstance(x, str) and x for x in v),
    "tables": lambda v: isinstance(v, list) and all(isinstance(x, dict) for x in v),
}


def read_cluster(path: str | os.PathLike[str]) -> Cluster:
    """The cluster that the TOML file `path` describes. UsageError if it cannot be read or makes no sense."""
    name = os.fspath(path)
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(f"cannot read the cluster {name!r}: {reason[0].lower()}{reason[1:]}.") from None
    return parse_cluster(text, name)


def parse_cluster(text: str, name: str = "cluster") -> Cluster:
    """The cluster that the TOML `text`, called `name` in messages, describes; errors as for `read_cluster`."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name}: expected TOML, found an error: {str(error)[:1].lower()}{str(error)[1:]}.") from None
    _check(data, _TOP, name)
    try:
        nodes = tuple(_node(t, f"[[node]] {k + 1}") for k, t in enumerate(data.get("node", [])))
        devices = tuple(_device(t, f"[[device]] {k + 1}") for k, t in enumerate(data["device"]))
        links = tuple(_link(t, f"[[link]] {k + 1}") for k, t in enumerate(data.get("link", [])))
        pairs = [frozenset(pair) for pair, _ in links]
        for pair in pairs:
            if pairs.count(pair) > 1:
                ends = " and ".join(sorted(pair))
                raise UsageError(f"[[link]]: expected one between any two, found several between {ends}.")
        return Cluster(devices, nodes, links, data.get("entry", ""))
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", error.hint) from None


def _check(table: Table, fields: Mapping[str, tuple[str, bool]], where: str) -> None:
    for key, value in table.items():
        if key not in fields:
            raise UsageError(f"{where}: expected fields among {', '.join(fields)}, found {key!r}.")
        kind = fields[key][0]
        if not _IS[kind](value):
            raise UsageError(f"{where}: expected {key} to be {kind}, found {value!r}.")
    for key, (kind, needed) in fields.items():
        if needed and key not in table:
            raise UsageError(f"{where}: expected {key}, {kind}, found none.")


def _device(table: Table, where: str) -> Device:
    _check(table, _DEVICE, where)
    facts = {key: float(v) if _DEVICE[key][0] == _NUMBER else v for key, v in table.items()}
    for key in ("speed", "peaks"):
        facts[key] = tuple((name, float(v)) for name, v in table.get(key, {}).items())
    return Device(**{"kind": table["name"], **facts})


def _node(table: Table, where: str) -> Node:
    _check(table, _NODE, where)
    rates = [key in table for key in ("latency_s", "bytes_per_s")]
    if any(rates) and not all(rates):
        raise UsageError(f"{where}: expected both latency_s and bytes_per_s, or none, found one.")
    bus = Link(table["name"], float(table["latency_s"]), float(table["bytes_per_s"]), True) if all(rates) else None
    return Node(table["name"], table.get("site", ""), bus)


def _link(table: Table, where: str) -> tuple[tuple[str, str], Link]:
    _check(table, _LINK, where)
    a, b = table["between"]
    return (a, b), Link(f"{a}-{b}", float(table["latency_s"]), float(table["bytes_per_s"]))
