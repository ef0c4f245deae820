"""Relevance: what a prompt tells a model of a reply, by hand and beside plain forward passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from preference_toys import untrained_model

from cai.modeling.loading import load_model
from cai.records import Chat, Prompt, chat_of
from cai.reward import relevance
from cai.reward.composite import RewardWeights, Scorers, reward_parts
from cai.reward.relevance import LIMIT, relevance_scorer

OTHERS: list[Chat] = [chat_of(("user", text)) for text in ("aa", "bb", "cc")]


def test_by_hand() -> None:
    """-1 after its prompt, -1.5 and -1.7 after others: 0.6. Unknown without others."""
    assert relevance._clipped([-1.0, -1.5, -1.7]) == pytest.approx(0.6)
    assert relevance._clipped([-1.0, -9.0]) == LIMIT
    assert relevance._clipped([-1.0, None, -1.5]) == pytest.approx(0.5)
    assert relevance._clipped([-1.0, None]) is None
    assert relevance._clipped([None, -1.0]) is None


def literal_logprob(model: torch.nn.Module, prompt: list[int], reply: list[int]) -> float:
    """Mean log-probability of the reply's tokens: one forward pass of a plain model."""
    with torch.no_grad():
        logits_1TV = model(input_ids=torch.tensor([prompt + reply])).logits
    logp_TV = torch.log_softmax(logits_1TV[0].float(), -1)
    steps = range(len(prompt) - 1, len(prompt) + len(reply) - 1)
    return sum(float(logp_TV[t, token]) for t, token in zip(steps, reply, strict=True)) / len(reply)


def test_equals_plain_forward_passes(tiny_model: Path) -> None:
    """Two prompts, one of them among those to compare with, which then is left out."""
    judge = untrained_model(tiny_model)
    renderer, plain = judge.renderer, load_model(str(tiny_model))
    own = chat_of(("user", "Hello there"))
    prompts, replies = [Prompt(chat=own), Prompt(chat=OTHERS[0])], ["Hi", "a longer reply"]
    scores = relevance_scorer(judge.shared[0], renderer, OTHERS)(prompts, replies)
    expected = []
    for chat, compared, reply in ((own, OTHERS[:2], "Hi"), (OTHERS[0], OTHERS[1:], replies[1])):
        ids = renderer.response_ids(reply)
        after = [literal_logprob(plain, renderer.prompt_ids(c), ids) for c in [chat, *compared]]
        expected.append(after[0] - sum(after[1:]) / 2)
    assert scores == pytest.approx(expected, abs=1e-5)


def test_what_does_not_fit_the_window_is_unknown(tiny_model: Path) -> None:
    judge = untrained_model(tiny_model)
    score = relevance_scorer(judge.shared[0], judge.renderer, OTHERS)
    prompt = Prompt(chat=chat_of(("user", "Hello")))
    long, short = score([prompt, prompt], ["x" * judge.window, "x"])
    assert long is None
    assert short is not None


def test_too_few_prompts_to_compare_with(tiny_model: Path) -> None:
    judge = untrained_model(tiny_model)
    with pytest.raises(ValueError, match="needs 3 prompts"):
        relevance_scorer(judge.shared[0], judge.renderer, OTHERS[:2])


def test_as_a_part_of_the_reward() -> None:
    """Weighted; 0 where a refusal or comfort may suit many prompts."""
    prompts = [
        Prompt.model_validate({"chat": OTHERS[0], "kind": kind})
        for kind in ("benign", None, "disallowed", "sensitive")
    ]
    weights = RewardWeights(pm=0, rubric=0, relevance=2.0)
    scorers = Scorers(relevance=lambda prompts, replies: [0.5] * len(replies))
    table = reward_parts(prompts, ["reply"] * 4, scorers, weights)
    assert table == {"relevance": [1.0, 1.0, 0.0, 0.0]}
