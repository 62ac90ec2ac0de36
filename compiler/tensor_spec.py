"""The signature of one model input or output, shared by the frontend, the artifact and the loader."""

import re
from dataclasses import dataclass

Dim = int | str

STRING, SEQUENCE, OPTIONAL = "string", "sequence", "optional"
# The shape of a tensor whose number of dimensions is known in runs only.
ANY_SHAPE: tuple[Dim, ...] = ("...",)


def dim_name(text: str) -> str:
    """A model's name for a dimension as it is shown: letters of any language, digits and "_", not a digit first."""
    name = re.sub(r"\W", "_", text)
    return name if name.isidentifier() else f"_{name}"


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of a model input or output.

    `shape` holds ints for fixed dimensions and strings for named dynamic ones (the same name means the same size);
    `dtype` is a numpy dtype name such as "float32" or "int64".

    Where the model has operators on the host, `dtype` may also be "string" (an object array of Python strings), or
    have "sequence(...)" (a list) and "optional(...)" (None, or what is inside) around it; the shape is then that of
    the elements, and `ANY_SHAPE` where the number of dimensions is known in runs only.
    """

    name: str
    shape: tuple[Dim, ...]
    dtype: str

    @property
    def wrappers(self) -> tuple[str, ...]:
        """What is around the element type, from the outside: ("optional", "sequence") for example."""
        return tuple(self.dtype.split("(")[:-1])

    @property
    def element(self) -> str:
        """The element type without what is around it: "float32" of "optional(sequence(float32))"."""
        return self.dtype.split("(")[-1].rstrip(")")

    @property
    def is_numeric(self) -> bool:
        """Whether this is a tensor of numbers of a known number of dimensions, which compiled code can take."""
        return not self.wrappers and self.dtype != STRING and self.shape != ANY_SHAPE

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(str(d) for d in self.shape)}]"
