"""Rows per second through an endpoint stage, against plain client loops on the same server.

    python benchmarks/http_throughput.py [ROWS]

The server (a process of its own) answers after 50 ms; each client holds 64 connections. "cai" is
all that `cai run` does for a row of one call: template, retries, limits, request log, budget, rows
on disk in order. "httpx" and "aiohttp" post bodies of the same size with these libraries, and
discard the answers; `cai` uses aiohttp. The bound is 64 / 0.05 s = 1,280 rows a second. Runs
alternate; the best of three of each is printed, with the least time of one core that a row took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx2

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from endpoint import endpoint  # noqa: E402

from cai.async_map import map_rows  # noqa: E402
from cai.constitution import Constitution  # noqa: E402
from cai.generate.revise import (  # noqa: E402
    ReviseConfig,
    revise_items,
    revised_item,
    reviser,
)
from cai.lm.budget import Budget, MeteredLM, Prices  # noqa: E402
from cai.lm.caching import CachedLM  # noqa: E402
from cai.lm.http import HttpConfig, HttpLM  # noqa: E402
from cai.lm.request_log import RequestLog  # noqa: E402
from cai.records import Prompt, Revision, chat_of  # noqa: E402

CONNECTIONS = 64
LATENCY = 0.05
"""Seconds."""


async def cai_rows(spec: str, folder: Path, count: int) -> None:
    """`count` rows of the revise stage."""
    prompts = [
        Prompt(chat=chat_of(("user", f"Question number {i}?")), kind="benign") for i in range(count)
    ]
    client = HttpLM(spec, HttpConfig(connections=CONNECTIONS))
    request_log = RequestLog(folder / "requests.sqlite")
    lm = CachedLM(MeteredLM(client, Budget(), Prices()), request_log)
    config = ReviseConfig()
    constitution = Constitution(name="none", version="1")
    step = reviser(constitution, lm, config, lambda prompt, reply: None, 0)

    await map_rows(
        folder / "rows.jsonl",
        revise_items(prompts, config),
        step,
        Revision,
        max_concurrency=lm.max_concurrency,
        source=revised_item,
        sliding=True,
    )
    await lm.aclose()


def bodies(count: int) -> Iterator[dict[str, Any]]:
    """Requests of the size of those of `cai_rows`."""
    for i in range(count):
        message = {"role": "user", "content": f"Question number {i}?"}
        settings = {"max_tokens": 64, "temperature": 1.0, "seed": i}
        yield {"model": "toy", "messages": [message], **settings}


async def at_once(worker: Callable[[], Awaitable[None]]) -> None:
    """As many workers as there are connections."""
    await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))


async def httpx_posts(url: str, count: int) -> None:
    queue = bodies(count)
    limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx2.AsyncClient(limits=limits, timeout=30) as client:

        async def worker() -> None:
            for body in queue:
                answer = await client.post(url, json=body)
                answer.json()["choices"][0]["message"]["content"]

        await at_once(worker)


async def aiohttp_posts(url: str, count: int) -> None:
    queue = bodies(count)
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:

        async def worker() -> None:
            for body in queue:
                async with client.post(url, json=body) as response:
                    answer = await response.json()
                answer["choices"][0]["message"]["content"]

        await at_once(worker)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    rates: dict[str, list[float]] = {"httpx": [], "aiohttp": [], "cai": []}
    microseconds: dict[str, list[float]] = {name: [] for name in rates}
    for turn in range(3):
        with (
            tempfile.TemporaryDirectory() as home,
            endpoint(Path(home) / "server", latency=LATENCY) as server,
        ):
            address = server.spec.split("#")[0] + "/chat/completions"
            for name, work in (
                ("httpx", httpx_posts(address, count)),
                ("aiohttp", aiohttp_posts(address, count)),
                ("cai", cai_rows(server.spec, Path(home), count)),
            ):
                started, used = time.perf_counter(), time.process_time()
                asyncio.run(work)
                rates[name].append(count / (time.perf_counter() - started))
                microseconds[name].append((time.process_time() - used) / count * 1e6)
        line = {"turn": turn} | {f"{name}_rows_s": round(rates[name][-1]) for name in rates}
        print(json.dumps(line), flush=True)
    best = {name: max(rates[name]) for name in rates}
    used = ", ".join(f"{name} {min(microseconds[name]):.0f}" for name in rates)
    print(f"us of one core per row: {used}")
    print(
        f"bound {CONNECTIONS / LATENCY:.0f} rows/s; cai {best['cai']:.0f}, "
        + ", ".join(
            f"{best['cai'] / best[name]:.0%} of {name}'s {best[name]:.0f}"
            for name in ("httpx", "aiohttp")
        )
    )


if __name__ == "__main__":
    main()
