"""Rows a second through the whole path of an endpoint stage, against a plain client loop on the same machine and server.

    python benchmarks/http_throughput.py [ROWS]

The server (a process of its own) answers after 50 ms; both sides hold 64 connections. "cai" is what `cai run` does for a row of
one call: template, retries, limits, request log, budget, rows on disk in order. "plain" posts bodies of the same size with httpx2
and throws the answers away. The bound is 64 / 0.05 s = 1,280 rows a second. Runs alternate; the best of three of each is printed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

import httpx2

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from endpoint import endpoint  # noqa: E402

from cai.async_map import map_rows  # noqa: E402
from cai.constitution import Constitution  # noqa: E402
from cai.generate.revise import ReviseConfig, revise_items, revised_item, reviser  # noqa: E402
from cai.lm.budget import Budget, MeteredLM, Prices  # noqa: E402
from cai.lm.caching import CachedLM  # noqa: E402
from cai.lm.http import HttpConfig, HttpLM  # noqa: E402
from cai.lm.request_log import RequestLog  # noqa: E402
from cai.records import Prompt, Revision, chat_of  # noqa: E402

CONNECTIONS, LATENCY = 64, 0.05


def through_cai(spec: str, folder: Path, count: int) -> float:
    """Seconds for `count` rows."""
    prompts = [Prompt(chat=chat_of(("user", f"Question number {i}?")), kind="benign") for i in range(count)]
    inner = HttpLM(spec, HttpConfig(connections=CONNECTIONS))
    lm = CachedLM(MeteredLM(inner, Budget(), Prices()), RequestLog(folder / "requests.sqlite"))
    config = ReviseConfig()
    step = reviser(Constitution(name="none", version="1"), lm, config, lambda prompt, reply: None, 0)

    async def work() -> None:
        items = revise_items(prompts, config)
        await map_rows(
            folder / "rows.jsonl", items, step, Revision, max_concurrency=lm.max_concurrency, source=revised_item, sliding=True
        )
        await lm.aclose()

    started = time.perf_counter()
    asyncio.run(work())
    return time.perf_counter() - started


def plain(url: str, count: int) -> float:
    """Seconds for `count` posts of the same size."""

    async def work() -> None:
        numbers = iter(range(count))
        limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        async with httpx2.AsyncClient(limits=limits, timeout=30) as client:

            async def worker() -> None:
                for i in numbers:
                    body = {"model": "toy", "messages": [{"role": "user", "content": f"Question number {i}?"}], "max_tokens": 64}
                    answer = await client.post(f"{url}/chat/completions", json=body | {"temperature": 1.0, "seed": i})
                    answer.json()["choices"][0]["message"]["content"]

            await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))

    started = time.perf_counter()
    asyncio.run(work())
    return time.perf_counter() - started


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    ours, theirs = [], []
    for turn in range(3):
        with tempfile.TemporaryDirectory() as home, endpoint(Path(home) / "server", latency=LATENCY) as server:
            theirs.append(count / plain(server.spec.split("#")[0], count))
            ours.append(count / through_cai(server.spec, Path(home), count))
        print(json.dumps({"turn": turn, "plain_rows_s": round(theirs[-1]), "cai_rows_s": round(ours[-1])}), flush=True)
    bound = CONNECTIONS / LATENCY
    lower = min(bound, max(theirs))
    print(
        f"bound {bound:.0f} rows/s, plain {max(theirs):.0f}, cai {max(ours):.0f}: {max(ours) / lower:.0%} of the lower of the two"
    )


if __name__ == "__main__":
    main()
