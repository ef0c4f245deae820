"""Speed of labelling by option log-probabilities, against sampling and parsing written verdicts.

    python benchmarks/label_speed.py [PAIRS] [PLAIN]

The same pairs in both orders, principles and few-shots everywhere. A written verdict has at most
64 tokens per order, and is sampled in two ways:
  - as such judges are commonly written: `generate` of transformers, one prompt at a time, exactly
    64 tokens (the first PLAIN pairs only);
  - with cai's sampler, which batches, runs the model on the few-shots once, and stops at the end
    token.
Prints seconds a pair of each, how many verdicts could be parsed, and the ratios. In one process.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from cai import templates
from cai.async_map import gather
from cai.constitution import Constitution, find_constitution, load_constitution
from cai.data.readers import prompt_rows
from cai.generate.label import labeller, principles_for
from cai.generate.label_config import LabelConfig
from cai.lm import open_lm
from cai.modeling.loading import load_model
from cai.modeling.model_files import resolve_model_path
from cai.modeling.tokenization import load_renderer
from cai.records import Chat, Pair
from cai.seeds import derive

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
CONFIG = LabelConfig()
VERDICT_TOKENS = 64
REPLIES = (
    "I'm sorry, but I can't help with that. Is there something else I can do?",
    "Sure. First gather what you need, then begin.",
)


def load_pairs(count: int) -> list[Pair]:
    folder = ROOT / "examples" / "prompts"
    prompts = [
        prompt
        for name in ("disallowed", "benign")
        for prompt in prompt_rows(folder / f"{name}.jsonl")
    ]
    step = max(1, len(prompts) // count)
    first, second = REPLIES
    pairs = [
        Pair(source=prompt.id, chat=prompt.chat, first=first, second=second)
        for prompt in prompts[::step]
    ]
    return pairs[:count]


def verdict_requests(constitution: Constitution, pair: Pair) -> list[Chat]:
    """The chats that ask for a verdict, in both orders."""
    [principle] = principles_for(constitution, CONFIG, None, 0, pair, None)
    assert principle is not None  # noqa: S101
    shots = constitution.examples.compare
    question = principle.compare or ""
    return [
        templates.compare_chat(shots, order.chat, order.first, order.second, question)
        for order in (pair, pair.swap())
    ]


def transformers_judge() -> Callable[[Chat], str]:
    """Chat -> 64 tokens, sampled by `generate` of transformers."""
    path = resolve_model_path("smollm2")
    model = load_model(path)
    renderer = load_renderer(path)

    def generate(chat: Chat) -> str:
        ids = torch.tensor([renderer.prompt_ids(chat)])
        out = model.generate(
            ids,
            max_new_tokens=VERDICT_TOKENS,
            min_new_tokens=VERDICT_TOKENS,
            attention_mask=torch.ones_like(ids),
            pad_token_id=renderer.pad_token_id,
            do_sample=True,
        )
        reply_ids = out[0, ids.shape[1] :]
        return str(renderer.tokenizer.decode(reply_ids, skip_special_tokens=True))

    return generate


async def timed(jobs: Sequence[Awaitable[T]]) -> tuple[float, list[T]]:
    """(seconds, results)"""
    started = time.perf_counter()
    results = list(await gather(jobs))
    return time.perf_counter() - started, results


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    plain_count = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    judge = open_lm("smollm2")
    constitution = load_constitution(find_constitution("assistant"))
    pairs = load_pairs(count)
    step = labeller(constitution, judge, CONFIG, 0, lambda pair: (None, None))

    async def write_verdicts(pair: Pair) -> list[str | None]:
        verdicts = []
        for chat in verdict_requests(constitution, pair):
            sample = await judge.sample(
                chat, max_tokens=VERDICT_TOKENS, temperature=0.0, seed=derive(0, pair.id)
            )
            verdicts.append(templates.parse_verdict(sample.text))
        return verdicts

    generate = transformers_judge()
    started = time.perf_counter()
    plain_verdicts = [
        templates.parse_verdict(generate(chat))
        for pair in pairs[:plain_count]
        for chat in verdict_requests(constitution, pair)
    ]
    plain = (time.perf_counter() - started) / plain_count
    label_seconds, labels = asyncio.run(timed([step(pair) for pair in pairs]))
    sampled_seconds, verdicts = asyncio.run(timed([write_verdicts(pair) for pair in pairs]))

    label_pace = label_seconds / len(labels)
    sampled_pace = sampled_seconds / len(verdicts)
    plain_parsed = sum(verdict is not None for verdict in plain_verdicts)
    parsed = sum(verdict is not None for both in verdicts for verdict in both)
    print(f"log-probabilities in both orders: {label_pace:.2f} s a pair, {len(labels)} pairs")
    print(
        f"generate, {VERDICT_TOKENS} tokens: {plain:.2f} s a pair, {plain_count} pairs, "
        f"{plain_parsed} of {2 * plain_count} parsed; {plain / label_pace:.1f} times as long"
    )
    print(
        f"cai's sampler: {sampled_pace:.2f} s a pair, {parsed} of {2 * len(verdicts)} parsed; "
        f"{sampled_pace / label_pace:.1f} times as long"
    )


if __name__ == "__main__":
    main()
