"""OpSpec: a fused operator as a template sees it, and as tuning records name it."""

from __future__ import annotations

from dataclasses import dataclass

from ..tensor_spec import Dim

AttrValue = int | float | str | tuple[int, ...]


@dataclass(frozen=True)
class TensorType:
    """Shape (ints, or names of symbolic dimensions) and dtype of one operand."""

    shape: tuple[Dim, ...]
    dtype: str

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a known integer."""
        return all(isinstance(d, int) for d in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class Step:
    """One elementwise operator of an epilogue.

    `op` is a key of `epilogue.STEP_OPS` (Relax's name without its prefix: "add", "relu", "clip", ...), or "astype" to
    cast to `dtype`. Each argument is "anchor" (the anchor's result), "sK" (result of step K), "iK" (operand K of the
    OpSpec, as a number of type `dtype`) or a float literal.
    Steps compute with numpy broadcasting; the result of every step has the anchor's shape.
    """

    op: str
    args: tuple[str | float, ...]
    dtype: str

    def __str__(self) -> str:
        args = [*self.args, self.dtype] if self.op == "astype" else self.args
        return f"{self.op}({','.join(str(a) for a in args)})"


@dataclass(frozen=True)
class OpSpec:
    """A fused operator: an anchor and the elementwise epilogue behind it.

    `inputs` are the anchor's operands followed by the epilogue's extra operands; `constant` tells which are known at
    compile time (templates may pack those). `anchor_type` is the anchor's result, `output` the last step's: same
    shape, perhaps another dtype. `attrs` is sorted by name. Its text form (`str`) is the key of tuning records.
    """

    kind: str
    inputs: tuple[TensorType, ...]
    constant: tuple[bool, ...]
    attrs: tuple[tuple[str, AttrValue], ...]
    anchor_type: TensorType
    output: TensorType
    epilogue: tuple[Step, ...] = ()

    def attr(self, name: str) -> AttrValue:
        """The attribute `name`; raises KeyError if the anchor has none of that name."""
        return dict(self.attrs)[name]

    def ints(self, name: str) -> tuple[int, ...]:
        """The attribute `name` as a tuple of ints."""
        value = self.attr(name)
        return tuple(int(v) for v in value) if isinstance(value, tuple) else (int(value),)

    @property
    def is_static(self) -> bool:
        """Whether all operand and result shapes are known integers."""
        return all(t.is_static for t in (*self.inputs, self.anchor_type))

    def __str__(self) -> str:
        operands = ", ".join(f"{'const ' if c else ''}{t}" for t, c in zip(self.inputs, self.constant, strict=True))
        attrs = ", ".join(f"{k}={_attr_text(v)}" for k, v in self.attrs)
        steps = "; ".join(str(s) for s in self.epilogue)
        return f"{self.kind}({operands}) {{{attrs}}} -> {self.output}" + (f" | {steps}" if steps else "")


def _attr_text(value: AttrValue) -> str:
    return "x".join(str(v) for v in value) if isinstance(value, tuple) else str(value)
