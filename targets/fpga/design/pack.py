"""A design as the bytes that an artifact holds: JSON with its facts and the C++ of its simulation. Reading it needs
neither TVM nor the compiler."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from ....compiler.device_code import DeviceCode
from ....compiler.errors import ArtifactError
from ....compiler.schedule.whole_design import DESIGN, DesignStage, WholeDesign
from ..kernel.hls import PRELUDE, element_type, emit_hls, storage
from ..kernel.ir import Array
from .record import Design, StageFacts

VERSION = 1
TOP = "model"


@dataclass(frozen=True)
class Port:
    """An array that is filled before a run, or read after it: flat, `dtype` numpy's name for its elements in memory."""

    name: str
    size: int
    dtype: str


@dataclass(frozen=True)
class PackedDesign:
    """What an artifact says of a design; `source` is C++ with the functions that `sim/device.py` calls."""

    part: str
    clock_hz: float
    cycles: int
    resources: dict[str, int]
    budgets: dict[str, int]
    inputs: tuple[Port, ...]
    weights: tuple[Port, ...]
    outputs: tuple[Port, ...]
    stages: tuple[StageFacts, ...]
    source: str

    @property
    def seconds(self) -> float:
        """Predicted time of a run on the part."""
        return self.cycles / self.clock_hz

    def to_json(self) -> bytes:
        """UTF-8."""
        return (json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes) -> PackedDesign:
        """Of `to_json`; ArtifactError if it is none."""
        try:
            data: dict[str, Any] = json.loads(text)
            version = data.pop("version")
            if version != VERSION:
                raise ArtifactError(f"the artifact's FPGA design: expected version {VERSION}, found {version!r}.")
            data |= {k: tuple(Port(**p) for p in data[k]) for k in ("inputs", "weights", "outputs")}
            data["stages"] = tuple(StageFacts(**s) for s in data["stages"])
            return cls(**data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArtifactError(f"the artifact's FPGA design cannot be read ({error}).") from None


def pack(design: Design) -> PackedDesign:
    """`design` without its arrays' values."""
    arrays = {a.name: a for a in design.kernel.arrays}
    inputs, weights, outputs = (
        tuple(_port(arrays[name]) for name in names)
        for names in (design.inputs, [name for name, _ in design.weights], design.outputs)
    )
    used = dict(design.resources)
    budgets = {r: design.spec.budget(r) for r in used}
    return PackedDesign(
        design.spec.key.removeprefix("fpga-"), design.spec.clock_hz, design.cycles, used, budgets, inputs, weights,
        outputs, design.stages, simulation_source(design),
    )  # fmt: skip


def whole_design(design: Design, source: str = "default") -> WholeDesign:
    """`design` as the compiler takes it; `source` says what chose it."""
    packed = pack(design)
    stages = tuple(DesignStage(s.name, s.source, s.fold, 2 * s.macs or None) for s in design.stages)
    local = [a for a in design.kernel.role("local") if a.memory != "register"]
    buffers = tuple(sorted((math.prod(a.shape) * a.dtype.numpy().itemsize for a in local), reverse=True))
    code = DeviceCode(DESIGN, packed.part, packed.to_json(), ())
    return WholeDesign(code, tuple(data.reshape(-1) for _, data in design.weights), stages, buffers, source)


def _port(a: Array) -> Port:
    return Port(a.name, math.prod(a.shape), str(a.dtype.numpy()))


def simulation_source(design: Design) -> str:
    """The kernel's C++, and functions by which arrays are set, run and got: `kp_set(number of the input or weight,
    data)`, `kp_run()`, `kp_get(number of the output, data)`, all with elements as numpy has them."""
    kernel = design.simulated
    arrays = {a.name: a for a in kernel.arrays}
    sources = [arrays[name] for name in (*design.inputs, *(name for name, _ in design.weights))]
    results = [arrays[name] for name in design.outputs]
    lines = [
        f"static std::vector<{element_type(a.dtype)}> v_{a.name}({math.prod(a.shape)});" for a in sources + results
    ]
    lines.append('extern "C" void kp_set(int port, const void *data) {\n  switch (port) {')
    for k, a in enumerate(sources):
        move = f"for (size_t i = 0; i < v_{a.name}.size(); i++) v_{a.name}[i] = ((const {storage(a)} *)data)[i];"
        lines.append(f"    case {k}: {move} break;")
    lines.append('  }\n}\nextern "C" void kp_get(int port, void *data) {\n  switch (port) {')
    for k, a in enumerate(results):
        move = (
            f"for (size_t i = 0; i < v_{a.name}.size(); i++) (({storage(a)} *)data)[i] = {_plain(a, f'v_{a.name}[i]')};"
        )
        lines.append(f"    case {k}: {move} break;")
    ports = ", ".join(f"v_{a.name}.data()" for a in (*kernel.role("in"), *kernel.role("out")))
    lines.append(f"  }}\n}}\n{_RUN.format(call=f'{TOP}({ports});')}")
    text = "\n".join([emit_hls(kernel, TOP), *lines])
    return "\n".join([PRELUDE, "#include <cstdint>\n#include <vector>", _MACHINE_INTEGERS.sub(r"\1int\2_t", text)])


# Integers of these widths are the machine's, which are far faster: operands and results of an operation have one type
# or are of 16 bits at most, so that nothing exact is lost that ap_int would keep (with -fwrapv).
_MACHINE_INTEGERS = re.compile(r"ap_(u?)int<(8|16|32|64)>")
# Subnormal numbers are zeros, as in the hardware, where the machine can have it so.
_RUN = """\
#ifdef __SSE__
#include <xmmintrin.h>
extern "C" void kp_run() {{
  unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);
  {call}
  _mm_setcsr(before);
}}
#else
extern "C" void kp_run() {{ {call} }}
#endif
"""


def _plain(a: Array, value: str) -> str:
    return value if a.dtype.is_float else f"({storage(a)}){value}"
