"""Knobs: every variable, and a sentence for each that cannot be read."""

import dataclasses
import os
import re
import tempfile
from pathlib import Path

import pytest

from kompilo.compiler.errors import UsageError
from kompilo.compiler.knobs import Knobs


def test_defaults():
    assert Knobs.from_environment({}) == Knobs()
    assert Knobs.from_environment({"KOMPILO_DUMP": " ", "KOMPILO_THREADS": ""}) == Knobs()


def test_all_variables():
    environment = {
        "KOMPILO_DUMP": "/tmp/ir",
        "KOMPILO_CACHE": "~/models",
        "KOMPILO_VERIFY": "off",
        "KOMPILO_THREADS": "3",
        "KOMPILO_DEBUG": "1",
        "KOMPILO_TVM_RUNTIME": "/opt/lib.so",
        "KOMPILO_RECORDS": "~/records",
        "KOMPILO_CUDA_GRAPHS": "0",
    }
    home = Path.home()
    expected = Knobs(Path("/tmp/ir"), home / "models", False, 3, True, Path("/opt/lib.so"), home / "records", False)
    assert Knobs.from_environment(environment) == expected


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("KOMPILO_VERIFY", "maybe", "KOMPILO_VERIFY: expected 0 or 1, found 'maybe'"),
        ("KOMPILO_THREADS", "0", "KOMPILO_THREADS: expected a whole number of at least 1, found '0'"),
        ("KOMPILO_THREADS", "two", "found 'two'"),
    ],
)
def test_unreadable_values(variable, text, message):
    with pytest.raises(UsageError, match=message):
        Knobs.from_environment({variable: text})


def test_without_a_home_folder(monkeypatch):
    """A user without $HOME and without a name in the system still has folders; what needs the home is refused."""

    def unknown(*_):
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    knobs = Knobs.from_environment({})
    assert knobs.cache == Path(tempfile.gettempdir()) / f"kompilo-{os.getuid()}"
    assert knobs.records == knobs.cache / "autotune_logs"
    with pytest.raises(UsageError, match="KOMPILO_DUMP: the home folder in '~/ir' is not known"):
        Knobs.from_environment({"KOMPILO_DUMP": "~/ir"})


def test_the_documentation_lists_every_variable_and_no_other():
    table = (Path(__file__).parent.parent / "docs" / "cli.md").read_text()
    listed = set(re.findall(r"^\| `(KOMPILO_\w+)=", table, re.MULTILINE))
    assert listed == {f"KOMPILO_{knob.name.upper()}" for knob in dataclasses.fields(Knobs)}


def test_nothing_else_reads_the_environment():
    root = Path(__file__).parent.parent
    files = [f for top in ("compiler", "targets", "models", "kompilo") for f in (root / top).rglob("*.py")]
    readers = [
        str(f.relative_to(root)) for f in files if re.search(r"environ\[|environ\.get|os\.getenv", f.read_text())
    ]
    assert readers == []
