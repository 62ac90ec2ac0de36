"""The examples say in one sentence what is wrong with what they were given."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("artifact", ["nothere.kpo", "README.md"])
def test_classify_files_without_an_artifact(zoo_model, artifact):
    zoo_model("magika")
    command = [sys.executable, str(EXAMPLES / "classify_files.py"), artifact, "README.md"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=EXAMPLES.parent)
    assert done.returncode == 1
    assert artifact in done.stderr
    assert len(done.stderr.splitlines()) == 1
