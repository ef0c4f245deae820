"""The map over processes: order, errors in their order, and processes that end too early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import process_toys
import pytest

import cai
from cai.errors import JobError, StoreError
from cai.process_map import map_in_processes


def test_results_are_in_the_order_of_the_items_and_so_are_errors() -> None:
    results: list[int] = []
    squares = map_in_processes(process_toys.slow_squares, [*range(9), -1, 9, 10], processes=2)
    with pytest.raises(StoreError, match=r"^rows\.jsonl:-1: negative$"):
        results.extend(squares)
    assert results == [number**2 for number in range(9)]


def test_an_error_while_an_item_is_taken_comes_after_the_results_before_it() -> None:
    def items() -> Iterator[int]:
        yield from (2, 3)
        raise StoreError("rows.jsonl:3: torn")

    results: list[int] = []
    squares = map_in_processes(process_toys.slow_squares, items(), processes=2)
    with pytest.raises(StoreError, match=r"^rows\.jsonl:3: torn$"):
        results.extend(squares)
    assert results == [4, 9]


def test_items_are_taken_as_they_are_needed() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1, 100):
            taken.append(number)
            yield number

    squares = map_in_processes(process_toys.slow_squares, items(), processes=1)
    assert next(squares) == 1
    assert len(taken) <= 3
    squares.close()


def test_nothing_is_started_for_no_items() -> None:
    assert list(map_in_processes(process_toys.killed, [], processes=2)) == []


def test_a_process_that_is_killed_is_one_line() -> None:
    with pytest.raises(JobError, match="a worker process was ended from outside, perhaps for lack"):
        list(map_in_processes(process_toys.killed, [1, 2, 3], processes=1))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_worker_ends_with_the_process_that_started_it(number: signal.Signals) -> None:
    """It finishes its item: where that one is killed, and after a Ctrl-C, which it does not see."""
    folders = [Path(process_toys.__file__).parent, Path(cai.__file__).parents[1]]
    with subprocess.Popen(
        [sys.executable, process_toys.__file__],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert errors.count("Traceback") == (number == signal.SIGINT)  # that of the script itself
    deadline = time.monotonic() + 20
    while _is_running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_running(process: int) -> bool:
    """Whether it runs; one that has ended may still have a number, where nobody waits for it."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False
    )
    return state.stdout.strip()[:1] not in ("", "Z")
