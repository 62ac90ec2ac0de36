"""Writing a project: every file of it, for one design and one run's data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ....compiler.errors import TargetError
from ..design.pack import TOP
from ..design.record import Design
from ..kernel.verilog import emit_verilog
from . import scripts, sources
from .report import report, report_html


def project_files(design: Design, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> dict[str, bytes]:
    """The files of the project by their paths; `inputs` and what is expected of them go into its data."""
    facts = report(design)
    texts = {
        "kernels.h": sources.header(design),
        "kernels.cpp": sources.kernels(design),
        "testbench.cpp": sources.testbench(design),
        "host.cpp": sources.host(design),
        "connectivity.cfg": sources.connectivity(design),
        "run_hls.tcl": scripts.hls_script(design),
        "Makefile": scripts.makefile(design),
        "README.md": scripts.readme(facts),
        "report.json": json.dumps(facts, indent=1) + "\n",
        "report.html": report_html(facts),
        f"verilog/{TOP}.v": emit_verilog(design.kernel, TOP).source(),
    }
    kinds = {a.name: a.dtype.numpy() for a in design.kernel.arrays}
    data = {f"{name}.bin": _bytes(a, kinds[name]) for name, a in zip(design.inputs, inputs, strict=True)}
    data |= {f"{name}.golden.bin": _bytes(a, kinds[name]) for name, a in zip(design.outputs, outputs, strict=True)}
    return {**{path: text.encode() for path, text in texts.items()}, **sources.data_files(design, data)}


def write_project(
    folder: Path, design: Design, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> list[str]:
    """Writes the project into `folder`, made where it is missing; the paths written. Data of an earlier project that
    this one has not are removed. TargetError if that fails."""
    files = project_files(design, inputs, outputs)
    try:
        for old in folder.glob("data/*.bin"):  # of an earlier project, whose arrays had other names
            if f"data/{old.name}" not in files:
                old.unlink()
        for path, data in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    except OSError as error:
        raise TargetError(f"project {str(folder)!r}: cannot be written ({error.strerror}).") from error
    return sorted(files)


def _bytes(data: np.ndarray, dtype: np.dtype) -> bytes:
    return np.ascontiguousarray(data).astype(dtype, copy=False).tobytes()
