"""Every operator of every model of the zoo has real machine code for every kind of GPU, and none of it spills."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import tvm
from rocm_kernels import needs_lld
from tvm import relax, tirx
from tvm.script import tirx as T
from zoo_kernels import Kernels, kernels_for, problems, scheduled

from kompilo.compiler.schedule.target import find_target
from kompilo.models import zoo
from kompilo.targets.cuda.compilers import find_compilers

needs_cuda = pytest.mark.skipif(not list(find_compilers()), reason="no CUDA compiler: pip install 'kompilo[cuda]'")
TARGETS = [
    pytest.param("cuda:sm_80", marks=needs_cuda),
    pytest.param("cuda:sm_90", marks=needs_cuda),
    pytest.param("rocm:gfx90a", marks=needs_lld),
    pytest.param("rocm:gfx942", marks=needs_lld),
    pytest.param("rocm:gfx1100", marks=needs_lld),
]


# The model is the slower parameter: a worker that gets several cases in a row imports it once.
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", zoo.names())
def test_all_operators(model, target, zoo_model):
    zoo_model(model)
    kernels = kernels_for(target)
    found = problems(scheduled(model, kernels.target), kernels)
    assert not found, "\n".join(found)


@T.prim_func(s_tir=True)
def spilling(A: T.Buffer((64,), "int32"), C: T.Buffer((64,), "int32")):
    """Private memory that is indexed by data, which registers cannot be."""
    T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
    T.launch_thread("blockIdx.x", 1)
    thread = T.launch_thread("threadIdx.x", 64)
    kept = T.alloc_buffer((64,), "int32", scope="local")
    for i in range(64):
        kept[A[i]] = thread
    C[thread] = kept[A[thread]]


@T.prim_func(s_tir=True)
def idle(A: T.Buffer((64,), "int32"), C: T.Buffer((64,), "int32")):
    """A loop of the host's, which no GPU runs."""
    T.func_attr({"tirx.noalias": True, "tirx.is_host_func": True})
    for i in range(64):
        C[i] = A[i]


def model_of(func: tirx.PrimFunc) -> tvm.IRModule:
    """A module whose `main` is one call of `func`, "planted" in it."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((64,), "int32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            called = relax.call_tir(builder.add_func(func, "planted"), x, relax.TensorType((64,), "int32"))
            result = builder.emit_output(builder.emit(called))
        builder.emit_func_output(result)
    return builder.get()


@pytest.mark.parametrize("target", TARGETS)
def test_spills_are_told(target):
    (found,) = problems(model_of(spilling), kernels_for(target))
    assert re.match(r"planted_kernel spills \d+ bytes", found)


@pytest.mark.parametrize("target", TARGETS)
def test_missing_kernels_are_told(target):
    (found,) = problems(model_of(idle), kernels_for(target))
    assert found.startswith("planted has no kernel")


@pytest.mark.parametrize("target", TARGETS)
def test_kernels_that_are_not_in_the_code_are_told(target, monkeypatch):
    kernels = Kernels(find_target(target))
    compiled = kernels.target.compile_kernels

    def forgetful(mod):
        host, (code,) = compiled(mod)
        return host, (replace(code, kernels=(*code.kernels, replace(code.kernels[0], name="planted_kernel_1"))),)

    monkeypatch.setattr(kernels.target, "compile_kernels", forgetful)
    with pytest.raises(KeyError, match="planted_kernel_1"):
        problems(model_of(spilling), kernels)


@needs_lld
def test_equal_functions_are_compiled_once(monkeypatch):
    kernels, seen = Kernels(find_target("rocm:gfx942")), []
    compiled = kernels.target.compile_kernels
    monkeypatch.setattr(kernels.target, "compile_kernels", lambda mod: seen.append(len(mod.functions)) or compiled(mod))
    first = kernels.of([("a", spilling), ("b", spilling)])
    again = kernels.of([("c", spilling), ("d", idle)])
    assert seen == [1, 1]
    assert first["a"] == first["b"] == again["c"] != again["d"] == ()
