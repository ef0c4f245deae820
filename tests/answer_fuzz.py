"""Labels from an endpoint whose answers are mutated at random, over and over."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import random
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from canned import Canned, CannedLM, Request, choice_answer, ok
from killed import CONSTITUTION, pairs

from cai.async_map import map_rows
from cai.generate.label import labeller
from cai.generate.label_config import LabelConfig
from cai.lm.caching import CachedLM
from cai.lm.http import HttpConfig
from cai.lm.request_log import RequestLog
from cai.records import Preference
from cai.store import read_rows

EXTREMES: tuple[Any, ...] = (
    None, True, "", "x", "\ud83d", [], {}, [1], {"a": 1}, 0, -1, 700, -700, 1e308, -1e308,
    math.nan, math.inf, -math.inf, 10**30, -(10**30), 10**400, 99999, "n/a", "\u0000", [[[]]],
)  # fmt: skip


def right_answer(body: dict[str, Any]) -> dict[str, Any]:
    """The judge prefers A by 1.5 nats where the reply (A) is "First …", else B."""
    asked = body["messages"][-2]["content"] if len(body["messages"]) > 1 else ""
    prefers_a = asked.find("First") < asked.find("Second")
    a, b = (-0.25, -1.75) if prefers_a else (-1.75, -0.25)
    answer = choice_answer(("A", a), (" B", b), ("The", -4.0))
    answer["choices"][0]["finish_reason"] = "length"
    return answer


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The addresses of all values within a JSON value."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


def mutate(answer: dict[str, Any], stream: random.Random) -> Canned:
    """The answer with one to three fields dropped or replaced, or with its bytes damaged."""
    answer = copy.deepcopy(answer)
    for _ in range(stream.randrange(1, 4)):
        *parents, last = stream.choice(list(paths(answer)) or [("id",)])
        target: Any = answer
        for key in parents:
            target = target[key]
        if stream.random() < 0.4 and last in (target if isinstance(target, dict) else range(99)):
            del target[last]
        else:
            target[last] = copy.deepcopy(stream.choice(EXTREMES))
    data = json.dumps(answer).encode()
    damage = stream.random()
    headers: list[tuple[str, str]] = []
    if damage < 0.08:
        data = data[: stream.randrange(len(data))]
    elif damage < 0.12:
        position = stream.randrange(len(data))
        data = data[:position] + b"\xff" + data[position:]
    elif damage < 0.15:
        headers = [("content-encoding", stream.choice(["gzip", "deflate", "br"]))]
    elif damage < 0.18:
        data = b"[" * 100_000
    return Canned(data, headers=headers)


def fuzz(folder: Path, rows: int, seed: int, share: float = 0.4) -> Counter[str]:
    """Label `rows` pairs twice into `folder`, with a `share` of the answers mutated.

    Returns:
        How many rows are labelled, and how many null.

    Raises:
        AssertionError: a row is neither right nor null with a reason, or the second run, which
            reads the log, ends otherwise than the first.
    """

    def respond(body: dict[str, Any], request: Request) -> Canned:
        stream = random.Random(f"{seed} {sha256(request.content).hexdigest()}")
        answer = right_answer(body)
        return mutate(answer, stream) if stream.random() < share else ok(answer)

    results = []
    for name in ("first.jsonl", "second.jsonl"):
        lm = CachedLM(
            CannedLM(respond, HttpConfig(connections=64)), RequestLog(folder / "log.sqlite")
        )
        step = labeller(CONSTITUTION, lm, LabelConfig(), 0, lambda pair: ("disallowed", None))

        async def work(lm: Any = lm, step: Any = step, output: Path = folder / name) -> None:
            try:
                await map_rows(output, pairs(rows), step, Preference, sliding=True)
            finally:
                await lm.aclose()

        asyncio.run(work())
        results.append((folder / name).read_bytes())
    assert results[0] == results[1]
    counts: Counter[str] = Counter()
    for row in read_rows(folder / "first.jsonl", Preference):
        if row.p_first is None:
            assert row.unscored
            counts["null"] += 1
        else:
            assert 0.5 < row.p_first < 1.0, row
            counts["label"] += 1
    assert sum(counts.values()) == rows
    return counts
