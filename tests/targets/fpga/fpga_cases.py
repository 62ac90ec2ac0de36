"""Shared by the tests of FPGA kernels: data, tools that may be missing, simulators for a batch of kernels."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from kompilo.compiler.errors import TargetError
from kompilo.targets.fpga.kernel.ir import Kernel
from kompilo.targets.fpga.kernel.model import estimate
from kompilo.targets.fpga.sim.case import Case
from kompilo.targets.fpga.sim.csim import CSimulator
from kompilo.targets.fpga.sim.headers import header_folder
from kompilo.targets.fpga.sim.rtl import RtlSimulator


def need(*programs: str) -> None:
    """Skips the test, saying what is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (scripts/install_system_packages.sh)")


def need_headers() -> None:
    """Skips the test where the ap_* headers cannot be had."""
    need("g++")
    try:
        header_folder()
    except TargetError as error:
        pytest.skip(str(error))


def random_inputs(kernel: Kernel, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Numbers over the whole range of integers; floats of a normal distribution."""
    return {a.name: random_array(a.shape, a.dtype, rng) for a in kernel.role("in")}


def random_array(shape, dtype, rng: np.random.Generator) -> np.ndarray:
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy())
    return rng.integers(dtype.low, dtype.high, shape, endpoint=True, dtype=dtype.numpy())


def template_cases(template, problems, configs, count: int, rng, prepare=random_inputs) -> list[Case]:
    """`count` different problems, `problems(rng)` each, with one of `configs(template, problem)`, and its reference."""
    cases: dict = {}
    while len(cases) < count:
        problem = problems(rng)
        if problem in cases:
            continue
        space = configs(template, problem)
        config = space[int(rng.integers(len(space)))]
        kernel = template.build(problem, config)
        inputs = prepare(kernel, rng)
        cases[problem] = Case(kernel, inputs, template.expected(problem, config, inputs))
    return list(cases.values())


def check_c(cases: list[Case], folder) -> None:
    """C simulation gives what is expected."""
    need_headers()
    run = CSimulator([c.kernel for c in cases], folder, "-O0").run(cases)
    for case, outcome in zip(cases, run.outcomes, strict=True):
        for name, expected in case.expected.items():
            np.testing.assert_array_equal(outcome.outputs[name], expected, err_msg=f"{case.kernel.name} {name}")
        assert outcome.mismatches == 0
    assert not run.failed


def check_rtl(cases: list[Case], folder) -> None:
    """RTL simulation gives what is expected, in as many cycles as predicted."""
    need("verilator", "g++")
    run = RtlSimulator([c.kernel for c in cases], folder, "-O0").run(cases)
    for case, outcome in zip(cases, run.outcomes, strict=True):
        for name, expected in case.expected.items():
            np.testing.assert_array_equal(outcome.outputs[name], expected, err_msg=f"{case.kernel.name} {name}")
        assert outcome.cycles == estimate(case.kernel).cycles, case.kernel.name
        assert outcome.mismatches == 0
    assert not run.failed
