"""The kernels of the zoo's models, as compiling makes them, and what is wrong with their machine code.

Compiling every model for every architecture takes minutes, so that what several compilations have in common is done
once in a process: what does not depend on the target once for a model, and equal functions of all models once for a
target. Host code, weights and the artifact are left out: nothing of the device code depends on them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

import tvm
import tvm_ffi
from tvm import tirx

from kompilo.compiler.build import LOWERING, describe_operators
from kompilo.compiler.frontend.importer import import_model
from kompilo.compiler.model_source import resolve
from kompilo.compiler.passes.base import run_passes
from kompilo.compiler.passes.pipeline import PHASES, run_phases
from kompilo.compiler.schedule.selection import Selector
from kompilo.compiler.schedule.target import find_target
from kompilo.compiler.tune.advisors import default_advisors
from kompilo.compiler.tune.library import RecordLibrary
from kompilo.targets.gpu.resources import Resources, resources_of_code_object, resources_of_cubin
from kompilo.targets.gpu.target import GpuTarget

_READERS = {"cubin": resources_of_cubin, "hsaco": resources_of_code_object}
_COMMON = "simplify"  # the phases up to this one ask nothing of the target
_NUMBER = re.compile(r"_kernel(_\d+)?$")

Named = tuple[str, tirx.PrimFunc]


class Kernels:
    """Device code of PrimFuncs for one target; equal ones are compiled once, whatever model they come from."""

    def __init__(self, target: GpuTarget):
        self.target = target
        self._known: dict[tvm_ffi.StructuralKey, tuple[Resources, ...]] = {}

    def of(self, functions: Sequence[Named]) -> dict[str, tuple[Resources, ...]]:
        """What the kernels of each function take, read from real code objects. Compiles what is new, all at once."""
        keys = {name: tvm_ffi.StructuralKey(func) for name, func in functions}
        new = {keys[name]: (name, func) for name, func in functions if keys[name] not in self._known}
        if new:
            compiled = self._compile(list(new.values()))
            self._known.update({key: compiled[name] for key, (name, _) in new.items()})
        return {name: self._known[key] for name, key in keys.items()}

    def _compile(self, functions: Sequence[Named]) -> dict[str, tuple[Resources, ...]]:
        mod = tvm.IRModule({name: func.with_attr("global_symbol", name) for name, func in functions})
        with self.target.tvm_target(), tvm.transform.PassContext(opt_level=3, config=LOWERING):
            _, device = self.target.compile_kernels(mod)
        found: dict[str, list[Resources]] = {name: [] for name, _ in functions}
        for code in device:
            assert code.arch == self.target.spec.code_arch
            resources = _READERS[code.format](code.code)
            for kernel in code.kernels:  # a KeyError here: it was to be launched, and is not in the code object
                found[_NUMBER.sub("", kernel.name)].append(resources[kernel.name])
        return {name: tuple(used) for name, used in found.items()}


@functools.cache
def kernels_for(target: str) -> Kernels:
    """Those of this process for the target of that name ("cuda:sm_80")."""
    return Kernels(find_target(target))


@functools.lru_cache(maxsize=1)  # weights are large
def _simplified(model: str) -> tvm.IRModule:
    imported = import_model(resolve(f"zoo:{model}"))
    return run_phases(imported.mod, find_target("cpu"), stop_after=_COMMON)


def scheduled(model: str, target: GpuTarget) -> tvm.IRModule:
    """A model of the zoo behind all passes, with the configs that `kompilo.compile` takes; open sizes are open."""
    selector = Selector(target, default_advisors(target, RecordLibrary.of(None)))
    names = [name for name, _ in PHASES]
    rest = PHASES[names.index(_COMMON) + 1 :]
    return run_passes(_simplified(model), [p for _, make in rest for p in make(selector)])


def problems(mod: tvm.IRModule, kernels: Kernels) -> list[str]:
    """Operators that `main` of `mod` runs without a kernel, and kernels that spill; none where all is well."""
    return list(_problems(mod, kernels))


def _problems(mod: tvm.IRModule, kernels: Kernels) -> Iterator[str]:
    operators = {o.name: o for o in describe_operators(mod)}
    functions = {var.name_hint: func for var, func in mod.functions_items() if isinstance(func, tirx.PrimFunc)}
    used = kernels.of([(name, functions[name]) for name in operators])
    for name, operator in operators.items():
        if not used[name]:
            yield f"{name} has no kernel: {operator.spec}"
        for kernel in used[name]:
            if kernel.spills_bytes:
                how = f"{operator.template} {operator.config}".strip()
                yield f"{kernel.kernel} spills {kernel.spills_bytes} bytes ({how}): {operator.spec}"
