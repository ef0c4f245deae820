"""The resumable map: order, resumption, failures, kills at any moment."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cai.async_map import CHUNK, bounded_map, gather, map_rows
from cai.errors import StoreError
from cai.records import Preference, Prompt, chat_of
from cai.seeds import derive
from cai.store import append_rows, read_rows

PROMPTS = [Prompt(chat=chat_of(("user", f"question {i}"))) for i in range(20)]


# Bounded map


def all_chunks(
    count: int, width: int, step: Callable[[int], Awaitable[int]]
) -> list[tuple[list[str], list[int]]]:
    todo = {str(i): i for i in range(count)}

    async def collect() -> list[tuple[list[str], list[int]]]:
        return [chunk async for chunk in bounded_map(todo, step, width)]

    return asyncio.run(collect())


def test_collections_leave_out_what_lived_before() -> None:
    """During the map alone, also if a job fails."""

    async def step(i: int) -> int:
        if i == 2:
            raise ValueError(gc.get_freeze_count())
        return gc.get_freeze_count()

    before = gc.get_freeze_count()
    ((_, counts),) = all_chunks(2, 1, step)
    with pytest.raises(ValueError, match=r"\d{4}"):
        all_chunks(3, 1, step)
    assert min(counts) > 1000
    assert gc.get_freeze_count() == before


@pytest.mark.parametrize("width", [1, 3, 500])
def test_order_is_kept_whatever_ends_first(width: int) -> None:
    """Later jobs end sooner; at most `max_concurrency` jobs are started and not finished."""
    started = 0
    ended = 0

    async def step(i: int) -> int:
        nonlocal started, ended
        started += 1
        assert started - ended <= width
        await asyncio.sleep(0.0001 * (7 - i % 7))
        ended += 1
        return i * i

    chunks = all_chunks(150, width, step)
    assert [name for names, _ in chunks for name in names] == [str(i) for i in range(150)]
    assert [value for _, results in chunks for value in results] == [i * i for i in range(150)]
    assert all(len(results) >= CHUNK for _, results in chunks[:-1])
    assert all_chunks(0, width, step) == []


def test_a_failure_cancels_the_rest_and_keeps_the_rows_before_it(tmp_path: Path) -> None:
    rows = [Prompt(chat=chat_of(("user", f"{i}"))) for i in range(200)]
    ended: list[int] = []

    async def step(row: Prompt) -> Prompt:
        i = int(row.chat[0].content)
        await asyncio.sleep(0.001)
        if i == 130:
            raise RuntimeError("the hundred and thirtieth")
        ended.append(i)
        return Prompt(chat=row.chat, user=row.id)

    async def work() -> None:
        await map_rows(
            tmp_path / "out.jsonl",
            rows,
            step,
            Prompt,
            max_concurrency=32,
            source=lambda row: row.user or "",
            sliding=True,
        )

    with pytest.raises(RuntimeError, match="thirtieth"):
        asyncio.run(work())
    written = [int(row.chat[0].content) for row in read_rows(tmp_path / "out.jsonl", Prompt)]
    assert written == list(range(len(written)))
    assert 64 <= len(written) <= 130
    assert max(ended) < 180, "later rows are never started"


# Rows


def output(prompt: Prompt) -> Preference:
    return Preference(source=prompt.id, p_first=derive(0, prompt.id) / 2**63)


def stepper(
    calls: list[str], fail_on: str | None = None
) -> Callable[[Prompt], Awaitable[Preference]]:
    """A step whose later rows of a window finish first."""

    async def step(prompt: Prompt) -> Preference:
        calls.append(prompt.id)
        if prompt.id == fail_on:
            raise ZeroDivisionError(prompt.id)
        for _ in range(20 - PROMPTS.index(prompt)):
            await asyncio.sleep(0)
        return output(prompt)

    return step


COMPLETE = "".join(output(prompt).line() + "\n" for prompt in PROMPTS).encode()


@pytest.mark.parametrize("width", [1, 6, 64])
def test_map_rows_keeps_the_order_of_the_input(tmp_path: Path, width: int) -> None:
    calls: list[str] = []
    reports: list[tuple[int, int]] = []
    path = tmp_path / "out.jsonl"
    asyncio.run(
        map_rows(
            path,
            PROMPTS,
            stepper(calls),
            Preference,
            max_concurrency=width,
            progress=lambda done, total: reports.append((done, total)),
        )
    )
    assert path.read_bytes() == COMPLETE
    assert sorted(calls) == sorted(p.id for p in PROMPTS)
    assert reports[0] == (0, 20)
    assert reports[-1] == (20, 20)
    assert reports == sorted(reports)


def test_map_rows_resumes_with_the_missing_rows(tmp_path: Path) -> None:
    """Seven lines are written, the eighth is torn: thirteen rows are processed.

    The bytes are those of an uninterrupted run.
    """
    path, calls = tmp_path / "out.jsonl", list[str]()
    seven = b"".join(COMPLETE.splitlines(keepends=True)[:7])
    path.write_bytes(COMPLETE[: len(seven) + 10])
    asyncio.run(map_rows(path, PROMPTS, stepper(calls), Preference, max_concurrency=6))
    assert path.read_bytes() == COMPLETE
    assert calls == [p.id for p in PROMPTS[7:]]


def test_map_rows_after_a_failed_step(tmp_path: Path) -> None:
    """Row 14 of 20 fails in windows of 6: two windows stay, and the step's error is raised.

    A rerun calls no finished row.
    """
    path, first, second = tmp_path / "out.jsonl", list[str](), list[str]()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(
            map_rows(path, PROMPTS, stepper(first, PROMPTS[14].id), Preference, max_concurrency=6)
        )
    assert path.read_bytes() == b"".join(COMPLETE.splitlines(keepends=True)[:12])
    asyncio.run(map_rows(path, PROMPTS, stepper(second), Preference, max_concurrency=6))
    assert path.read_bytes() == COMPLETE
    assert second == [p.id for p in PROMPTS[12:]]


def test_map_rows_of_a_finished_file_calls_nothing(tmp_path: Path) -> None:
    path, calls = tmp_path / "out.jsonl", list[str]()
    path.write_bytes(COMPLETE)
    asyncio.run(map_rows(path, PROMPTS, stepper(calls), Preference))
    assert calls == []
    assert path.read_bytes() == COMPLETE


def test_map_rows_of_no_rows_makes_an_empty_file(tmp_path: Path) -> None:
    asyncio.run(map_rows(tmp_path / "out.jsonl", list[Prompt](), stepper([]), Preference))
    assert (tmp_path / "out.jsonl").read_bytes() == b""


@pytest.mark.parametrize("width", [1, 64])
def test_map_rows_processes_equal_rows_once(tmp_path: Path, width: int) -> None:
    """The copy is in the same window or in a later one."""
    path, calls = tmp_path / "out.jsonl", list[str]()
    asyncio.run(
        map_rows(path, [*PROMPTS, *PROMPTS[:5]], stepper(calls), Preference, max_concurrency=width)
    )
    assert path.read_bytes() == COMPLETE
    assert len(calls) == 20


def test_map_rows_refuses_rows_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, PROMPTS[:3])
    with pytest.raises(StoreError, match=r"rows\.jsonl:1: "):
        asyncio.run(map_rows(path, PROMPTS, stepper([]), Preference))


def test_gather_raises_the_first_failure_and_cancels_the_rest() -> None:
    ended: list[str] = []

    async def slow() -> Preference:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("slow")
        return output(PROMPTS[0])

    async def fails() -> Preference:
        await asyncio.sleep(0)
        raise ZeroDivisionError("first")

    async def go() -> list[str]:
        with pytest.raises(ZeroDivisionError, match="first"):
            await gather([slow(), fails(), slow()])
        return list(ended)  # by now, not when the loop is torn down

    assert asyncio.run(go()) == ["slow", "slow"]


SCRIPT = """
import asyncio, os, sys, time
from pathlib import Path
from cai.records import Preference, Prompt, chat_of
from cai.seeds import derive
from cai.async_map import map_rows

