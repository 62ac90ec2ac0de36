"""A second form of `main` whose kernels are captured as a CUDA graph in its first run and launched at once thereafter.

Before:  main(x, w) { ... }, with memory planned
After:   main(x, w) as it was, and
         main_captured(x, w) { m = get_cached_alloc(alloc); a = f(x, m); b = run_or_capture(capture, (a, w)) }

TVM's pass takes what only depends on planned memory and weights into the graph; kernels that read the inputs or write
the results, which lie elsewhere in each run, stay outside. The memory of the graph is kept by the virtual machine.
Models with open sizes stay as they are: their launches differ from run to run.
"""

from __future__ import annotations

import tvm
from tvm import relax, tirx

# What the loader looks for: see `runtime.call.CAPTURED`.
SUFFIX = "_captured"
_SWITCH = "relax.backend.use_cuda_graph"


def capture_graphs(mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
    """`mod`, between memory planning and the lowering of allocations, with the second form if that has a graph."""
    main = mod["main"]
    if not _is_static(main):
        return mod
    current = tvm.transform.PassContext.current()
    config = {**dict(current.config.items()), _SWITCH: True}
    with tvm.transform.PassContext(opt_level=current.opt_level, config=config):
        rewritten = relax.transform.RewriteCUDAGraph()(mod)
    if len(rewritten.functions) == len(mod.functions):
        return mod
    name = rewritten.get_global_var("main")
    captured = relax.utils.copy_with_new_vars(rewritten["main"])
    rewritten.update_func(name, main)
    second = tvm.ir.GlobalVar(name.name_hint + SUFFIX)
    rewritten.update_func(second, captured.with_attr("global_symbol", second.name_hint))
    return rewritten


def _is_static(main: relax.Function) -> bool:
    shapes = [p.ty.shape for p in main.params if isinstance(p.ty, relax.TensorType)]
    return all(s is not None and all(isinstance(d, tirx.IntImm) for d in s.values) for s in shapes)
