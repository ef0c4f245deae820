"""Several samples of one text, of which the best is kept, and replies that were cut."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from generate_toys import ONE_PRINCIPLE, declines, prompt

from cai.errors import TransientError, UnansweredError
from cai.generate.filters import GradedGate
from cai.generate.revise import ReviseConfig, reviser
from cai.lm import FakeLM
from cai.records import Chat, Kind, Prompt, PromptDraw, Revision
from cai.seeds import derive

SCORES: Mapping[str, float | None] = {
    "sorry a": 1.0,
    "sorry b": 3.0,
    "sorry b again": 3.0,
    "sorry ungraded": None,
    "take this": 9.0,
    "sorry. It is cut": 8.0,
    "sorry.": 8.0,
}
GATE = GradedGate(declines, lambda prompt, reply: SCORES.get(reply))


def author(revisions: list[str | Exception], row: Prompt, name: str = "revision 0") -> FakeLM:
    """A model whose samples of the text `name` are `revisions`, in their order."""
    names = [name, *(f"{name} sample {i}" for i in range(1, len(revisions)))]
    texts = {
        derive(0, "revise", row.id, sample): text
        for sample, text in zip(names, revisions, strict=True)
    }

    def reply(chat: Chat, seed: int) -> str:
        text = texts.get(seed, "Here you go.")
        if isinstance(text, Exception):
            raise text
        return text

    return FakeLM(reply)


def revised(revisions: list[str | Exception], **settings: object) -> Revision:
    row = prompt()
    config = ReviseConfig.model_validate({"samples": len(revisions), "max_tokens": 3} | settings)
    step = reviser(ONE_PRINCIPLE, author(revisions, row), config, GATE, 0)
    return asyncio.run(step(PromptDraw(prompt=row)))


@pytest.mark.parametrize(
    ("revisions", "kept"),
    [
        (["sorry a", "sorry b", "sorry a"], 1),
        (["sorry b", "sorry b again"], 0),
        (["sorry ungraded", "sorry a"], 1),
        (["take this", "sorry ungraded"], 1),
        (["sorry. It is cut", "sorry a"], 1),
        (["take this", "sorry. It is cut"], 1),
    ],
    ids=["score", "first-of-equals", "ungraded-last", "gate", "cut-last", "cut-before-refused"],
)
def test_the_best_sample_is_kept(revisions: list[str | Exception], kept: int) -> None:
    """Gate, then finished, then graded, then score, then index. Three words are the limit."""
    (entry,) = revised(revisions).rounds
    assert (entry.samples, entry.sample) == (len(revisions), kept)
    assert entry.revision == str(revisions[kept]).split(" It")[0]
    assert entry.finished == ("It" not in str(revisions[kept]))


def test_one_sample_is_as_before() -> None:
    """The first of several has the seed of the only one, and a row says nothing of a choice."""
    (entry,) = revised(["sorry a"]).rounds
    assert (entry.revision, entry.samples, entry.sample) == ("sorry a", None, None)
    assert revised(["sorry a", "no"]).rounds[0].revision == "sorry a"


def test_a_gate_without_scores_keeps_the_first_that_passes() -> None:
    row = prompt()
    lm = author(["take this", "sorry a", "sorry b"], row)
    step = reviser(ONE_PRINCIPLE, lm, ReviseConfig(samples=3), declines, 0)
    assert asyncio.run(step(PromptDraw(prompt=row))).final == "sorry a"


def test_samples_that_an_endpoint_refuses_are_passed_over() -> None:
    """A refusal for good leaves the others; all refused, or one failed for now, drops the row."""
    refused, failed = UnansweredError("filtered"), UnansweredError("busy")
    failed.__cause__ = TransientError("status 503")
    assert revised([refused, "sorry a"]).final == "sorry a"
    assert revised([refused, refused]).dropped == "no answer: filtered"
    assert revised(["sorry a", failed]).dropped == "no answer for now: busy"


@pytest.mark.parametrize(("kind", "samples"), [("benign", 2), ("disallowed", None)])
def test_first_replies_that_no_round_revises_are_the_best_of_several(
    kind: Kind, samples: int | None
) -> None:
    """A reply to be revised is drawn once: what it is good for is a critique."""
    row = prompt(kind=kind)
    lm = author(["sorry a", "sorry b"], row, "reply 0")
    step = reviser(ONE_PRINCIPLE, lm, ReviseConfig(samples=2), GATE, 0)
    result = asyncio.run(step(PromptDraw(prompt=row)))
    assert result.initial_samples == samples
    assert result.initial == ("sorry b" if samples else "sorry a")
    without_rounds = reviser(ONE_PRINCIPLE, lm, ReviseConfig(samples=2, rounds=0), GATE, 0)
    assert asyncio.run(without_rounds(PromptDraw(prompt=row))).initial == "sorry b"


def test_helpful_replies_have_a_limit_of_their_own() -> None:
    """Six words are cut at three where the reply is revised, and not at six where it is not."""
    text = "sorry one. Two three four five"
    config = ReviseConfig(max_tokens=3, helpful_max_tokens=6)
    for kind, initial, finished in (
        ("benign", text, True),
        ("disallowed", "sorry one.", False),
    ):
        row = Prompt(chat=prompt().chat, kind=kind)  # type: ignore[arg-type]
        step = reviser(ONE_PRINCIPLE, FakeLM(lambda chat, seed: text), config, GATE, 0)
        result = asyncio.run(step(PromptDraw(prompt=row)))
        assert (result.initial, result.initial_finished) == (initial, finished)
        if kind == "benign":
            assert result.final_finished is True
