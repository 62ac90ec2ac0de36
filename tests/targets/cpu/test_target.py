"""The CPU target as the compiler finds and uses it."""

import pytest

from kompilo.compiler.errors import TargetError
from kompilo.compiler.schedule.target import available, find_target
from kompilo.compiler.schedule.template import Template


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
