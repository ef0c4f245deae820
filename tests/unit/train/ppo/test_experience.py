"""Experience: advantages by kind, scaled rewards, minibatches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ppo_toys import (
    CONFIG,
    experience_of,
    fresh_actor,
    literal_logprobs,
    logprobs_and_states,
    rollout_of,
    with_settings,
)

from cai.modeling.tokenization import load_renderer
from cai.records import Prompt, chat_of
from cai.seeds import rng
from cai.train.ppo.actor import POLICY
from cai.train.ppo.experience import micro_batch_size, random_partition


def test_micro_batches_are_as_the_device_suits_unless_they_are_set() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    unset = with_settings(CONFIG, micro_batch_size=None)
    assert [micro_batch_size(unset, device) for device in (cpu, gpu)] == [16, 64]
    sharded = with_settings(unset, mode="full", shard=True)
    assert [micro_batch_size(sharded, device) for device in (cpu, gpu)] == [16, 16]
    assert micro_batch_size(with_settings(CONFIG, micro_batch_size=3), gpu) == 3


def test_advantages_are_centred_by_kind(tiny_model: Path) -> None:
    """All replies to one kind earn 1 and all to the other 5: centred, all advantages are 0.

    The returns, which the critic learns, are the same.
    """
    renderer = load_renderer(tiny_model)
    prompts = [Prompt(chat=chat_of(("user", kind)), kind=kind) for kind in ("disallowed", "benign")]
    rollouts = [rollout_of([1, 2, 3][: i + 1], renderer, prompts[i % 2]) for i in range(3)]
    for center in (True, False):
        config = with_settings(
            CONFIG, center_by_kind=center, value_lam=1.0, whiten_advantages=False, kl={"coef": 0.0}
        )
        experience, _ = experience_of(fresh_actor(tiny_model), rollouts, [1.0, 5.0, 1.0], config)
        assert [set(row.tolist()) for row in experience.advantages] == (
            [{0.0}] * 3 if center else [{1.0}, {5.0}, {1.0}]
        )
        assert [set(row.tolist()) for row in experience.returns] == [{1.0}, {5.0}, {1.0}]


def test_the_end_token_counts_although_it_is_the_pad_token(tiny_model: Path) -> None:
    """Log-probabilities equal those of an unpadded forward pass, with end tokens in prompt and
    reply.
    """
    renderer = load_renderer(tiny_model)
    assert renderer.eos_token_id == renderer.pad_token_id
    prompt = Prompt(chat=chat_of(("user", "a"), ("assistant", "b"), ("user", "cc")))
    rollouts = [
        rollout_of([65, renderer.eos_token_id], renderer, prompt),
        rollout_of([66, 67, 68], renderer),
        rollout_of([renderer.eos_token_id], renderer),
    ]
    assert renderer.eos_token_id in rollouts[0].prompt_ids
    actor = fresh_actor(tiny_model)
    logps, states = logprobs_and_states(actor, POLICY, rollouts, temperature=0.7)
    for rollout, logp_T, state_TE in zip(rollouts, logps, states, strict=True):
        with torch.no_grad(), actor.rollout_model() as sampler:
            want = literal_logprobs(sampler, rollout, temperature=0.7).tolist()
        assert logp_T.tolist() == pytest.approx(want, abs=1e-4)
        assert len(state_TE) == len(rollout.response_ids)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(8, [2, 2, 2, 2]), (7, [2, 2, 2, 1]), (5, [2, 2, 1]), (3, [1, 1, 1]), (1, [1])],
)
def test_minibatches_are_a_partition(count: int, sizes: list[int]) -> None:
    """At most four; every rollout is in one of them, in an order that depends on the seed alone."""
    parts = random_partition(count, 4, rng(0, "here"))
    assert [len(part) for part in parts] == sizes
    assert sorted(index for part in parts for index in part) == list(range(count))
    assert parts == random_partition(count, 4, rng(0, "here"))
    assert count < 5 or parts != random_partition(count, 4, rng(0, "there"))


def test_rewards_may_be_rescaled_over_the_update(tiny_model: Path) -> None:
    """Tokens' rewards 0 1 | 0 5: mean 1.5, mean square 6.5, variance 4.25. The critic predicts 0:
    returns are 1 and 5, divided by the root of the variance.
    """
    renderer = load_renderer(tiny_model)
    rollouts = [rollout_of([65, 66], renderer), rollout_of([67, 68], renderer)]
    config = with_settings(CONFIG, scale_rewards=True, value_lam=1.0)
    experience, _ = experience_of(
        fresh_actor(tiny_model), rollouts, [1.0, 5.0], config, kl_coef=0.0
    )
    assert [row.tolist() for row in experience.returns] == [
        pytest.approx([r / 4.25**0.5] * 2, abs=1e-5) for r in (1.0, 5.0)
    ]
