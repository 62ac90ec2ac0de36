"""What all tests share: the model zoo with visible skips, and golden texts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kompilo.compiler.errors import UsageError
from kompilo.models import zoo
from kompilo.models.zoo_model import ZooModel

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes golden texts anew instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="write golden texts anew (look at the diff!)")


@pytest.fixture(scope="session", autouse=True)
def _no_records_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compilations of the tests do not depend on what the user has tuned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KOMPILO_RECORDS", str(tmp_path_factory.mktemp("records") / "none"))
        yield


@pytest.fixture(scope="session")
def zoo_model() -> Callable[[str], ZooModel]:
    """`zoo_model(name)` gives a zoo model whose files are at hand; it skips, with the reason, if a download fails."""

    def fetch(name: str) -> ZooModel:
        model = zoo.find(name)
        try:
            model.path()
            model.real_inputs()
        except UsageError as error:
            pytest.skip(f"zoo:{name}: {error}")
        return model

    return fetch


@pytest.fixture(scope="module")
def reference() -> Iterator[Callable[[Path, Mapping[str, np.ndarray]], list[np.ndarray]]]:
    """Runs ONNX Runtime: `reference(path, feeds)` gives the outputs in the model's order."""
    import onnxruntime

    sessions: dict[Path, Any] = {}

    def run(path: Path, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if path not in sessions:
            sessions.clear()
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            sessions[path] = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return list(sessions[path].run(None, dict(feeds)))

    yield run
    sessions.clear()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(file, text)` fails unless tests/golden/FILE holds `text`; `--update-golden` writes it."""

    def compare(file: str, text: str) -> None:
        path = GOLDEN / file
        if request.config.getoption("--update-golden"):
            path.write_text(text)
            return
        expected = path.read_text() if path.exists() else ""
        if text != expected:
            lines = difflib.unified_diff(expected.splitlines(), text.splitlines(), "golden", "found", lineterm="")
            pytest.fail(f"{path.name} differs; --update-golden accepts it:\n" + "\n".join(lines), pytrace=False)

    return compare
