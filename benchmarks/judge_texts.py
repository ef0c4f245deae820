"""Pairs of replies whose better one this project knows itself: no human label of a public set.

`written`: pairs written for this purpose, `cai/shipped/probe_pairs.jsonl`, and the constitutions'
worked examples. `near_misses`: a rubric's ideal reply and one that it ranks lower, put together
from the sentences of its propositions (`cai near-miss`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from cai.constitution import find_constitution, load_constitution
from cai.data.preferences import labelled_pairs
from cai.data.readers import prompt_rows
from cai.generate.harm_probe import harm_pairs
from cai.records import Chat
from cai.rubric.compile import compile_rubric
from cai.rubric.near_miss import near_misses, template_writer
from cai.seeds import rng
from cai.shipped import PROBE_PAIRS, PROMPTS

PROMPTS_A_KIND = 20
KINDS = ("disallowed", "sensitive", "benign")


def written() -> Iterator[tuple[Chat, str, str]]:
    """(chat, better, worse)."""
    for row in labelled_pairs(PROBE_PAIRS):
        yield row.prompt.chat, row.first, row.second
    examples = load_constitution(find_constitution("assistant")).examples
    for compared in examples.compare:
        replies = (compared.first, compared.second)
        better, worse = replies if compared.answer == "A" else replies[::-1]
        yield compared.chat, better, worse
    for example in examples.critique:
        yield example.chat[:-1], example.revision, example.chat[-1].content


def harm_replies() -> set[str]:
    """The better replies of the pairs on which the preset `probe` is fitted."""
    return {better for _, better, _ in harm_pairs()}


def misses() -> Iterator[tuple[Chat, str, str]]:
    """(chat, ideal reply, near miss of a lower class), one of each prompt."""
    constitution = load_constitution(find_constitution("refusal_style"))
    assert constitution.rubric is not None  # noqa: S101
    prompts = []
    for kind in KINDS:
        rows = sorted(prompt_rows(PROMPTS / f"{kind}.jsonl"), key=lambda prompt: prompt.id)
        prompts += rows[:PROMPTS_A_KIND]
    writer = template_writer(constitution.rubric)
    results = asyncio.run(near_misses(compile_rubric(constitution.rubric), prompts, writer))
    for prompt in prompts:
        replies = [miss for source, miss in results if source.id == prompt.id and miss.on_target]
        best = [miss for miss in replies if miss.rank == 0]
        worse = [miss for miss in replies if miss.rank > 0 and miss.response.strip()]
        if best and worse:
            miss = rng(0, "judge_texts", prompt.id).choice(worse)
            yield prompt.chat, best[0].response, miss.response
