"""A described cluster: devices, the machines and sites they stand in, and the links between them.

A link joins two devices, two nodes (machines) or two sites; of several that join two devices the most specific one
counts. It carries one transfer at a time each way; the bus inside a node carries one at a time in all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from math import inf

from ..errors import UsageError
from ..schedule.roofline import Level, Roofline

# Of devices whose description does not say which part of their peak rates an operator reaches.
DEFAULT_KIND = "default"


@dataclass(frozen=True)
class Device:
    """One device.

    `kind` is what it is called in tables ("a100", "epyc"). `flops_per_s` is its peak on float32, `peaks` that on other
    types; `bytes_per_s` the bandwidth of its memory of `memory_bytes`. `speed` gives the part of the roofline that
    operators of a kind reach (("conv2d", 0.6), ("default", 0.5)); 1 where nothing is said. `overhead_s` is what a call
    of an operator costs beside its work. `watts_idle`, `watts_active` and `price_per_hour` are of the device alone.
    `target` names the target of Kompilo whose records and cost model hold for it; a CPU's times are those of one core,
    divided by `cores`.
    """

    name: str
    kind: str
    flops_per_s: float
    bytes_per_s: float
    memory_bytes: float
    node: str = ""
    watts_idle: float = 0.0
    watts_active: float = 0.0
    price_per_hour: float = 0.0
    overhead_s: float = 0.0
    speed: tuple[tuple[str, float], ...] = ()
    peaks: tuple[tuple[str, float], ...] = ()
    target: str = ""
    cores: int = 1

    def __post_init__(self) -> None:
        where = f"device {self.name!r}"
        if not self.name or not self.kind:
            raise UsageError(f"cluster: expected a name and a kind of each device, found {self.name!r}, {self.kind!r}.")
        for what in ("flops_per_s", "bytes_per_s", "memory_bytes", "cores"):
            _check(getattr(self, what) > 0, where, what, "a number above 0", getattr(self, what))
        for what in ("watts_idle", "watts_active", "price_per_hour", "overhead_s"):
            _check(0 <= getattr(self, what) < inf, where, what, "a number of at least 0", getattr(self, what))
        _check(self.watts_idle <= self.watts_active, where, "watts_active", "at least watts_idle", self.watts_active)
        for kind, part in self.speed:
            _check(0 < part <= 1, where, f"speed.{kind}", "a number above 0 and at most 1", part)
        for dtype, rate in self.peaks:
            _check(0 < rate < inf, where, f"peaks.{dtype}", "a number above 0", rate)

    @cached_property
    def roofline(self) -> Roofline:
        """Peak rates with one level of memory."""
        memory = Level("memory", None, self.bytes_per_s)
        return Roofline(self.flops_per_s, (memory,), self.peaks, measured=False)

    def part_of_roofline(self, kind: str) -> float:
        """The part of the roofline that operators of `kind` reach, above 0 and at most 1."""
        parts = dict(self.speed)
        return parts.get(kind, parts.get(DEFAULT_KIND, 1.0))

    @property
    def facts(self) -> tuple[object, ...]:
        """All but the name and the node: devices of equal facts do the same in the same time."""
        return (
            self.kind, self.flops_per_s, self.bytes_per_s, self.memory_bytes, self.watts_idle,
            self.watts_active, self.price_per_hour, self.overhead_s, self.speed, self.peaks, self.target, self.cores,
        )  # fmt: skip


@dataclass(frozen=True)
class Link:
    """A way for data: a transfer of B bytes keeps it busy for B / `bytes_per_s` seconds and arrives `latency_s` later.

    `shared` links (buses) carry one transfer at a time in all, others one each way.
    """

    name: str
    latency_s: float
    bytes_per_s: float
    shared: bool = False

    def __post_init__(self) -> None:
        where = f"link {self.name!r}"
        _check(0 <= self.latency_s < inf, where, "latency_s", "a number of at least 0", self.latency_s)
        _check(self.bytes_per_s > 0, where, "bytes_per_s", "a number above 0", self.bytes_per_s)


@dataclass(frozen=True)
class Node:
    """A machine at a `site`; `bus` joins its devices, and may be None where there is only one."""

    name: str
    site: str = ""
    bus: Link | None = None


@dataclass(frozen=True)
class Way:
    """The link from one device to another and the direction on it: what serves one transfer at a time."""

    link: Link
    forward: bool

    @property
    def resource(self) -> tuple[str, bool]:
        """Equal for transfers that wait for each other."""
        return self.link.name, self.forward or self.link.shared


@dataclass(frozen=True)
class Cluster:
    """Devices with all that joins them. `links` are by the pair of names that they join (devices, nodes or sites).

    `entry` is the device where requests arrive and where results are wanted; with "" they are where they are used.
    UsageError if names are given twice, or unknown, or two devices are not joined.
    """

    devices: tuple[Device, ...]
    nodes: tuple[Node, ...] = ()
    links: tuple[tuple[tuple[str, str], Link], ...] = ()
    entry: str = ""
    _ways: dict[tuple[int, int], Way | None] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.devices:
            raise UsageError("cluster: expected at least one device, found none.")
        sites = {n.site for n in self.nodes} - {""}
        names = [*(d.name for d in self.devices), *(n.name for n in self.nodes), *sorted(sites)]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise UsageError(f"cluster: expected a name for each device, node and site, found {twice!r} twice.")
        known = {n.name for n in self.nodes}
        for device in self.devices:
            if device.node and device.node not in known:
                raise _unknown(f"device {device.name!r}: node", device.node, known)
        for pair, link in self.links:
            for end in pair:
                if end not in names:
                    raise _unknown(f"link {link.name!r}: between", end, names)
            if pair[0] == pair[1]:
                raise UsageError(f"link {link.name!r}: expected two different ends, found {pair[0]!r} twice.")
        if self.entry and self.entry not in {d.name for d in self.devices}:
            raise _unknown("cluster: entry", self.entry, [d.name for d in self.devices])
        for a, b in combinations(range(len(self.devices)), 2):
            if self.way(a, b) is None:
                joined = f"{self.devices[a].name!r} and {self.devices[b].name!r}"
                raise UsageError(
                    f"cluster: expected a link between any two devices, found none between {joined}.",
                    "add a [[link]] between them, their nodes or sites, or rates of their node's bus.",
                )

    @property
    def entry_index(self) -> int | None:
        """The place of the entry among the devices, or None."""
        return next((k for k, d in enumerate(self.devices) if d.name == self.entry), None)

    def way(self, source: int, target: int) -> Way | None:
        """How data go from device `source` to device `target`; None if they are not joined (or are one)."""
        key = source, target
        if key not in self._ways:
            self._ways[key] = None if source == target else self._find_way(source, target)
        return self._ways[key]

    def joined(self, source: int, target: int) -> Way:
        """`way` between different devices, which a checked cluster has."""
        way = self.way(source, target)
        assert way is not None
        return way

    def site_of(self, device: int) -> str:
        """The site of a device's node, or ""."""
        return self._place(device)[2]

    def _place(self, device: int) -> tuple[str, str, str]:
        found = self.devices[device]
        site = next((n.site for n in self.nodes if n.name == found.node), "")
        return found.name, found.node, site

    def _find_way(self, source: int, target: int) -> Way | None:
        here, there = self._place(source), self._place(target)
        by_pair = {frozenset(pair): (pair, link) for pair, link in self.links}
        bus = next((n.bus for n in self.nodes if n.name == here[1] == there[1] and n.bus is not None), None)
        for level, (a, b) in enumerate(zip(here, there, strict=True)):
            found = by_pair.get(frozenset((a, b))) if a and b and a != b else None
            if found is not None:
                return Way(found[1], a == found[0][0])
            if level == 0 and bus is not None:
                return Way(bus, True)
        return None


def _check(holds: bool, where: str, what: str, expected: str, found: object) -> None:
    if not holds:
        raise UsageError(f"{where}: expected {what} to be {expected}, found {found}.")


def _unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    return UsageError(f"{what}: expected one of {', '.join(sorted(known)) or 'none'}, found {name!r}.")
