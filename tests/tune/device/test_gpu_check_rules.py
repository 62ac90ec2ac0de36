"""What the benchmark for real GPUs checks: every template and every form of generic rules, played on the stand-in."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import sys
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from test_gpu_check import BENCHMARK, play

from kompilo.compiler.schedule.selection import matches
from kompilo.compiler.schedule.target import find_target
from kompilo.compiler.tune.reference import supported
from kompilo.compiler.tune.task import extract_tasks
from kompilo.targets.gpu import generic
from kompilo.targets.gpu.generic import table
from kompilo.targets.gpu.templates.table import TEMPLATES

from gpu.shim_support import needs_shim
from shim_target import install_shim_targets

# What leaves functions alone that are written as finished loops: it makes no kernel.
NO_RULE = "already_scheduled"
CUDA, ROCM = "cuda:sm_90", "rocm:gfx942"


@pytest.fixture
def benchmark_modules(monkeypatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARK))
    return {name: importlib.import_module(name) for name in ("bandwidth", "cases", "make", "rules")}


def operators_of(case: Any, hardware: Any) -> list[Any]:
    return [task.op for task in extract_tasks(case.model(), hardware, None, case.precision).tasks]


def missing_templates(cases: Any, targets: tuple[str, ...]) -> set[str]:
    """Templates that make no operator of the cases for any of `targets`."""
    missing = {template.name for template in TEMPLATES}
    for hardware in map(find_target, targets):
        for case in (None, *cases.check_cases()):
            if not missing or (case and case.precision not in hardware.precisions):
                continue
            operators = (
                [t.op for t in extract_tasks(case.model(), hardware, None, case.precision).tasks] if case else []
            )
            for op in filter(supported, operators or cases.integer_operators()):
                missing -= {template.name for template, _ in matches(op, hardware)}
    return missing


def test_every_template_has_a_case(benchmark_modules):
    assert missing_templates(benchmark_modules["cases"], (CUDA, ROCM)) == set()


@pytest.mark.parametrize(("target", "lacks"), [(CUDA, {"attention_matrix_core"}), (ROCM, {"attention_tensor_core"})])
def test_one_maker_reaches_none_of_the_others_units(benchmark_modules, target, lacks):
    """And a template without a case is told."""
    cases = benchmark_modules["cases"]
    only = type("Few", (), {"integer_operators": list, "check_cases": lambda: cases.check_cases()[-3:]})
    assert lacks <= missing_templates(only, (target,))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_amds_matrix_units_have_cases_of_each_type(benchmark_modules, dtype):
    """Products, convolutions and, of numbers that are none of integers, attention."""
    cases, hardware = benchmark_modules["cases"], find_target(ROCM)
    operators = list(cases.integer_operators())
    wanted = ("matmul", "conv 3x3, residual", "attention 50 x 50, depth 32")
    for case in cases.check_cases():
        if case.name in wanted and case.precision == "fp32":
            operators += operators_of(case, hardware)
    own = [op for op in operators if op.inputs[0].dtype == dtype]
    found = {template.name for op in own for template, _ in matches(op, hardware) if "matrix_core" in template.name}
    products = {"matmul_matrix_core", "conv2d_matrix_core"}
    assert found == products | ({"attention_matrix_core"} if dtype != "int8" else set())


def functions_of_rules() -> dict[CodeType, str]:
    """All functions and methods of the package of generic rules."""
    found = {}
    for info in pkgutil.iter_modules(generic.__path__, f"{generic.__name__}."):
        module = importlib.import_module(info.name)
        owners = [module, *(c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == info.name)]
        for owner in owners:
            for name, value in vars(owner).items():
                value = value.fget if isinstance(value, property) else value
                if inspect.isfunction(value) and value.__module__ == info.name and value.__code__.co_name != "__init__":
                    found[value.__code__] = f"{info.name.removeprefix(generic.__name__)[1:]}.{name}"
    return {code: name for code, name in found.items() if code.co_filename.startswith(generic.__path__[0])}


def reached(cases: list[Any], bandwidth: Any, target: str) -> set[CodeType]:
    """Code that runs while the kernels of `cases` are scheduled."""
    seen: set[CodeType] = set()
    hardware = find_target(target)
    for case in cases:
        function = bandwidth.function_of(case, hardware).func.with_attr("global_symbol", "main")
        sys.setprofile(lambda frame, event, argument: seen.add(frame.f_code) if event == "call" else None)
        try:
            hardware.schedule(function)
        finally:
            sys.setprofile(None)
    return seen


def test_every_generic_rule_has_a_case(benchmark_modules):
    bandwidth, rules = benchmark_modules["bandwidth"], benchmark_modules["rules"]
    functions = functions_of_rules()
    seen = reached(rules.rule_cases(), bandwidth, CUDA)
    assert {name for code, name in functions.items() if code not in seen} == set()
    assert {rule.__code__ for rule in table.RULES if rule.__name__ != NO_RULE} <= seen
    few = [case for case in rules.rule_cases() if "long row" not in case.name]
    seen = reached(few, bandwidth, CUDA)
    assert {"split.split", "split._divisor"} <= {name for code, name in functions.items() if code not in seen}


def made(place: Path, target: str, modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, names: str) -> Path:
    """A folder with one product, and the rules' cases whose names `names` finds."""
    install_shim_targets(place / "path", monkeypatch)
    make, cases, rules = (modules[name] for name in ("make", "cases", "rules"))
    chosen = [case for case in rules.rule_cases() if re.search(names, case.name)]
    monkeypatch.setattr(rules, "rule_cases", lambda: chosen)
    few = [case for case in cases.check_cases() if case.name == "matmul, thin" and case.precision == "fp32"][:1]
    changed = {"check_cases": lambda: few, "timed_cases": lambda small: [], "integer_operators": list, "CHECKED": 1}
    for name, value in {**changed, "_MEMORY": (24, 64)}.items():
        monkeypatch.setattr(make, name, value)
    make.make(place / "b", target, workers=1, say=lambda line: None)
    return place / "b"


