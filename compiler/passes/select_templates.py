"""Replace each fused group by a call to the kernel that the target's template builds for it.

Before:  y = conv2d(x, w); z = add(y, b); r = relu(z)
After:   r = call_tir(conv2d_0, (x, packed w, b))      # conv2d_0: scheduled TIR, attributes kompilo.op/template/config

Constant operands are packed here, once, as the template wants them. Groups that no template takes stay as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax

from ..schedule.flops import flops
from ..schedule.selection import Choice, Selector
from .anchors import ANCHORS, op_name
from .base import Pass
from .fuse_anchors import GraphUses, Group, find_group

# TVM's op_pattern of a function that FuseOps must leave alone.
OPAQUE = 8


@dataclass(frozen=True)
class SelectTemplates(Pass):
    """Fuse anchors with their epilogues and build their kernels with `selector`'s templates."""

    selector: Selector
    name: str = field(default="select_templates", init=False)

    def run(self, mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
        """Rewrite `main`; every chosen kernel becomes a private PrimFunc of the module."""
        main = mod["main"]
        graph = GraphUses(main, "tf32" if self.selector.precision == "tf32" else None)
        groups: dict[relax.Var, Group] = {}
        for binding in graph.bindings:
            if op_name(binding.value) in ANCHORS and binding.var not in graph.claimed:
                group = find_group(graph, binding.var, lambda op: self.selector.choose(op) is not None)
                if group is not None:
                    groups[group.result] = group
        if not groups:
            return mod
        builder = relax.BlockBuilder(mod)
        kernels = _Kernels(builder, self.selector)
        bindings = []
        for binding in graph.bindings:
            if binding.var in groups:
                bindings += kernels.call(groups[binding.var])
            elif binding.var not in graph.claimed:
                bindings.append(binding)
        result = builder.get()
        body = relax.SeqExpr([relax.DataflowBlock(bindings)], main.body.body)
        function = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
        result.update_func(result.get_global_var("main"), function)
        return relax.transform.DeadCodeElimination()(result)


class _Kernels:
    """Adds one PrimFunc per distinct OpSpec to the module and packs each constant operand once."""

    def __init__(self, builder: relax.BlockBuilder, selector: Selector):
        self.builder = builder
        self.selector = selector
        self.functions: dict[str, tvm.ir.GlobalVar] = {}
        self.packed: dict[tuple[int, str, int], tvm.ir.GenericConst] = {}

    def call(self, group: Group) -> list[relax.VarBinding]:
        choice = self.selector.choose(group.op)
        assert choice is not None, "find_group only returns accepted groups"
        key = str(group.op)
        if key not in self.functions:
            self.functions[key] = self._add(choice)
        operands = [self._operand(group, k, choice) for k in range(len(group.operands))]
        workspace = self.selector.candidate(choice).workspace
        if workspace is None:
            return [relax.VarBinding(group.result, relax.op.call_tir(self.functions[key], operands, group.result.ty))]
        # A second result: Relax plans its memory with that of all others, and whoever comes next has it.
        types = [group.result.ty, relax.TensorType(workspace.shape, workspace.dtype)]
        both = relax.Var(f"{group.result.name}_and_workspace", relax.TupleType(types))
        call = relax.VarBinding(both, relax.op.call_tir(self.functions[key], operands, types))
        return [call, relax.VarBinding(group.result, relax.TupleGetItem(both, 0))]

    def _add(self, choice: Choice) -> tvm.ir.GlobalVar:
        func = self.selector.candidate(choice).func
        attrs = {
            "tirx.is_scheduled": True,
            "tirx.noalias": True,
            "op_pattern": OPAQUE,
            "kompilo.op": str(choice.op),
            "kompilo.kind": choice.op.kind,
            "kompilo.template": choice.template.name,
            "kompilo.config": str(choice.config),
            "kompilo.source": choice.source,
            "kompilo.flops": flops(choice.op) or 0,
        }
        for name, value in attrs.items():
            func = func.with_attr(name, value)
        return self.builder.add_func(func, f"{choice.op.kind}_{len(self.functions)}")

    def _operand(self, group: Group, index: int, choice: Choice) -> relax.Expr:
        operand = group.operands[index]
        packer = self.selector.candidate(choice).packers.get(index)
        if packer is None:
            return operand
        key = (hash(operand), str(group.op), index)
        if key not in self.packed:
            self.packed[key] = relax.const(np.ascontiguousarray(packer(operand.value.numpy())))
        return self.packed[key]
