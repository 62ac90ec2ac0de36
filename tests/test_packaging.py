"""The mapped package layout: every folder of the repository that holds code is installed under its import name."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_folder_with_code_is_a_package():
    with (ROOT / "pyproject.toml").open("rb") as file:
        setuptools = tomllib.load(file)["tool"]["setuptools"]
    found = {"kompilo"}
    for package, folder in setuptools["package-dir"].items():
        for marker in (ROOT / folder).rglob("__init__.py"):
            parts = marker.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *parts)))
    assert set(setuptools["packages"]) == found


def test_an_installed_package_holds_records_and_cost_models(tmp_path):
    """What the build puts into a wheel, from a copy of the sources to which records of another target are added."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        folders = tomllib.load(file)["tool"]["setuptools"]["package-dir"].values()
    for folder in folders:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    logs = tmp_path / "autotune_logs"
    (logs / "cpu-test-2c").mkdir()
    for name in ("tuned.jsonl", "zoo.jsonl.gz", "cost_model.npz", ".lock"):
        (logs / "cpu-test-2c" / name).write_bytes(b"x")
    command = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "build_py", "--build-lib", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = tmp_path / "out" / "kompilo" / "autotune_logs"
    expected = {f.relative_to(logs) for f in logs.rglob("*") if f.is_file() and f.name != ".lock"}
    assert {f.relative_to(built) for f in built.rglob("*") if f.is_file()} == expected


def test_the_records_that_come_with_kompilo_are_found():
    from kompilo.compiler.tune.store import installed_store

    store = installed_store()
    assert store is not None
    assert (store.folder / "README.md").is_file()


def test_the_package_and_its_metadata_tell_one_version():
    import kompilo

    with (ROOT / "pyproject.toml").open("rb") as file:
        assert kompilo.__version__ == tomllib.load(file)["project"]["version"]
