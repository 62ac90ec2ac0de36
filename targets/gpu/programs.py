"""Programs of GPU toolkits: where they are installed, and running them so that nothing of theirs is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...compiler.errors import KompiloError
from ...compiler.knobs import toolkit_variables

# A kernel takes a second; what takes minutes has hung, or was unrolled beyond reason.
LIMIT_SECONDS = 300.0


@dataclass(frozen=True)
class Answer:
    """What a program gave: its exit status, negative for the signal that ended it, and what it wrote."""

    status: int
    output: bytes
    errors: str

    @property
    def died_of(self) -> str | None:
        """The name of the signal that ended the program ("SIGSEGV"); None if it ended by itself."""
        if self.status >= 0:
            return None
        known = {s.value: s.name for s in signal.Signals}
        return known.get(-self.status, f"signal {-self.status}")


def run(command: Sequence[str], what: str, stdin: bytes = b"", limit: float = LIMIT_SECONDS) -> Answer:
    """Runs a program in a process group of its own, ended as a whole after `limit` seconds.

    `what` names the work in messages ("nvcc for sm_80"). Raises KompiloError where the program cannot be started or
    takes too long.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise KompiloError(f"{what}: {command[0]!r} cannot be started: {error.strerror or error}.") from None
    try:
        output, errors = process.communicate(stdin, timeout=limit)
    except subprocess.TimeoutExpired:
        raise KompiloError(f"{what}: not done within {limit:.0f} s, and stopped.") from None
    finally:
        _end_group(process)
    return Answer(process.returncode, output, errors.decode("utf-8", "replace"))


def toolkit_folders(variables: Sequence[str], defaults: Sequence[str]) -> list[Path]:
    """Folders of a toolkit, from the toolkit's own environment variables first; those that exist, each once."""
    folders = dict.fromkeys(Path(text).expanduser() for text in [*toolkit_variables(variables), *defaults])
    return [folder for folder in folders if folder.is_dir()]


def programs_on(names: Sequence[str], folders: Sequence[Path]) -> Iterator[str]:
    """Paths of programs of these names, in the order of the names: those of PATH, then those of `folders`."""
    for name in names:
        for folder in (None, *folders):
            path = shutil.which(name, path=folder and str(folder))
            if path:
                yield path


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Compilers start further programs, which would go on without them."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:
            process.kill()
        process.communicate()