SOME = (
    r"^(arg-max|LayerNorm, odd|running sums|scatter|transpose, odd).*float16|^(sum of a long|softmax of col).*float32"
)


@needs_shim
def test_rules_are_checked_on_the_stand_in(benchmark_modules, tmp_path, monkeypatch):
    bundle = made(tmp_path, "shim:a100", benchmark_modules, monkeypatch, SOME)
    done = play(bundle, tmp_path, "--only", "check")
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((bundle / "gpu_check.json").read_text())["rules"]
    answers = [json.loads(line) for line in (tmp_path / "rules.jsonl").read_text().splitlines()]
    assert [a["name"] for a in answers] == [f["name"] for f in facts]
    assert len(answers) == 7
    assert all(0 <= a["error"] <= f["limit"] for a, f in zip(answers, facts, strict=True))
    rows = re.findall(r"^\| (\w+) \| (float\d+) \| (\d+) \| \3 \|", (tmp_path / "results.md").read_text(), re.MULTILINE)
    chains, others = {("chain", t) for t in ("float16", "float32")}, {("fallback", "float16"), ("map", "float16")}
    assert {(rule, dtype) for rule, dtype, _ in rows} >= chains | others | {("reduction", "float32")}
    wrong = play(bundle, tmp_path / "wrong", "--only", "check", fault="wrong")
    assert wrong.returncode == 1
    assert "- sum of a long row, float32: element [0, 0]: expected " in wrong.stdout
    broken = play(bundle, tmp_path / "broken", "--only", "check", fault="kernel:719")
    assert broken.returncode == 1
    assert len(re.findall(r"^- .*, float\d+: the process ended", broken.stdout, re.MULTILINE)) == 7


@needs_shim
def test_rules_are_checked_for_amds_driver(benchmark_modules, tmp_path, monkeypatch):
    bundle = made(tmp_path, "rocmshim:gfx1100", benchmark_modules, monkeypatch, "^(softmax, odd|pad), float32")
    done = play(bundle, tmp_path, "--only", "check")
    answers = [json.loads(line) for line in (tmp_path / "rules.jsonl").read_text().splitlines()]
    assert [a["problems"] for a in answers] == [[], []], done.stdout + done.stderr


@needs_shim
def test_a_rule_that_cannot_be_built_costs_its_own_line(benchmark_modules, tmp_path, monkeypatch):
    bandwidth = benchmark_modules["bandwidth"]
    kernels_of = bandwidth.kernels_of

    def refusing(case, *rest):
        if case.name.startswith("pad"):
            raise bandwidth.KompiloError("pad is refused.")
        return kernels_of(case, *rest)

    monkeypatch.setattr(bandwidth, "kernels_of", refusing)
    bundle = made(tmp_path, "shim:a100", benchmark_modules, monkeypatch, "^(tanh, odd|pad), float32")
    done = play(bundle, tmp_path, "--only", "check")
    assert done.returncode == 1
    assert "- pad, float32: pad is refused." in done.stdout
    assert re.search(r"^\| map \| float32 \| 1 \| 1 \|", done.stdout, re.MULTILINE)
    assert re.search(r"^\| not built \| float32 \| 0 \| 1 \|", done.stdout, re.MULTILINE)
