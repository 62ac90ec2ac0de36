"""From a template's config to a function in this process: the passes and the code generator of a real compilation.

LLVM puts the code straight into memory, so that no linker runs; the code is the same as in a library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tvm

from ...build import LOWERING
from ...errors import UsageError
from ...schedule.op_spec import OpSpec
from ...schedule.target import Target
from ...schedule.template import Packer, Template
from ..record import Point


@dataclass(frozen=True)
class Kernel:
    """A compiled candidate: `function` takes tensors, constant operands packed by `packers`, the output last.

    `library` keeps the code alive.
    """

    function: Callable[..., Any]
    packers: Mapping[int, Packer]
    library: tvm.runtime.Module


def build_kernel(op: OpSpec, point: Point, target: Target) -> Kernel:
    """Build and compile `point` for `op`.

    Raises UsageError if `target` has no such template, or of another version; and what the template or TVM raise.
    """
    template = template_of(point, target)
    candidate = template.build(op, target.spec, point.config)
    attrs = {"global_symbol": "main", "tirx.is_scheduled": True, "tirx.noalias": True}
    func = candidate.func
    for name, value in attrs.items():
        func = func.with_attr(name, value)
    with tvm.transform.PassContext(opt_level=3, config=LOWERING):
        library = tvm.tirx.build(tvm.IRModule({"main": func}), target=target.tvm_target())
    return Kernel(library["main"], candidate.packers, library)


def template_of(point: Point, target: Target) -> Template:
    """The template of `point`; UsageError if `target` has none of that name and version."""
    found = {t.name: t for t in target.templates}
    if point.template not in found:
        known = ", ".join(found)
        raise UsageError(f"target {target.spec.key}: expected a template among {known}, found {point.template!r}.")
    template = found[point.template]
    if template.version != point.version:
        raise UsageError(f"template {template.name}: expected version {template.version}, found {point.version}.")
    return template
