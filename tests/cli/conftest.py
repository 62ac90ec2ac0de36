"""A small model, its artifact, and a way to run the command line in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from small_models import small_model

from kompilo.compiler.cli.main import run_command


@dataclass(frozen=True)
class Outcome:
    """Exit code and what was written."""

    code: int
    out: str
    err: str


@pytest.fixture
def kompilo(capfd):
    """Runs a command line: kompilo("compile", path) -> Outcome."""

    def run(*args: object) -> Outcome:
        capfd.readouterr()
        code = run_command([str(a) for a in args])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def fails(kompilo):
    """Runs a command line that must exit with 2: one sentence, at most one hint, no traceback; returns that text."""

    def run(*args: object) -> str:
        outcome = kompilo(*args)
        errors = [line for line in outcome.err.splitlines() if line.startswith("kompilo: error: ")]
        assert outcome.code == 2, outcome
        assert len(errors) == 1, outcome
        assert "Traceback" not in outcome.err, outcome
        assert outcome.out == "", outcome
        return outcome.err

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """The small model with a fixed batch of 1."""
    return small_model(tmp_path_factory.mktemp("model") / "small.onnx")


@pytest.fixture(scope="session")
def dynamic_model(tmp_path_factory) -> Path:
    """The small model with a dynamic batch N."""
    return small_model(tmp_path_factory.mktemp("model") / "dynamic.onnx", "N")


@pytest.fixture(scope="session")
def artifact(model) -> Path:
    """The small model, compiled once; tests must not change the file."""
    return _compiled(model)


@pytest.fixture(scope="session")
def dynamic_artifact(dynamic_model) -> Path:
    """The small model with a dynamic batch, compiled once."""
    return _compiled(dynamic_model)


def _compiled(model: Path) -> Path:
    import kompilo

    path = model.with_suffix(".kpo")
    kompilo.compile(model).save(path)
    return path
