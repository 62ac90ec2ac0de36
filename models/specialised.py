"""Models of a wheel with some inputs fixed: what their authors call with one of a few values or sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .cache import cached
from .wheel import WheelMember


@dataclass(frozen=True)
class Specialised:
    """`member` with inputs turned into constants, and with sizes of others fixed; cached as `name`.onnx.

    Attributes:
        values: input -> the int64 scalar that it is from now on.
        sizes: input -> its shape; a string is a dimension that stays open.
        sha256: of the result.
    """

    name: str
    member: WheelMember
    sha256: str
    values: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)

    def get(self) -> Path:
        """The cached, verified model, made on first use."""
        return cached(f"zoo/{self.name}.onnx", self._build, self.sha256)

    def describe(self) -> str:
        """Where the model comes from, in one line."""
        fixed = [f"{name} = {value}" for name, value in self.values.items()]
        fixed += [f"{name} of {'x'.join(map(str, shape))}" for name, shape in self.sizes.items()]
        return f"{self.member.describe()}, with {', '.join(fixed)}"

    def _build(self, target: Path) -> None:
        import onnx

        model = onnx.load(self.member.get())
        graph = model.graph
        for info in list(graph.input):
            if info.name in self.values:
                graph.initializer.append(onnx.numpy_helper.from_array(np.int64(self.values[info.name]), info.name))
                graph.input.remove(info)
            elif info.name in self.sizes:
                kind = info.type.tensor_type.elem_type
                info.CopyFrom(onnx.helper.make_tensor_value_info(info.name, kind, self.sizes[info.name]))
        target.write_bytes(model.SerializeToString(deterministic=True))
