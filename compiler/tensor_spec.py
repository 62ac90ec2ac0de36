"""The signature of one model input or output, shared by the frontend, the artifact and the loader."""

import re
from dataclasses import dataclass

Dim = int | str


def dim_name(text: str) -> str:
    """A model's name for a dimension as it is shown: letters of any language, digits and "_", not a digit first."""
    name = re.sub(r"\W", "_", text)
    return name if name.isidentifier() else f"_{name}"


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of a model input or output.

    `shape` holds ints for fixed dimensions and strings for named dynamic ones (the same name means the same size);
    `dtype` is a numpy dtype name such as "float32" or "int64".
    """

    name: str
    shape: tuple[Dim, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(str(d) for d in self.shape)}]"
