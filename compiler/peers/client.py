"""The parent's end of a worker process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .. import errors
from ..errors import KompiloError
from .base import OURS


class WorkerProcess:
    """A child process holding the runtime called `runtime`; a context manager that ends it."""

    def __init__(self, runtime: str):
        self.runtime = runtime
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            # -P: a file of the user's in this folder must not be taken for a module of the same name.
            [sys.executable, "-P", "-m", "kompilo.compiler.peers.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            # An interrupt at the terminal is the parent's to handle: it ends its children.
            start_new_session=True,
        )

    def load(self, path: Path, threads: int, cores: list[int], **options: str) -> dict[str, Any]:
        """Load a model with the runtime's own `options`; {"version": text, "load_s": seconds, "runs_on": text}."""
        place = {"path": os.fspath(path), "threads": threads, "cores": cores}
        return self._ask(do="load", runtime=self.runtime, **place, options=options)

    def set_inputs(self, path: Path) -> float:
        """Give the inputs as an .npz file; returns the time of the first run in ms."""
        return self._ask(do="inputs", path=os.fspath(path))["first_ms"]

    def burst(self, runs: int, warm: int) -> list[float]:
        """The times in ms of `runs` runs after `warm` untimed ones."""
        return self._ask(do="burst", runs=runs, warm=warm)["ms"]

    def outputs(self, path: Path) -> dict[str, np.ndarray]:
        """Run once; outputs by name. `path` is where the child leaves them."""
        names = self._ask(do="outputs", path=os.fspath(path))["names"]
        with np.load(path, allow_pickle=False) as members:
            return {name: members[str(k)] for k, name in enumerate(names)}

    def _ask(self, **request: Any) -> dict[str, Any]:
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline() if self._process.stdout else ""
        except BrokenPipeError:
            line = ""
        if not line:
            raise KompiloError(f"the {self.runtime} process died{self._cause()}.")
        reply = json.loads(line)
        if "error" in reply:
            raise _rebuild(self.runtime, **reply["error"])
        return reply

    def _cause(self) -> str:
        """How the child ended and the last line it wrote."""
        code = self._process.wait()
        how = f" of signal {-code}" if code < 0 else f" with exit code {code}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return how + (f": {lines[-1][:300]}" if lines else "")

    def close(self) -> None:
        """End the child; safe to call twice."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        self.close()


def _rebuild(runtime: str, kind: str, message: str, hint: str | None) -> KompiloError:
    cls = getattr(errors, kind, KompiloError)
    named = runtime == OURS or runtime in message.lower().replace(" ", "")
    return cls(message if named else f"{runtime}: {message}", hint)
