"""The CPU target as the compiler finds and uses it."""

import pytest
import tvm
from conv_cases import conv2d

from kompilo.compiler.errors import TargetError
from kompilo.compiler.schedule.target import available, find_target
from kompilo.compiler.schedule.template import Template
from kompilo.targets.cpu.spec import CORES
from kompilo.targets.cpu.templates.conv2d_direct import DirectConv2D

# Bytes of a vector -> what its registers are called in assembly, and what multiplies there.
CODE = {
    ("x86_64", 64): ("%zmm", "vfmadd"),
    ("x86_64", 32): ("%ymm", "vfmadd"),
    ("x86_64", 16): ("%xmm", "mulps"),
    ("aarch64", 16): (".4s", "fmla"),
}


def test_cpu_is_installed_as_an_entry_point():
    assert "cpu" in available()
    assert find_target("cpu").spec.kind == "cpu"


def test_presets_reach_llvm():
    target = find_target("cpu:znver4,cores=4").tvm_target()
    assert target.attrs["mcpu"] == "znver4"
    assert target.attrs["num-cores"] == 4
    with pytest.raises(TargetError, match="unknown CPU"):
        find_target("cpu:nothing")


def test_templates_and_legalizations_are_there():
    target = find_target("cpu")
    assert all(isinstance(template, Template) for template in target.templates)
    assert all(name.startswith("relax.") for name in target.legalizations())


@pytest.mark.parametrize("preset", CORES)
def test_every_preset_compiles_to_vectors_of_its_width(preset):
    target = find_target(f"cpu:{preset}")
    op = conv2d((1, 14, 14, 32), (64, 32, 3, 3), epilogue=())
    func = DirectConv2D().build(op, target.spec, DirectConv2D().match(op, target.spec).default).func
    assembly = tvm.compile(func, target.tvm_target()).mod.inspect_source("asm")
    registers, multiplication = CODE[CORES[preset].arch, target.spec.vector_bytes]
    assert registers in assembly
    assert multiplication in assembly
    assert target.required_features
