"""A process between this package and an engine: it ends the engine, and all that the engine has
started, when its standard input closes. That happens even if the parent is killed.

It is run by its path, with nothing but Python's standard library: `engine_watch.py COMMAND...`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

GRACE_SECONDS = 10.0
"""Between the request to end and the end."""
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: a signal for the case that this process is killed too."""


def watch(command: Sequence[str]) -> int:
    """Run the engine until it ends, or the standard input does; its exit status."""
    engine = subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )
    threading.Thread(target=_end_with_input, args=(engine,), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # in a thread: the wait below holds a lock that a handler would wait for
        signal.signal(number, lambda *_: threading.Thread(target=end, args=(engine,)).start())
    status = engine.wait()
    _signal_all(engine, signal.SIGKILL)  # workers that the engine left behind
    return status


def _end_with_input(engine: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    end(engine)


def end(engine: subprocess.Popen[bytes]) -> None:
    """Ask the engine and its workers to end, and kill them if they do not."""
    _signal_all(engine, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        engine.wait(GRACE_SECONDS)
    _signal_all(engine, signal.SIGKILL)


def _signal_all(engine: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(engine.pid, number)  # it leads a session of its own


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(watch(sys.argv[1:]))
