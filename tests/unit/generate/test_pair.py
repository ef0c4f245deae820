"""Reply pairs: their seeds, their indices, and one sample per reply."""

from __future__ import annotations

import asyncio
import gc

import pytest
from generate_toys import prompt

from cai.errors import UnansweredError
from cai.generate.pair import PairConfig, PairItem, pair_items, paired_item, pairer
from cai.lm import FakeLM
from cai.records import Chat, Pair, Prompt, chat_of


def draw(lm: FakeLM, seed: int, config: PairConfig) -> Pair:
    """The pair of the first two replies to one prompt."""
    step = pairer(lm, config, seed)
    return asyncio.run(step(PairItem(prompt=prompt(), indices=(0, 1))))


def test_pairs_differ_only_in_the_draw() -> None:
    """Two seeds, one temperature, one length limit.

    Otherwise a preference model could mistake a low temperature for harmlessness.
    """
    lm = FakeLM(lambda chat, seed: f"text {seed}")
    config = PairConfig(temperature=0.7, max_tokens=5)
    row = draw(lm, 3, config)
    assert row.sampled is not None
    first, second = row.sampled
    assert (row.first, row.second) == (f"text {first.seed}", f"text {second.seed}")
    assert first.seed != second.seed
    assert first.model_copy(update={"seed": second.seed}) == second
    assert (first.temperature, first.max_tokens, first.model) == (0.7, 5, lm.fingerprint)
    assert (row.source, row.chat) == (prompt().id, prompt().chat)
    assert draw(lm, 3, config) == row
    assert draw(lm, 4, config) != row


def test_equal_draws_stay_a_pair() -> None:
    row = draw(FakeLM(lambda chat, seed: "same"), 0, PairConfig())
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
        (row.source, index): text
        for row in rows
        for index, text in zip(row.places, (row.first, row.second), strict=True)
    }
    assert len(set(texts.values())) == 12
    assert all(
        row.sampled is not None and row.first == f"reply {row.sampled[0].seed}" for row in rows
    )


def test_some_of_the_pairs() -> None:
    prompts = [Prompt(chat=chat_of(("user", f"ask {i}"))) for i in range(50)]
    items = pair_items(prompts, PairConfig(replies=5, pairs=3), 0)
    assert len({item.id for item in items}) == 150
    assert len({item.indices for item in items}) == 10, "all pairs of indices are drawn"
    assert pair_items(prompts, PairConfig(replies=2), 0)[0].indices == (0, 1)


def test_two_failures_of_a_pair_are_one_null_row(caplog: pytest.LogCaptureFixture) -> None:
    """The second one is nobody's to wait for: asyncio must not print its traceback."""

    def fails(chat: Chat, seed: int) -> str:
        raise UnansweredError("http://x: status 400")

    row = draw(FakeLM(fails), 0, PairConfig())
    assert row.unscored == "no answer: http://x: status 400"
    gc.collect()
    assert caplog.text == ""
