"""The process that checks what generic rules make: numpy and the driver only."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from kompilo_measure.compiler.runtime.hip_driver import driver_class
from kompilo_measure.compiler.tune.bands import Truth
from kompilo_measure.compiler.tune.device.parts import read_program
from kompilo_measure.compiler.tune.device.player import MANIFEST
from kompilo_measure.compiler.tune.device.runner import DeviceRun, RunFailure
from kompilo_measure.compiler.tune.reference import Expected


def serve(here: Path, device: int, first: int, say: Callable[[str], None]) -> None:
    """Answer a line of JSON for each rule's case of the bundle at `here` from number `first` on."""
    files = zipfile.ZipFile(here / "candidates.zip")
    driver = driver_class(json.loads((here / MANIFEST).read_text())["kind"])()
    context, cache = driver.context(device), driver.l2_bytes(device)
    cases = json.loads((here / "gpu_check.json").read_text())["rules"]
    for number, case in list(enumerate(cases))[first:]:
        answer = {"number": number, "name": case["name"], **_checked(case, context, cache, files)}
        say(json.dumps(answer))


def _checked(case: dict[str, Any], context: Any, cache: int, files: zipfile.ZipFile) -> dict[str, Any]:
    """The error of a case, or its problems."""
    if "problem" in case:
        return {"problems": [case["problem"]]}
    arrays = np.load(io.BytesIO(files.read(case["arrays"])))
    wanted = arrays["wanted"].astype(np.float64)
    inputs = [arrays[f"arr_{k}"] for k in range(len(arrays.files) - 1)]
    largest = float(np.abs(wanted).max()) or 1.0
    slack = np.full(wanted.shape, case["limit"] * largest)
    program = read_program(case["parts"], files.read)
    try:
        with DeviceRun(context, program, inputs, (wanted.shape, case["result"]), [], cache) as run:
            return {"error": run.check(Truth((((), Expected(wanted, slack, largest)),))), "problems": []}
    except RunFailure as failure:
        if failure.lost:
            raise
        return {"problems": [str(failure)]}
