"""Ctrl-C that waits for a good moment, so that nothing that was measured is lost on its way to the records."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """A context in which a first signal that would raise KeyboardInterrupt only sets `asked`; a second one raises it.

    Signals that end the process, or that nobody handles in Python, are left alone, as is everything in threads other
    than the main one, to which no signals come.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:  # a handler may have replaced itself
                signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        try:
            self._before[number](number, frame)  # type: ignore[operator]
        except KeyboardInterrupt:
            if self.asked:
                raise
            self.asked = True
