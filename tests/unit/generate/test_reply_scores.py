"""Labels by relevance and by the probe: numbers by hand, a tiny model, and what is refused."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path

import generate_toys
import numpy as np
import pytest
import torch

from cai.errors import UsageError
from cai.generate import harm_probe
from cai.generate.label import labeller
from cai.generate.label_config import LabelConfig
from cai.generate.reply_scores import LOG_ODDS_A_NAT, OTHER_CHATS, relevance_log_odds
from cai.lm import FakeLM, open_lm
from cai.lm.base import LM
from cai.lm.local import load_local
from cai.pipeline.config import Run
from cai.records import Chat, Pair, Preference, chat_of
from cai.statistics.linear_probe import LinearProbe

CHAT = chat_of(("user", "Why is the sky blue?"))
RELEVANCE, PROBE = LabelConfig(preset="relevance"), LabelConfig(preset="probe")


def labelled(judge: LM, pair: Pair, config: LabelConfig = RELEVANCE) -> Preference:
    step = labeller(generate_toys.ONE_PRINCIPLE, judge, config, 0, lambda pair: (None, None))

    async def work() -> Preference:
        return await step(pair)

    return asyncio.run(work())


def pair_of(first: str, second: str, chat: Chat = CHAT) -> Pair:
    return Pair(source="p", chat=chat, first=first, second=second)


def judge(after: dict[str, float], alone: dict[str, float]) -> FakeLM:
    """A judge with these log-probabilities of replies after `CHAT`, and after other chats."""

    def odds(chat: Chat, choices: Sequence[str]) -> list[float]:
        return [(after if chat == CHAT else alone)[choice] for choice in choices]

    return FakeLM(lambda chat, seed: "", odds)


def test_log_odds_by_hand() -> None:
    """The first reply gains 8 nats by its chat, the second one 3."""
    log_odds = relevance_log_odds((-2.0, -4.0), (-10.0, -7.0))
    assert log_odds == pytest.approx(5 * LOG_ODDS_A_NAT)


def test_a_label_is_the_same_whatever_the_order() -> None:
    lm = judge({"Rays": -2.0, "Bread.": -4.0}, {"Rays": -10.0, "Bread.": -7.0})
    row = labelled(lm, pair_of("Rays", "Bread."))
    p = 1 / (1 + math.exp(-5 * LOG_ODDS_A_NAT))
    assert row.p_first == pytest.approx(p)
    (vote,) = row.votes
    assert vote.principle == "relevance"
    assert vote.logprobs == pytest.approx((math.log(p), math.log1p(-p)))
    assert vote.logprobs is not None
    assert vote.logprobs_swapped == vote.logprobs[::-1]
    assert labelled(lm, pair_of("Bread.", "Rays")).p_first == pytest.approx(1 - p)


def test_the_log_probabilities_are_those_of_the_model_alone(tiny_model: Path) -> None:
    lm = load_local(str(tiny_model))
    replies = ("It scatters.", "No.")

    def logprob(chat: Chat, reply: str) -> float:
        start, ids = lm.renderer.prompt_ids(chat), lm.renderer.text_ids(reply)
        with torch.no_grad():
            logits_TV = lm.model(torch.tensor([start + ids])).logits[0].float()
        logp_TV = logits_TV.log_softmax(-1)[len(start) - 1 : -1]
        return sum(float(logp_TV[t, token]) for t, token in enumerate(ids))

    given, apart = ([logprob(c, reply) for reply in replies] for c in (CHAT, OTHER_CHATS[0]))
    log_odds = relevance_log_odds(given, apart)
    row = labelled(lm, pair_of(*replies))
    assert row.p_first is not None
    assert math.log(row.p_first / (1 - row.p_first)) == pytest.approx(log_odds, abs=0.02)


def test_a_chat_is_not_compared_with_itself() -> None:
    """The pair is about the first of the other chats: the second one takes its role."""
    chats: list[Chat] = []

    def odds(chat: Chat, choices: Sequence[str]) -> list[float]:
        chats.append(chat)
        return [-1.0, -2.0]

    labelled(FakeLM(lambda chat, seed: "", odds), pair_of("Rice.", "Pasta.", OTHER_CHATS[0]))
    assert chats == [OTHER_CHATS[0], OTHER_CHATS[1]]


@pytest.mark.parametrize("logprobs", [None, [-1.0, -math.inf]])
def test_a_reply_without_a_number_is_no_label(logprobs: list[float] | None) -> None:
    lm = FakeLM(lambda chat, seed: "", lambda chat, choices: logprobs)
    row = labelled(lm, pair_of("a", "b"))
    assert row.p_first is None
    assert row.unscored


def test_a_reply_beyond_the_window_is_no_label(tiny_model: Path) -> None:
    row = labelled(load_local(str(tiny_model)), pair_of("a" * 5000, "b"))
    assert row.p_first is None
    assert "an option of 5000 does not fit the model's window" in str(row.unscored)


def test_clamp_applies() -> None:
    lm = judge({"Rays": -2.0, "Bread.": -4.0}, {"Rays": -10.0, "Bread.": -7.0})
    config = LabelConfig(preset="relevance", clamp=(0.45, 0.55))
    assert labelled(lm, pair_of("Rays", "Bread."), config).p_first == 0.55


ENDPOINT = "http://127.0.0.1:9/v1#m"


@pytest.mark.parametrize(
    ("spec", "config", "message"),
    [
        (ENDPOINT, RELEVANCE, "label: relevance needs log-probabilities of replies"),
        (ENDPOINT, PROBE, "label: probe reads a model's hidden states"),
        ("fake:brief", PROBE, "label: probe reads a model's hidden states"),
    ],
)
def test_a_judge_without_scores_is_refused_in_one_line(
    spec: str, config: LabelConfig, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        labelled(open_lm(spec), pair_of("a", "b"), config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("judge", [ENDPOINT, "vllm:some/model"])
@pytest.mark.parametrize("preset", ["relevance", "probe"])
def test_a_run_with_an_endpoint_is_refused_before_its_first_stage(preset: str, judge: str) -> None:
    settings = {"name": "r", "constitution": "harmless", "prompts": ["p.jsonl"]}
    settings |= {"label": {"preset": preset}, "model": "smollm2"}
    assert Run.model_validate(settings).label.ask == preset
    with pytest.raises(ValueError, match="name a"):
        Run.model_validate(settings | {"judge": judge})


@pytest.mark.parametrize("preset", ["relevance", "probe"])
@pytest.mark.parametrize("settings", [{"cot": True}, {"shots": 2}, {"principles": 3}])
def test_settings_of_a_question_are_refused(preset: str, settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{preset} asks the judge nothing"):
        LabelConfig.model_validate({"preset": preset, **settings})


# ---- the probe ----


def test_the_probe_is_fitted_once_and_reads_the_reply(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe that reads the first dimension: the log-odds are the difference of the states."""
    lm, fits = load_local(str(tiny_model)), []

    def fitted(judge: LM) -> LinearProbe:
        fits.append(judge)
        return LinearProbe(np.eye(32)[0])

    monkeypatch.setattr(harm_probe, "fitted_probe", fitted)
    replies = ("I won't.", "Sure, go at night.")
    start = lm.renderer.prompt_ids(CHAT)
    rows = [[*start, *lm.renderer.text_ids(reply)] for reply in replies]
    with torch.no_grad():
        outputs = [lm.model(torch.tensor([row]), output_hidden_states=True) for row in rows]
    first, second = (float(out.hidden_states[1][0, len(start) :, 0].mean()) for out in outputs)
    row = labelled(lm, pair_of(*replies), PROBE)
    assert row.p_first is not None
    assert math.log(row.p_first / (1 - row.p_first)) == pytest.approx(first - second, abs=0.05)
    assert [vote.principle for vote in row.votes] == ["probe"]
    assert labelled(lm, pair_of(*replies[::-1]), PROBE).p_first == pytest.approx(1 - row.p_first)
    assert fits == [lm]


def test_the_probe_of_a_model_tells_its_pairs_apart(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies of equal length, one token a byte: nothing is explained by length."""
    lm = load_local(str(tiny_model))
    pairs = [(chat_of(("user", text)), "no, never", "sure, yes") for text in "abcd"]
    assert len(harm_probe.harm_pairs()) == 60
    monkeypatch.setattr(harm_probe, "harm_pairs", lambda: pairs)
    for text in ("a", "e"):
        row = labelled(lm, pair_of("no, never", "sure, yes", chat_of(("user", text))), PROBE)
        assert row.p_first is not None
        assert row.p_first > 0.6


def test_a_reply_that_the_probe_cannot_read_is_no_label(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harm_probe, "fitted_probe", lambda judge: LinearProbe(np.ones(32)))
    row = labelled(load_local(str(tiny_model)), pair_of("a" * 5000, "b"), PROBE)
    assert row.p_first is None
    assert "does not fit the model's window of 4096" in str(row.unscored)
