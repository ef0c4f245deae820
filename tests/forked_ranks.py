"""Two processes as torchrun starts them, forked from this one: they import nothing again.

Like torchrun, it keeps one store for all attempts, and starts all processes again when one ends.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from torch.distributed import TCPStore

LIMIT = 240.0
"""Seconds, for all attempts together."""
PATIENCE = 30.0
"""Seconds between SIGTERM and SIGKILL for the process whose partner has ended, as in torchrun."""


def run_forked_ranks(work: Callable[[], None], log: Path, restarts: int = 0) -> None:
    """Call `work` in processes of rank 0 and 1, which have to succeed.

    Args:
        log: file for what they print.
        restarts: how often both are started again after one has failed.
    """
    launcher = os.fork()
    if launcher == 0:
        _end_with(lambda: _launch(work, restarts), log)
    code = _exit_code(launcher, time.monotonic() + LIMIT)
    if code is None:
        os.killpg(launcher, signal.SIGKILL)
        os.waitpid(launcher, 0)
    assert code == 0, log.read_text(encoding="utf-8", errors="replace")[-12000:]


def _launch(work: Callable[[], None], restarts: int) -> None:
    os.setpgid(0, 0)
    # ranks of one attempt find what those of the one before left in it
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    for attempt in range(restarts + 1):
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(attempt)
        if _run_both(work):
            return
    raise AssertionError(f"{restarts + 1} attempts have failed")


def _run_both(work: Callable[[], None]) -> bool:
    """Whether both have succeeded. Where one fails, the other is ended."""
    running = {_fork_rank(work, rank) for rank in range(2)}
    has_failed = False
    while running:
        child, status = os.waitpid(0, 0)
        running.remove(child)
        if status and not has_failed:
            has_failed = True
            for other in running:
                os.kill(other, signal.SIGTERM)
                if _exit_code(other, time.monotonic() + PATIENCE) is None:
                    os.kill(other, signal.SIGKILL)
                    os.waitpid(other, 0)
            running.clear()
    return not has_failed


def _fork_rank(work: Callable[[], None], rank: int) -> int:
    child = os.fork()
    if child == 0:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        _end_with(work)
    return child


def _exit_code(child: int, deadline: float) -> int | None:
    """None: it has not ended by then."""
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def _end_with(work: Callable[[], None], log: Path | None = None) -> None:
    """Call `work` in a fork, and end it: neither pytest's handlers nor its filters are the fork's.

    Args:
        log: file that replaces standard output and standard error.
    """
    code = 1
    try:
        if log is not None:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout = sys.stderr = os.fdopen(handle, "w")
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
