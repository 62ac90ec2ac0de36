"""Turn the constants of `main` into trailing parameters, so that weights live outside the code.

Before:  main(x) { y = call_tir(conv, (x, const)) }
After:   main(x, w0) { y = call_tir(conv, (x, w0)) }, and the list of weights
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax


def lift_weights(mod: tvm.ir.IRModule) -> tuple[tvm.ir.IRModule, list[np.ndarray]]:
    """The module with constants as parameters, and their values (as `main` takes them behind the inputs)."""
    main = mod["main"]
    lifter = _Lifter()
    body = relax.SeqExpr([lifter.block(block) for block in main.body.blocks], main.body.body)
    params = [*main.params, *lifter.params.values()]
    function = relax.Function(params, body, main.ret_ty, main.is_pure, main.attrs)
    result = tvm.IRModule(mod.functions, attrs=mod.attrs, global_infos=mod.global_infos)
    result.update_func(result.get_global_var("main"), function.with_attr("num_input", len(main.params)))
    return result, [c.value.numpy() for c in lifter.params]


class _Lifter:
    """Replaces constants in call arguments by parameters, one per distinct constant."""

    def __init__(self) -> None:
        self.params: dict[tvm.ir.GenericConst, relax.Var] = {}

    def block(self, block: relax.BindingBlock) -> relax.BindingBlock:
        """The same kind of block without constants; run-time checks of shapes stay."""
        kind = relax.DataflowBlock if isinstance(block, relax.DataflowBlock) else relax.BindingBlock
        return kind([self._binding(b) for b in block.bindings])

    def _binding(self, binding: relax.Binding) -> relax.Binding:
        value = self.replace(binding.value)
        if isinstance(binding, relax.MatchCast):
            return relax.MatchCast(binding.var, value, binding.ty)
        return relax.VarBinding(binding.var, value)

    def replace(self, value: relax.Expr) -> relax.Expr:
        """`value` with parameters for its constants."""
        if isinstance(value, tvm.ir.GenericConst) and isinstance(value.ty, relax.TensorType):
            if value not in self.params:
                self.params[value] = relax.Var(f"w{len(self.params)}", value.ty)
            return self.params[value]
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self.replace(f) for f in value.fields])
        if isinstance(value, tvm.ir.Call):
            args = [self.replace(a) for a in value.args]
            if all(a.same_as(b) for a, b in zip(args, value.args, strict=True)):
                return value
            # The type is set by copying the call: re-inferring it is needless and slow.
            return tvm.ir.Call(value.op, args, attrs=value.attrs, ty_args=value.ty_args, ret_ty=value.ty)
        return value
