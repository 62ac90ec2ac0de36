"""Make every output of `main` a tensor of its own.

Before:  y = reshape(x); return (x, y, w, z, z)
After:   return (copy(x), copy(y), copy(w), z, copy(z))

A view of an input or of a weight handed out as a result would change under the caller's feet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm
from tvm import relax, te

from .anchors import op_name
from .base import Pass

# Operators that later become views of their argument.
VIEWS = {"reshape", "flatten", "expand_dims", "squeeze", "memory.view"}


@dataclass(frozen=True)
class OwnOutputs(Pass):
    """Copy outputs that are inputs, constants, views of either, or duplicates of another output."""

    name: str = field(default="own_outputs", init=False)

    def run(self, mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
        """Outputs that already are fresh tensors are untouched."""
        main = mod["main"]
        bindings = [b for block in main.body.blocks for b in block.bindings]
        producers = {b.var: b.value for b in bindings}
        outputs = list(main.body.body.fields) if isinstance(main.body.body, relax.Tuple) else [main.body.body]
        roots = [_root(o, producers) for o in outputs]
        seen: set[relax.Expr] = set()
        borrowed = []
        for root in roots:
            borrowed.append(root not in producers or root in seen)
            seen.add(root)
        if not any(borrowed):
            return mod
        return _copy_outputs(mod, bindings, outputs, borrowed)


def _root(expr: relax.Expr, producers: dict[relax.Var, relax.Expr]) -> relax.Expr:
    """The value whose memory `expr` shows: through renamings and views back to the tensor that was computed."""
    while isinstance(expr, relax.Var) and expr in producers:
        value = producers[expr]
        if isinstance(value, relax.Var | tvm.ir.GenericConst):
            expr = value
        elif op_name(value) in VIEWS:
            expr = value.args[0]
        else:
            break
    return expr


def _copy_outputs(
    mod: tvm.ir.IRModule, bindings: list[relax.VarBinding], outputs: list[relax.Expr], borrowed: list[bool]
) -> tvm.ir.IRModule:
    main = mod["main"]
    builder = relax.BlockBuilder(mod)
    results = []
    added: list[relax.VarBinding] = []
    for output, copy in zip(outputs, borrowed, strict=True):
        if copy:
            call = builder.call_te(_identity, output, primfunc_name_hint="copy")
            var = relax.DataflowVar(f"copy{len(added)}", output.ty)
            added.append(relax.VarBinding(var, call))
            results.append(var)
        else:
            results.append(output)
    final = []
    body_vars = []
    for k, value in enumerate(results):
        var = relax.Var(f"out{k}", value.ty)
        final.append(relax.VarBinding(var, value))
        body_vars.append(var)
    body = relax.Tuple(body_vars) if isinstance(main.body.body, relax.Tuple) else body_vars[0]
    block = relax.DataflowBlock([*bindings, *added, *final])
    result = builder.get()
    function = relax.Function(main.params, relax.SeqExpr([block], body), main.ret_ty, main.is_pure, main.attrs)
    result.update_func(result.get_global_var("main"), function)
    return relax.transform.CanonicalizeBindings()(result)


def _identity(x: te.Tensor) -> te.Tensor:
    return te.compute(x.shape, lambda *i: x(*i), name="copy")
