"""Jobs under way at once, results in order; the first failure ends them all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cai.async_map import CHUNK, bounded_map, map_rows
from cai.records import Prompt, chat_of
from cai.store import read


def run(count: int, width: int, step: object) -> list[tuple[list[str], list[int]]]:
    async def all_of() -> list[tuple[list[str], list[int]]]:
        return [part async for part in bounded_map({str(i): i for i in range(count)}, step, width)]  # type: ignore[arg-type]

    return asyncio.run(all_of())


@pytest.mark.parametrize("width", [1, 3, 500])
def test_order_is_kept_whatever_ends_first(width: int) -> None:
    """Later jobs end sooner; never more than `max_concurrency` are begun and not given out but for those that wait to be."""
    begun, ended = [0], [0]

    async def step(i: int) -> int:
        begun[0] += 1
        assert begun[0] - ended[0] <= width
        await asyncio.sleep(0.0001 * (7 - i % 7))
        ended[0] += 1
        return i * i

    parts = run(150, width, step)
    assert [name for names, _ in parts for name in names] == [str(i) for i in range(150)]
    assert [value for _, made in parts for value in made] == [i * i for i in range(150)]
    assert all(len(made) >= CHUNK for _, made in parts[:-1])
    assert run(0, width, step) == []


def test_the_first_failure_cancels_the_rest_and_what_is_whole_before_it_is_kept(
    tmp_path: Path,
) -> None:
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
    kept = [int(row.chat[0].content) for row in read(tmp_path / "out.jsonl", Prompt)]
    assert kept == list(range(len(kept)))
    assert 64 <= len(kept) <= 130
    assert max(ended) < 180, "those not begun were never begun"
