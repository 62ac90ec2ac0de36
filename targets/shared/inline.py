"""Merges maps into their consumers, so that chains of elementwise operators become one loop."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad

from ...compiler.schedule import vector_math
from .loops import product, static
from .program import Program, Stage, cost, is_conditional, loads, map_loads, substitute, with_value

# A value this cheap is computed again rather than stored and loaded.
_CHEAP_COST = 3
_MAX_RECOMPUTE = 4


def inline_maps(program: Program) -> Program:
    """`program` with every intermediate map inlined that is not worth a buffer of its own."""
    stages = _needed(program)
    temporaries = set(program.temporaries)
    position = 0
    while position < len(stages):
        stage = stages[position]
        consumers = [s for s in stages if any(load.source.same_as(stage.buffer) for load in loads(s.value))]
        if stage.buffer in temporaries and consumers and _worth_inlining(stage, consumers):
            stages = [_inlined(s, stage) if s in consumers else s for s in stages if s is not stage]
            temporaries.discard(stage.buffer)
        else:
            position += 1
    return replace(program, stages=tuple(stages), temporaries=frozenset(temporaries))


def _needed(program: Program) -> list[Stage]:
    """The stages whose results are read: an index into an axis of length 1, say, is computed for nothing."""
    needed: list[Stage] = []
    read: list[tirx.Buffer] = []
    for stage in reversed(program.stages):
        if stage.buffer in program.temporaries and not any(stage.buffer.same_as(b) for b in read):
            continue
        needed.insert(0, stage)
        read += [load.source for load in loads(stage.value)]
    return needed


def _worth_inlining(stage: Stage, consumers: list[Stage]) -> bool:
    if stage.reduce or stage.flat_copy or any(c.flat_copy for c in consumers):
        return False
    price = cost(stage.value)
    conditional = is_conditional(stage.value)
    uses = 0.0
    for consumer in consumers:
        if consumer.reduce and conditional:
            # A condition inside a reduction keeps its innermost loop from being vectorised.
            return False
        uses += _uses(stage, consumer)
    if not price:
        return True
    return uses <= 1 or (price <= _CHEAP_COST and uses <= _MAX_RECOMPUTE)


def _uses(stage: Stage, consumer: Stage) -> float:
    """How often each element of `stage` is read by `consumer` at different places."""
    sites = {tvm_ffi.structural_hash(x): x for x in loads(consumer.value) if x.source.same_as(stage.buffer)}
    done, needed = (product([a.extent for a in axes]) for axes in (consumer.all_axes, stage.axes))
    if static(done) and static(needed):
        return len(sites) * done / max(needed, 1)
    growth = len(consumer.all_axes) - len(stage.axes)
    return len(sites) * (1.0 if growth <= 0 else 2.0)


def _inlined(consumer: Stage, stage: Stage) -> Stage:
    sites: dict[int, list[TensorLoad]] = {}
    for load in loads(consumer.value):
        if load.source.same_as(stage.buffer):
            sites.setdefault(tvm_ffi.structural_hash(load), []).append(load)

    def value_at(load: TensorLoad) -> tirx.Expr:
        return substitute(stage.value, dict(zip((a.var for a in stage.axes), load.indices, strict=True)))

    value = consumer.value
    shared = [group[0] for group in sites.values() if len(group) > 1]
    if shared and cost(stage.value) and not is_conditional(value) and not _depends_on_bound(value, shared):
        # Read at the same place more than once: compute it once.
        for site in shared:
            value = vector_math.bind(value_at(site), partial(_reading, value, site))
    value = map_loads(value, lambda x: value_at(x) if x.source.same_as(stage.buffer) else x)
    return with_value(consumer, value)


def _reading(value: tirx.Expr, site: TensorLoad, var: tirx.Var) -> tirx.Expr:
    """`value` with `var` in place of all loads that equal `site`."""
    key = tvm_ffi.structural_hash(site)

    def change(load: TensorLoad) -> tirx.Expr:
        return var if load.source.same_as(site.source) and tvm_ffi.structural_hash(load) == key else load

    return map_loads(value, change)


def _depends_on_bound(value: tirx.Expr, sites: list[TensorLoad]) -> bool:
    """Whether an index of `sites` uses a variable that a Let inside `value` binds."""
    bound: list[tirx.Var] = []
    tvm_ffi.structural_walk(value, (tirx.Let, lambda node: bound.append(node.var)), order="post")
    found: list[bool] = []

    def visit(var: tirx.Var) -> None:
        if any(var.same_as(b) for b in bound):
            found.append(True)

    for site in sites:
        for index in site.indices:
            tvm_ffi.structural_walk(index, (tirx.Var, visit), order="post")
    return bool(found)
