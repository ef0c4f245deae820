"""Rows per second through an endpoint stage, against a plain client loop on the same server.

    python benchmarks/http_throughput.py [ROWS]

The server (a process of its own) answers after 50 ms; both sides hold 64 connections. "cai" is all
that `cai run` does for a row of one call: template, retries, limits, request log, budget, rows on
disk in order. "plain" posts bodies of the same size with httpx2 and discards the answers. The bound
is 64 / 0.05 s = 1,280 rows a second. Runs alternate; the best of three of each is printed.
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


def cai_seconds(spec: str, folder: Path, count: int) -> float:
    """Seconds for `count` rows."""
    prompts = [
        Prompt(chat=chat_of(("user", f"Question number {i}?")), kind="benign") for i in range(count)
    ]
    client = HttpLM(spec, HttpConfig(connections=CONNECTIONS))
    request_log = RequestLog(folder / "requests.sqlite")
    lm = CachedLM(MeteredLM(client, Budget(), Prices()), request_log)
    config = ReviseConfig()
    constitution = Constitution(name="none", version="1")
    step = reviser(constitution, lm, config, lambda prompt, reply: None, 0)

    async def work() -> None:
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

    started = time.perf_counter()
    asyncio.run(work())
    return time.perf_counter() - started


def plain_seconds(url: str, count: int) -> float:
    """Seconds for `count` posts of the same size."""

    async def work() -> None:
        numbers = iter(range(count))
        limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        async with httpx2.AsyncClient(limits=limits, timeout=30) as client:

            async def worker() -> None:
                for i in numbers:
                    message = {"role": "user", "content": f"Question number {i}?"}
                    body = {"model": "toy", "messages": [message], "max_tokens": 64}
                    body |= {"temperature": 1.0, "seed": i}
                    answer = await client.post(f"{url}/chat/completions", json=body)
                    answer.json()["choices"][0]["message"]["content"]

            await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))

    started = time.perf_counter()
    asyncio.run(work())
    return time.perf_counter() - started


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    cai_rates: list[float] = []
    plain_rates: list[float] = []
    for turn in range(3):
        with (
            tempfile.TemporaryDirectory() as home,
            endpoint(Path(home) / "server", latency=LATENCY) as server,
        ):
            plain_rates.append(count / plain_seconds(server.spec.split("#")[0], count))
            cai_rates.append(count / cai_seconds(server.spec, Path(home), count))
        line = {
            "turn": turn,
            "plain_rows_s": round(plain_rates[-1]),
            "cai_rows_s": round(cai_rates[-1]),
        }
        print(json.dumps(line), flush=True)
    bound = CONNECTIONS / LATENCY
    plain, cai = max(plain_rates), max(cai_rates)
    print(
        f"bound {bound:.0f} rows/s, plain {plain:.0f}, cai {cai:.0f}: "
        f"{cai / min(bound, plain):.0%} of the lower of the two"
    )


if __name__ == "__main__":
    main()
