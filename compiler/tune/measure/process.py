"""The parent's end of one worker process."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import Any

import psutil

from .protocol import Lines, Setup, encode

_CHUNK = 1 << 16
_LAST_WORDS = 4096


class WorkerProcess:
    """A running worker; `fileno` becomes readable when it has said something or died."""

    def __init__(self, setup: Setup):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `kill`
        # The worker empties its log before each job: what follows must be written at its end, wherever that is.
        fcntl.fcntl(self._log, fcntl.F_SETFL, fcntl.fcntl(self._log, fcntl.F_GETFL) | os.O_APPEND)
        request_end, self._requests = os.pipe()
        self._replies, reply_end = os.pipe()
        self._lines = Lines()
        self._process = subprocess.Popen(
            # -P: a file of the user's in this folder must not be taken for a module of the same name.
            [sys.executable, "-P", "-m", "kompilo.compiler.tune.measure.worker", str(request_end), str(reply_end),
             setup.to_text()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=[end for end in (request_end, reply_end, setup.cold_file) if end >= 0],
            env={**os.environ, **dict.fromkeys(("TVM_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")},
            # An interrupt at the terminal is the parent's to handle; and what a candidate starts dies with its group.
            start_new_session=True,
        )  # fmt: skip
        os.close(request_end)
        os.close(reply_end)
        os.set_blocking(self._replies, False)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._replies

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def processor_seconds(self) -> float:
        """Processor time that the worker has used so far; 0 if it is dead."""
        with suppress(psutil.Error):
            times = psutil.Process(self.pid).cpu_times()
            return times.user + times.system
        return 0.0

    def wants_processor(self) -> bool:
        """Whether the worker is neither asleep nor stopped nor dead."""
        with suppress(psutil.Error):
            return psutil.Process(self.pid).status() == psutil.STATUS_RUNNING
        return False

    def send(self, request: dict[str, Any]) -> None:
        """Ask for something; a dead worker is noticed by `receive`."""
        with suppress(BrokenPipeError):
            os.write(self._requests, encode(request))

    def receive(self) -> list[dict[str, Any]] | None:
        """What the worker has said since; None if it will not say anything more.

        Raises ValueError if that makes no sense.
        """
        try:
            data = os.read(self._replies, _CHUNK)
        except BlockingIOError:
            return []
        return self._lines.feed(data) if data else None

    def kill(self) -> None:
        """End the process and all that it started; safe to call twice."""
        if self._log.closed:
            return
        self._end()
        self._log.close()
        os.close(self._requests)
        os.close(self._replies)

    def cause_of_death(self) -> tuple[str, str]:
        """How the worker ended, and the last line that it wrote (or "")."""
        try:
            code = self._process.wait(0.5)  # its pipe is closed: it is about to end
            how = f"ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            how = "stopped answering"
        self._end()
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LAST_WORDS))
        text = self._log.read().decode(errors="replace")
        lines = ["".join(c for c in line if c.isprintable()).strip() for line in text.splitlines()]
        return how, next((line[:300] for line in reversed(lines) if line), "")

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
