"""The policy's KL, against the obvious computation of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys import tiny_llama
from transformers import PreTrainedModel

from cai.modeling.loading import load_model
from cai.modeling.tokenization import load_renderer
from cai.records import KLReply, Prompt, chat_of
from cai.train.ppo.config import RolloutConfig
from cai.train.ppo.policy_kl import kl_scores, measure_kl, response_kls, token_kls

PROMPTS = [Prompt(chat=chat_of(("user", text))) for text in ("Hi", "What is that?", "a" * 30)]


@pytest.fixture
def models(tiny_model: Path) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Policy and reference: the same with and without noise on its weights."""
    reference, policy = load_model(str(tiny_model)), load_model(str(tiny_model))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return policy, reference


def obvious_kl(
    models: tuple[PreTrainedModel, PreTrainedModel],
    prompt: list[int],
    response: list[int],
    t: float,
) -> float:
    """A forward pass for each token, and a loop over the vocabulary."""
    total = 0.0
    for end in range(len(response)):
        ids = torch.tensor([prompt + response[:end]])
        p, q = ((m(input_ids=ids).logits[0, -1] / t).softmax(-1).double() for m in models)
        total += sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True))
    return total


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_kl_of_responses_is_the_obvious_one(
    models: tuple[PreTrainedModel, PreTrainedModel], tiny_model: Path, temperature: float
) -> None:
    from cai.train.ppo.rollout import RolloutRequest, sample_rollouts

    renderer = load_renderer(tiny_model)
    config = RolloutConfig(temperature=temperature, max_new_tokens=6)
    requests = [RolloutRequest(prompt, seed=i) for i, prompt in enumerate(PROMPTS)]
    rollouts = sample_rollouts(models[0], renderer, requests, config)
    kls = response_kls(*models, rollouts, temperature, batch_size=2)
    for rollout, kl in zip(rollouts, kls, strict=True):
        expected = obvious_kl(models, rollout.prompt_ids, rollout.response_ids, temperature)
        assert kl == pytest.approx(expected, rel=1e-3)
        assert kl > 0


def test_chunks_do_not_matter() -> None:
    models = tiny_llama(seed=1).eval(), tiny_llama(seed=2).eval()
    torch.manual_seed(0)
    hidden = torch.randn(7, 32), torch.randn(7, 32)
    with torch.no_grad():
        several, single = token_kls(hidden, models, 0.7, chunk=3), token_kls(hidden, models, 0.7)
    torch.testing.assert_close(several, single)


def test_responses_are_of_the_temperature_that_they_are_measured_at(
    models: tuple[PreTrainedModel, PreTrainedModel], tiny_model: Path
) -> None:
    """The colder policy's responses are the same whatever its draws; a prompt without room has an
    unknown KL, not 0.
    """
    renderer = load_renderer(tiny_model)
    long = Prompt(chat=chat_of(("user", "x" * 4096)))
    prompts = [PROMPTS[0], long, PROMPTS[1]]

    def responses(temperature: float, seed: int) -> list[KLReply]:
        config = RolloutConfig(temperature=temperature, max_new_tokens=6)
        return measure_kl(models, renderer, prompts, config, seed)

    cold = responses(1e-3, 0)
    assert [row.response for row in cold] == [row.response for row in responses(1e-3, 1)]
    warm = responses(3.0, 0)
    assert [row.response for row in warm] != [row.response for row in responses(3.0, 1)]
    assert warm == responses(3.0, 0)
    assert [row.source for row in warm] == [prompt.id for prompt in prompts]
    assert [row.kl is None for row in warm] == [False, True, False]


def test_scores_name_their_temperature() -> None:
    rows = [
        KLReply(source=s, temperature=t, response="", finished=True, tokens=1, kl=kl)
        for s, t, kl in [("a", 1.0, 1.0), ("b", 1.0, 2.0), ("a", 0.7, None), ("b", 0.7, 4.0)]
    ]
    scores = kl_scores(rows)
    assert [(s.metric, s.subject, s.mean, s.n, s.unscored) for s in scores] == [
        ("kl.at.1", "policy", 1.5, 2, 0),
        ("kl.at.0.7", "policy", 4.0, 1, 1),
    ]
