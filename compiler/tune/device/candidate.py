"""From a template's config to a device program and packed operands: what is measured, and what bundles carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import tvm

from ...build import LOWERING
from ...device_code import Usage
from ...launches import DeviceProgram
from ...schedule.op_spec import OpSpec
from ...schedule.selection import matches
from ...schedule.target import Target
from ...schedule.template import Packer
from ..measure.builder import template_of
from ..record import Point


@dataclass(frozen=True)
class DeviceKernel:
    """A compiled candidate: its parameters are the operands, constant ones packed by `packers`, then the output.

    `usage` is what it takes of the device, as far as that is known.
    """

    program: DeviceProgram
    packers: Mapping[int, Packer]
    usage: Usage | None = None


def build_device_kernel(op: OpSpec, point: Point, target: Target) -> DeviceKernel:
    """Build and compile `point` for `op`.

    Raises UsageError if `target` has no such template, or of another version; and what the template, TVM and the
    toolchain raise.
    """
    candidate = template_of(point, target).build(op, target.spec, point.config)
    attrs = {"tirx.is_scheduled": True, "tirx.noalias": True}
    func = candidate.standalone
    for name, value in attrs.items():
        func = func.with_attr(name, value)
    with tvm.transform.PassContext(opt_level=3, config=LOWERING):
        program = target.device_program(func)
    return DeviceKernel(program, candidate.packers, target.usage(program))


@lru_cache(maxsize=256)
def default_point(op: OpSpec, target: Target) -> Point:
    """What `op` gets where nothing is known; some template of `target` matches it."""
    template, space = matches(op, target)[0]
    return Point(template.name, template.version, space.default)


def activations(op: OpSpec) -> list[int]:
    """Numbers of the operands that are not weights."""
    return [k for k, constant in enumerate(op.constant) if not constant]
