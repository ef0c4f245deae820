"""Labelling pairs in both orders by reading the options' log-probabilities, against sampling a written verdict and parsing it.

    python benchmarks/label_speed.py [PAIRS] [PLAIN]

The same pairs, principles and few-shots everywhere. Against two ways to write a verdict of at most 64 tokens per order:
  - as people write such judges: `generate` of transformers, a prompt at a time, exactly 64 tokens (the first PLAIN pairs only);
  - with cai's own sampler, which batches, reads the few-shots once, and stops where the model does.
Prints seconds a pair of each, how many verdicts could be parsed at all, and the ratios. Alternating, in one process.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cai import templates
from cai.async_map import gather
from cai.constitution import find, load_constitution
from cai.data.readers import prompt_rows
from cai.generate.label import LabelConfig, asked_by, labeller
from cai.lm import open_lm
from cai.modeling.loading import load_model
from cai.modeling.model_files import locate
from cai.modeling.tokenization import load_renderer
from cai.records import Chat, Pair
from cai.seeds import derive

ROOT = Path(__file__).parents[1]
REPLIES = (
    "I'm sorry, but I can't help with that. Is there something else I can do?",
    "Sure. First gather what you need, then begin.",
)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    few = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    judge, book = open_lm("smollm2"), load_constitution(find("assistant"))
    prompts = [p for name in ("disallowed", "benign") for p in prompt_rows(ROOT / "examples" / "prompts" / f"{name}.jsonl")]
    pairs = [
        Pair(source=p.id, chat=p.chat, first=REPLIES[0], second=REPLIES[1]) for p in prompts[:: max(1, len(prompts) // count)]
    ]
    pairs, config = pairs[:count], LabelConfig()
    step = labeller(book, judge, config, 0, lambda pair: (None, None))

    def questions(pair: Pair) -> list[Chat]:
        [principle] = asked_by(book, config, None, 0, pair, None)
        assert principle is not None  # noqa: S101
        shots, asked = book.examples.compare, principle.compare or ""
        return [templates.compare_chat(shots, one.chat, one.first, one.second, asked) for one in (pair, pair.swap())]

    async def write(pair: Pair) -> list[str | None]:
        verdicts = []
        for chat in questions(pair):
            said = await judge.sample(chat, max_tokens=64, temperature=0.0, seed=derive(0, pair.id))
            verdicts.append(templates.parse_verdict(said.text))
        return verdicts

    async def timed(work: list[object]) -> tuple[float, list[object]]:
        started = time.perf_counter()
        found = list(await gather(work))  # type: ignore[arg-type]
        return time.perf_counter() - started, found

    generate = plain_judge()
    started = time.perf_counter()
    written = [templates.parse_verdict(generate(chat)) for pair in pairs[:few] for chat in questions(pair)]
    plain = (time.perf_counter() - started) / few
    read, labels = asyncio.run(timed([step(pair) for pair in pairs]))
    wrote, verdicts = asyncio.run(timed([write(pair) for pair in pairs]))
    parsed = sum(verdict is not None for both in verdicts for verdict in both)  # type: ignore[attr-defined]
    read, wrote = read / len(labels), wrote / len(verdicts)
    print(f"log-probabilities in both orders: {read:.2f} s a pair, {len(labels)} pairs")
    hits = sum(verdict is not None for verdict in written)
    print(f"generate, 64 tokens: {plain:.2f} s a pair, {few} pairs, {hits} of {2 * few} parsed; {plain / read:.1f} times as long")
    print(f"cai's sampler: {wrote:.2f} s a pair, {parsed} of {2 * len(verdicts)} parsed; {wrote / read:.1f} times as long")


def plain_judge() -> Callable[[Chat], str]:
    """Chat -> 64 tokens, drawn as transformers does by itself."""
    where = locate("smollm2")
    model, renderer = load_model(where), load_renderer(where)

    def generate(chat: Chat) -> str:
        ids = torch.tensor([renderer.prompt_ids(chat)])
        given = {"attention_mask": torch.ones_like(ids), "pad_token_id": renderer.pad_id, "do_sample": True}
        out = model.generate(ids, max_new_tokens=64, min_new_tokens=64, **given)[0, ids.shape[1] :]
        return str(renderer.tokenizer.decode(out, skip_special_tokens=True))

    return generate


if __name__ == "__main__":
    main()
