"""One stage against an endpoint, with a request log: the process that tests kill and resume."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from cai.async_map import map_rows
from cai.constitution import Constitution, Principle
from cai.generate.label import labeller
from cai.generate.label_config import LabelConfig
from cai.generate.pair import PairConfig, pair_items, paired_item, pairer
from cai.generate.revise import ReviseConfig, revise_items, revised_item, reviser
from cai.lm.caching import CachedLM
from cai.lm.http import HttpConfig, HttpLM
from cai.lm.request_log import RequestLog
from cai.records import Pair, Preference, Prompt, Revision, chat_of

STAGES = ("revise", "pair", "label")
PRINCIPLE = Principle.model_validate(
    {
        "id": "one",
        "category": "harm",
        "applies_to": ["disallowed"],
        "critique": "What is wrong?",
        "revision": "Write it better.",
        "compare": "Which is safer?",
    }
)
CONSTITUTION = Constitution(name="toy", version="1", principles=(PRINCIPLE,))


def prompts(count: int) -> list[Prompt]:
    chats = [chat_of(("user", f"Do harm number {i}.")) for i in range(count)]
    return [Prompt(chat=chat, kind="disallowed") for chat in chats]


def pairs(count: int) -> list[Pair]:
    return [
        Pair(source=p.id, chat=p.chat, first=f"First {i}.", second=f"Second {i}.")
        for i, p in enumerate(prompts(count))
    ]


def work(stage: str, spec: str, folder: Path, count: int, http: dict[str, Any]) -> None:
    """Run one stage over `count` rows; its file and its request log are in `folder`."""
    endpoint = HttpLM(spec, HttpConfig.model_validate(http))
    endpoint.fingerprint = "toy"  # servers differ in their ports, not in their answers
    lm = CachedLM(endpoint, RequestLog(folder / "requests.sqlite"))
    output, rows = folder / f"{stage}.jsonl", prompts(count)
    if stage == "revise":
        config = ReviseConfig()
        step: Any = reviser(CONSTITUTION, lm, config, lambda prompt, reply: None, 0)
        items = revise_items(rows, config)
        job = map_rows(output, items, step, Revision, max_concurrency=64, source=revised_item)
    elif stage == "pair":
        pair_config = PairConfig()
        step = pairer(lm, pair_config, 0)
        items = pair_items(rows, pair_config, 0)
        job = map_rows(output, items, step, Pair, max_concurrency=64, source=paired_item)
    else:
        judge = labeller(CONSTITUTION, lm, LabelConfig(), 0, lambda pair: ("disallowed", None))
        job = map_rows(output, pairs(count), judge, Preference, max_concurrency=64)

    async def run() -> None:
        try:
            await job
        finally:
            await lm.aclose()

    asyncio.run(run())
