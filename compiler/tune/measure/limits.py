"""What the operating system enforces on a worker, and what it tells about it (Linux)."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

# Text by which libraries say that memory ran out.
OUT_OF_MEMORY = ("out of memory", "bad_alloc", "cannot allocate", "memoryerror")
_PR_SET_PDEATHSIG = 1
_STATM = Path("/proc/self/statm")


def die_with_parent(parent: int) -> None:
    """From now on the system kills this process when the thread that started it ends; exits if that has happened."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def address_space() -> int:
    """Bytes of addresses that this process has mapped, used or not."""
    return int(_STATM.read_text().split()[0]) * resource.getpagesize()


def resident_bytes() -> int:
    """Bytes of memory that this process occupies."""
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()
