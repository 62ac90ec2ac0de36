"""Knobs: every variable, and a sentence for each that cannot be read."""

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
    }
    expected = Knobs(Path("/tmp/ir"), Path.home() / "models", verify=False, threads=3, debug=True)
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
