"""SIGINT and SIGTERM deferred to the end of an update, so that it is finished and saved first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTICE = b"cai: finishing this update; it is saved, then the run ends (signal again: at once)\n"


class StopSignal:
    """The first of SIGNALS that was received, if any."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.previous_handlers: dict[int, Any] = {}

    def record(self, number: int, _: object) -> None:
        """Signal handler: note the first signal, act on the second."""
        if self.number is not None:
            self.reraise()
            return
        self.number = number
        os.write(2, NOTICE)  # not print: the signal may interrupt one

    def reraise(self) -> None:
        """Raise the noted signal under its previous handler.

        Raises:
            KeyboardInterrupt: the signal was received by another process, or its handler returned.
        """
        self.restore()
        if self.number is not None:
            signal.raise_signal(self.number)
        raise KeyboardInterrupt

    def restore(self) -> None:
        """Reinstall the previous handlers."""
        while self.previous_handlers:
            signal.signal(*self.previous_handlers.popitem())


@contextmanager
def deferred_signals() -> Iterator[StopSignal]:
    """Inside, the first signal is only recorded and the second takes effect.

    Signals that were ignored stay ignored. Outside the main thread nothing is changed.
    """
    stop = StopSignal()
    if threading.current_thread() is threading.main_thread():
        handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        stop.previous_handlers = {number: signal.signal(number, stop.record) for number in handled}
    try:
        yield stop
    finally:
        stop.restore()
