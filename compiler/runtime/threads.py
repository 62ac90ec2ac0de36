"""How many threads TVM's kernels use, per calling thread.

TVM keeps one pool of workers for each thread that calls it, made at the first need with a size that cannot grow later.
Every loaded module has its own number of threads, so the number is set before a call whenever the calling thread last
used another one.
"""

from __future__ import annotations

import ctypes
import operator
import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from ..errors import UsageError
from ..knobs import Knobs
from .host import allowed_cpus, default_threads
from .library import ensure_runtime

_MAX_THREADS = 1024
_MOST_SHARED = 4  # workers for each logical CPU that a thread's pool has for the sake of modules it may never call
_SHARE_CORES = -3  # TVM's mode in which every worker may run on every one of the CPUs given
_SET_CONCURRENCY = "_ZN3tvm7runtime9threading17SetMaxConcurrencyEi"

_widest = 1  # the most threads that any module of this process was loaded with


class _CallingThread(threading.local):
    """What TVM was last told in this thread. `count` 0: nothing yet; `pool`: the size of its pool, 0 without one."""

    count = 0
    pool = 0
    forked = False


current = _CallingThread()


def resolve_threads(threads: int | None) -> int:
    """The number of threads to use: `threads`, else $KOMPILO_THREADS, else the physical cores this process may use.

    Raises:
        UsageError: not an integer (of Python's or numpy's) from 1 to 1024.
    """
    global _widest
    if threads is None:
        threads = Knobs.from_environment().threads or default_threads()
    try:
        count = 0 if isinstance(threads, bool) else operator.index(threads)
    except TypeError:
        count = 0
    if not 1 <= count <= _MAX_THREADS:
        raise UsageError(f"threads: expected an integer from 1 to {_MAX_THREADS} or None, found {threads!r}.")
    _widest = max(_widest, count)
    return count


def use_threads(count: int) -> None:
    """Lets kernels that this thread launches use `count` threads. Call it if `current.count` differs."""
    limit = _limiter()
    if count == 1 and limit is not None:
        limit(1)  # TVM then runs parallel loops inline, and makes no pool
    elif current.forked and limit is not None:
        limit(1)  # the workers of this thread's pool did not survive the fork
    else:
        _configure(count)
    current.count = count


def _configure(count: int) -> None:
    configure = ensure_runtime().get_global_func("runtime.config_threadpool")
    cpus = allowed_cpus()
    if not current.pool:
        # Room for every module that this thread may call later, but not for one that wants far more than helps.
        current.pool = max(count, min(_widest, _MOST_SHARED * len(cpus)), len(cpus))
        _apply(configure, cpus, current.pool, current.pool)
    count = min(count, current.pool)
    _apply(configure, cpus, count, count)


def _apply(configure: Any, cpus: list[int], count: int, size: int) -> None:
    """TVM takes the length of the list of CPUs as the size of a new pool, so the list is repeated up to it."""
    names = [str(cpus[i % len(cpus)]) for i in range(size)]
    configure(_SHARE_CORES, count, names)


@cache
def _limiter() -> Callable[[int], Any] | None:
    """TVM's SetMaxConcurrency, which has no name in its function registry; None if the library hides it."""
    ensure_runtime()
    try:
        function = ctypes.CDLL(None)[_SET_CONCURRENCY]
    except AttributeError:
        return None
    function.argtypes, function.restype = [ctypes.c_int], None
    return function


def _after_fork() -> None:
    """A forked child has only the forking thread: its pool's workers are gone, so it runs kernels inline.

    Other threads of the child make pools of their own.
    """
    if current.pool:
        current.forked = True
    current.count = 0


os.register_at_fork(after_in_child=_after_fork)
