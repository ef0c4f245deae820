"""Functions for worker processes, which import them by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from cai.errors import StoreError
from cai.process_map import map_in_processes


def slow_squares() -> Callable[[int], int]:
    """Squares; the even ones take longer."""

    def square(number: int) -> int:
        time.sleep(0.02 * (number % 2 == 0))
        if number < 0:
            raise StoreError(f"rows.jsonl:{number}: negative")
        return number**2

    return square


def killed() -> Callable[[int], int]:
    def end(number: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return number

    return end


def own_id_then_sleep() -> Callable[[int], int]:
    def work(number: int) -> int:
        if number:
            time.sleep(1)
        return os.getpid()

    return work


if __name__ == "__main__":  # print the id of a worker, which is busy from then on
    for worker in map_in_processes(own_id_then_sleep, range(60), processes=1):
        print(worker)
        sys.stdout.flush()