real = os.write
def slowly(handle, data):
    time.sleep(0.002)
    return real(handle, data[:40])  # a kill may strike between two pieces of a line
os.write = slowly
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def step(prompt):
    real(log, (prompt.id + "\\n").encode())
    await asyncio.sleep(derive(0, prompt.id) % 20 / 1000)
    return Preference(source=prompt.id, p_first=derive(1, prompt.id) / 2**63)

prompts = [Prompt(chat=chat_of(("user", f"question {i}"))) for i in range(48)]
print("ready", flush=True)
asyncio.run(map_rows(Path(sys.argv[1]), prompts, step, Preference, max_concurrency=4))
"""


def test_kill_9_at_any_moment(tmp_path: Path) -> None:
    """Up to eight kills at random moments, some between two pieces of one line.

    No written row is processed again, and the bytes of the file are those of an uninterrupted run.
    Twelve windows of about 40 ms take longer than three processes of at most 150 ms.
    """
    script = tmp_path / "script.py"
    path = tmp_path / "out.jsonl"
    log = tmp_path / "calls"
    script.write_text(SCRIPT)
    generator = random.Random(5)
    kills = 0

    def start(target: Path) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, str(script), str(target), str(log)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        return child

    while True:
        before = path.read_bytes() if path.exists() else b""
        finished = {
            json.loads(line)["source"]
            for line in before.splitlines(keepends=True)
            if line.endswith(b"\n")
        }
        log.write_bytes(b"")
        child = start(path)
        if kills < 8:
            time.sleep(generator.uniform(0.0, 0.15))
            child.kill()
        code = child.wait()
        assert child.stdout is not None
        child.stdout.close()
        assert finished.isdisjoint(log.read_text().split())
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    with start(tmp_path / "uninterrupted.jsonl") as child:
        assert child.wait() == 0
    assert path.read_bytes() == (tmp_path / "uninterrupted.jsonl").read_bytes()
    assert len(path.read_bytes().splitlines()) == 48
