"""What an artifact says about each target: code, operators and memory plan."""

from __future__ import annotations

from dataclasses import dataclass

from ..device_code import DeviceCode


@dataclass(frozen=True)
class Operator:
    """One compiled operator (a fused subgraph), as `inspect` lists it.

    `spec` is the text key of its OpSpec (or of its PrimFunc); `config` the text of the template's configuration;
    `source` says where the configuration came from ("default" or "record ..."); `calls` how often the graph calls it;
    `flops` counts one call's floating-point operations, None where unknown or dynamic.
    """

    name: str
    kind: str
    spec: str
    template: str
    config: str
    source: str
    calls: int = 1
    flops: int | None = None


@dataclass(frozen=True)
class MemoryPlan:
    """The intermediate buffers of one call: `buffers` holds their sizes in bytes.

    `dynamic` is true when some sizes depend on named dimensions; `buffers` then holds only the sizes known.
    """

    buffers: tuple[int, ...] = ()
    dynamic: bool = False

    @property
    def total_bytes(self) -> int:
        """Sum of all planned buffers, bytes."""
        return sum(self.buffers)

    @property
    def largest_bytes(self) -> int:
        """The largest planned buffer, bytes; 0 when there is none."""
        return max(self.buffers, default=0)


@dataclass(frozen=True)
class TargetCode:
    """The code of one target.

    `library` is an ELF shared object exporting a Relax VM executable, whose function `entry` takes the model's inputs
    and then the weights; `weights` are the indices into the artifact's weights that it takes, in order (None: all).
    `cpu_features` are flags in the spelling of Linux's /proc/cpuinfo that the code needs. `device` is code of an
    accelerator that the library launches; `triple` and `cpu_features` are of the machine that drives it. `segment` is
    the number of the segment that this is the code of, None in a model that is compiled as a whole.
    """

    name: str
    key: str
    triple: str
    library: bytes
    cpu_features: tuple[str, ...] = ()
    operators: tuple[Operator, ...] = ()
    memory: MemoryPlan = MemoryPlan()
    entry: str = "main"
    weights: tuple[int, ...] | None = None
    device: tuple[DeviceCode, ...] = ()
    segment: int | None = None

    def __repr__(self) -> str:
        size = len(self.library) + sum(len(d.code) for d in self.device)
        return f"TargetCode(name={self.name!r}, key={self.key!r}, code=<{size} bytes>)"
