"""Being told to stop in the middle of an update: the update is finished and saved first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTED = b"cai: finishing this update, then it is saved and the run ends (once more: at once)\n"


class StopSignal:
    """Which of SIGNALS has come, if one has."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.before: dict[int, Any] = {}

    def record(self, number: int, _: object) -> None:
        if self.number is not None:
            self.reraise()
            return
        self.number = number
        os.write(2, NOTED)  # not print: a signal may come in the middle of one

    def reraise(self) -> None:
        """Do what the signal would have done; where another process was told, what Ctrl-C does."""
        self.restore()
        if self.number is not None:
            signal.raise_signal(self.number)
        raise KeyboardInterrupt

    def restore(self) -> None:
        while self.before:
            signal.signal(*self.before.popitem())


@contextmanager
def deferred_signals() -> Iterator[StopSignal]:
    """Inside, the first signal is only noted, the second obeyed. None is heard that was ignored, or in another thread."""
    halt = StopSignal()
    if threading.current_thread() is threading.main_thread():
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        halt.before = {number: signal.signal(number, halt.record) for number in heard}
    try:
        yield halt
    finally:
        halt.restore()
