"""Reply pairs: their seeds, their indices, and one sample per reply."""

from __future__ import annotations

import asyncio

from generate_toys import prompt

from cai.generate.pair import PairConfig, PairItem, pair_items, paired_item, pairer
from cai.lm import FakeLM
from cai.records import Pair, Prompt, chat_of


def test_pairs_differ_only_in_the_draw() -> None:
    """Two seeds, one temperature, one length: a preference model cannot learn coldness for harmlessness."""
    lm = FakeLM(lambda chat, seed: f"text {seed}")
    row = asyncio.run(
        pairer(lm, PairConfig(temperature=0.7, max_tokens=5), 3)(
            PairItem(prompt=prompt(), places=(0, 1))
        )
    )
    assert row.sampled is not None
    first, second = row.sampled
    assert (row.first, row.second) == (f"text {first.seed}", f"text {second.seed}")
    assert first.seed != second.seed
    assert first.model_copy(update={"seed": second.seed}) == second
    assert (first.temperature, first.max_tokens, first.model) == (0.7, 5, lm.fingerprint)
    assert (row.source, row.chat) == (prompt().id, prompt().chat)
    assert (
        asyncio.run(
            pairer(lm, PairConfig(temperature=0.7, max_tokens=5), 3)(
                PairItem(prompt=prompt(), places=(0, 1))
            )
        )
        == row
    )
    assert (
        asyncio.run(
            pairer(lm, PairConfig(temperature=0.7, max_tokens=5), 4)(
                PairItem(prompt=prompt(), places=(0, 1))
            )
        )
        != row
    )


def test_equal_draws_stay_a_pair() -> None:
    row = asyncio.run(
        pairer(FakeLM(lambda chat, seed: "same"), PairConfig(), 0)(
            PairItem(prompt=prompt(), places=(0, 1))
        )
    )
    assert row.first == row.second == "same"


def test_k_replies_make_all_pairs_and_each_is_drawn_once() -> None:
    prompts = [Prompt(chat=chat_of(("user", f"ask {i}"))) for i in range(3)]
    lm = FakeLM(lambda chat, seed: f"reply {seed}")
    config = PairConfig(replies=4)
    items = pair_items(prompts, config, 0)
    assert len(items) == 3 * config.per_prompt == 18

    async def work() -> list[Pair]:
        step = pairer(lm, config, 0)
        return list(await asyncio.gather(*(step(item) for item in items)))

    rows = asyncio.run(work())
    assert len(lm.calls) == 3 * 4
    assert [paired_item(row) for row in rows] == [item.id for item in items]
    texts = {
        (row.source, place): text
        for row in rows
        for place, text in zip(row.places, (row.first, row.second), strict=True)
    }
    assert len(set(texts.values())) == 12
    assert all(
        row.sampled is not None and row.first == f"reply {row.sampled[0].seed}" for row in rows
    )


def test_some_of_the_pairs() -> None:
    prompts = [Prompt(chat=chat_of(("user", f"ask {i}"))) for i in range(50)]
    items = pair_items(prompts, PairConfig(replies=5, pairs=3), 0)
    assert len({item.id for item in items}) == 150
    assert len({item.places for item in items}) == 10, "every pair of places comes up"
    assert pair_items(prompts, PairConfig(replies=2), 0)[0].places == (0, 1)
