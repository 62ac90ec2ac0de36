"""Lower the Relax operators that are no anchors to TIR, and fuse elementwise, injective and reduction chains.

Before:  y = softmax(x); z = add(y, b)
After:   z = call_tir(fused_softmax_add, (x, b))
"""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm
from tvm.relax import transform

from ..schedule.target import Target
from .base import Pass


@dataclass(frozen=True)
class Legalize(Pass):
    """LegalizeOps with the target's own legalisations first, then TVM's FuseOps and FuseTIR."""

    target: Target
    name: str = field(default="legalize", init=False)

    def run(self, mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
        """Every call in `main` becomes call_tir or a runtime built-in."""
        sequence = tvm.transform.Sequential(
            [
                transform.LegalizeOps(dict(self.target.legalizations())),
                transform.AnnotateTIROpPattern(),
                transform.FuseOps(),
                transform.FuseTIR(),
                transform.DeadCodeElimination(),
            ]
        )
        with self.target.tvm_target(), tvm.transform.PassContext(opt_level=3):
            return sequence(mod)
