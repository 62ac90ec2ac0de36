"""Every environment variable that Kompilo reads, typed; nothing else in the project reads the environment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import UsageError


@dataclass(frozen=True)
class Knobs:
    """Settings taken from the environment; all are optional.

    `dump` (KOMPILO_DUMP=folder): the IR after each pass is written there as numbered text files.
    `cache` (KOMPILO_CACHE=folder): where downloaded models and measured results are kept.
    `records` (KOMPILO_RECORDS=folder): the user's own tuning records; see docs/tuning.md.
    `verify` (KOMPILO_VERIFY=0|1): whether the IR is checked after each pass (on unless switched off).
    `threads` (KOMPILO_THREADS=N): threads a model runs with when the caller names none; None means all cores.
    `debug` (KOMPILO_DEBUG=0|1): full tracebacks and pass times on standard error.
    `tvm_runtime` (KOMPILO_TVM_RUNTIME=file): TVM's runtime library, where it is not found by itself.
    `cuda_graphs` (KOMPILO_CUDA_GRAPHS=0|1): whether kernels on NVIDIA's GPUs are launched as graphs (on unless off).

    `records` changes which configs are chosen: the artifact names each record that did. No other knob changes the code
    that is generated, so none of them is part of a cache key.
    """

    dump: Path | None = None
    cache: Path = field(default_factory=lambda: _default_folder(".cache/kompilo"))
    verify: bool = True
    threads: int | None = None
    debug: bool = False
    tvm_runtime: Path | None = None
    records: Path = field(
        default_factory=lambda: _default_folder(".local/share/kompilo/autotune_logs", "autotune_logs")
    )
    cuda_graphs: bool = True

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Knobs:
        """The knobs of `environment` (default: the process's); UsageError names a variable that cannot be read."""
        env = os.environ if environment is None else environment
        values: dict[str, Any] = {}
        for knob in fields(cls):
            variable = f"KOMPILO_{knob.name.upper()}"
            text = env.get(variable, "").strip()
            if text:
                values[knob.name] = _PARSERS[knob.name](variable, text)
        return cls(**values)


def _default_folder(below_home: str, below_temporary: str = "") -> Path:
    try:
        return Path.home() / below_home
    except RuntimeError:  # no $HOME, and a user whom the system does not know: as in many containers
        return Path(tempfile.gettempdir()) / f"kompilo-{os.getuid()}" / below_temporary


def toolkit_variables(names: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
    """What the variables of other programs' toolkits say ("CUDA_HOME"), in the order of `names`; those that are set."""
    known = os.environ if environment is None else environment
    return [known[name] for name in names if known.get(name)]


def _path(variable: str, text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"environment variable {variable}: the home folder in {text!r} is not known.") from None


def _flag(variable: str, text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise UsageError(f"environment variable {variable}: expected 0 or 1, found {text!r}.")
    return words[text.lower()]


def _count(variable: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"environment variable {variable}: expected a whole number of at least 1, found {text!r}.")
    return int(text)


_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "dump": _path,
    "cache": _path,
    "verify": _flag,
    "threads": _count,
    "debug": _flag,
    "tvm_runtime": _path,
    "records": _path,
    "cuda_graphs": _flag,
}
