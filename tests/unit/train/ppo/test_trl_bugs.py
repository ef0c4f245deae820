"""Mistakes of TRL 1.12's PPO: cai does not make them, and a re-creation of each fails the check.

Row 0 is a reply of three tokens, the last of which is the end token; row 1 has two tokens and was
truncated. The end token is also the pad token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import ppo_toys
import pytest
import torch
from ppo_toys import (
    experience_of,
    fresh_actor,
    fresh_trainer,
    gradient_norm,
    literal_logprobs,
    ratio_errors,
    rollout_of,
    with_settings,
)
from torch import Tensor

from cai.modeling.loading import load_model
from cai.modeling.tokenization import load_renderer
from cai.records import Prompt, chat_of
from cai.train import losses
from cai.train.ppo.actor import LoraActor
from cai.train.ppo.reward_table import add_missing_eos_penalty, sum_rewards
from cai.train.ppo.rollout import Rollout, token_logprobs
from cai.train.ppo.trainer import PPOTrainer

MASK = torch.tensor([[True, True, True], [True, True, False]])
LOGP = torch.tensor([[-1.0, -2.0, -3.0], [-1.5, -0.5, 0.0]])
PROMPT = Prompt(chat=chat_of(("user", "hi"), ("assistant", "yes"), ("user", "go on")))
CONFIG = with_settings(
    ppo_toys.CONFIG,
    num_updates=1,
    prompts_per_update=2,
    num_ppo_epochs=1,
    num_minibatches=2,
    whiten_advantages=False,
)
ONE_MINIBATCH = with_settings(CONFIG, num_minibatches=1)


@pytest.fixture
def trainer(tiny_model: Path) -> PPOTrainer:
    return fresh_trainer(tiny_model, CONFIG)


def rollouts(tiny: Path, *replies: list[int]) -> list[Rollout]:
    renderer = load_renderer(tiny)
    return [rollout_of(ids, renderer, PROMPT) for ids in replies]


def test_every_minibatch_is_an_optimiser_step(trainer: PPOTrainer, tiny_model: Path) -> None:
    """#5645: one step per epoch, whatever the number of minibatches."""
    steps: list[int] = []
    trainer.learner.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    batch = rollouts(tiny_model, [3, 4, 257], [5, 6], [7, 257], [8, 9])
    parts = [[0, 1], [2, 3]]
    trainer.learner.optimize(
        *experience_of(trainer.actor, batch, [1.0, 0.0, 0.5, 0.2], CONFIG, minibatches=parts)
    )
    assert len(steps) == 2


def at_the_last_token(token_rewards: Callable[[Tensor], Tensor]) -> bool:
    rewards_BT = token_rewards(torch.tensor([5.0, 7.0]))
    return bool(rewards_BT[0, 2] == 5 and rewards_BT[1, 1] == 7 and rewards_BT.sum() == 12)


def test_the_score_is_at_the_last_token_and_not_one_beyond() -> None:
    """ppo_trainer.py:778."""

    def one_beyond(score_B: Tensor) -> Tensor:
        rewards = torch.zeros(2, 3)
        rewards[torch.arange(2), torch.minimum(MASK.sum(1), torch.tensor(2))] = score_B
        return rewards

    assert at_the_last_token(lambda score_B: losses.token_rewards(score_B, LOGP, LOGP, MASK, 0.1))
    assert not at_the_last_token(one_beyond)


def test_masks_come_from_lengths_and_not_from_the_pad_token(
    trainer: PPOTrainer, tiny_model: Path
) -> None:
    """ppo_trainer.py:99: with pad == eos, the ends of turns in the prompt and of the reply counted
    as padding.
    """
    batch = rollouts(tiny_model, [65, 257], [66, 67, 257, 68, 69])
    assert load_renderer(tiny_model).pad_token_id == 257 in batch[0].prompt_ids
    experience, _ = experience_of(trainer.actor, batch, [1.0, 0.0], CONFIG)
    plain = load_model(str(tiny_model))

    for rollout, logp_T in zip(batch, experience.logps, strict=True):
        expected_T = literal_logprobs(plain, rollout, CONFIG.rollout.temperature)
        torch.testing.assert_close(logp_T, expected_T, atol=1e-4, rtol=0)
        masked_T = literal_logprobs(plain, rollout, CONFIG.rollout.temperature, ignored_token=257)
        assert float((logp_T - masked_T).detach().abs().max()) > 1e-3


def test_a_reply_is_finished_if_its_last_token_is_the_end_token(tiny_model: Path) -> None:
    """ppo_trainer.py:757: the penalty of a missing end token accepted eos_token_id anywhere, and
    only that, whatever the end token was.
    """
    batch = rollouts(tiny_model, [3, 257], [257, 4])
    table: dict[str, list[float | None]] = {"r": [1.0, 1.0]}
    assert sum_rewards(add_missing_eos_penalty(table, batch, 0.25))[1] == [1.0, 0.75]


def test_metrics_are_means_over_tokens_and_not_over_padding(
    trainer: PPOTrainer, tiny_model: Path
) -> None:
    """ppo_trainer.py:857-867. `neg_logp` is minus the mean log-probability of five drawn tokens,
    not of six positions.
    """
    batch = rollouts(tiny_model, [3, 4, 257], [5, 6])
    experience, first_forward = experience_of(trainer.actor, batch, [1.0, 0.0], CONFIG)
    metrics = trainer.learner.optimize(experience, first_forward)
    drawn = torch.cat(experience.logps)
    assert len(drawn) == 5
    assert metrics["neg_logp"] == pytest.approx(float(-drawn.mean()), rel=1e-5)
    assert metrics["neg_logp"] != pytest.approx(float(-drawn.sum() / 6), rel=1e-3)


def test_whitening_is_over_all_processes() -> None:
    """ppo_trainer.py:797 whitened in each process alone; test_actor.py compares two processes with
    one.
    """
    x = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 0.0]])
    together = losses.whiten(x, MASK)
    apart = torch.cat([losses.whiten(x[i : i + 1], MASK[i : i + 1]) for i in range(2)])
    assert float(together[MASK].mean()) == pytest.approx(0, abs=1e-6)
    assert bool(together[0, 2] < together[1, 0])
    assert not bool(apart[0, 2] < apart[1, 0]), (
        "apart, the best of a bad reply beats the worst of a good one"
    )


def test_gradients_are_clipped(tiny_model: Path) -> None:
    """`max_grad_norm` was never used."""
    trainer = fresh_trainer(tiny_model, with_settings(CONFIG, max_grad_norm=1e-3))
    norms: list[float] = []

    def record(*_: object) -> None:
        norms.append(gradient_norm(trainer.actor.trainable_parameters()))

    trainer.learner.optimizer.register_step_pre_hook(record)
    batch = rollouts(tiny_model, [3, 4, 257], [5, 6])
    experience, first_forward = experience_of(trainer.actor, batch, [9.0, -9.0], CONFIG)
    metrics = trainer.learner.optimize(experience, first_forward)
    assert (metrics["grad_norm"] or 0.0) > 1e-3
    assert norms == pytest.approx([1e-3], rel=1e-3)


def test_logits_are_computed_in_chunks() -> None:
    """`output_scores=True` kept all B x T x V of them."""
    sizes: list[int] = []
    head = torch.nn.Linear(8, 50)
    head.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    torch.manual_seed(0)
    hidden, tokens = torch.randn(1300, 8), torch.randint(50, (1300,))
    logp = token_logprobs(hidden, tokens, head, 0.7)
    assert sizes == [128] * 10 + [20]
    want = (head(hidden) / 0.7).log_softmax(-1)[torch.arange(1300), tokens]
    torch.testing.assert_close(logp, want)


def unmoved_by_padding(mean_reward: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether the result is the same for any padding of the log-probabilities."""
    clean, poisoned = (torch.where(MASK, LOGP, torch.tensor(fill)) for fill in (0.0, 1.0))
    return bool(torch.equal(mean_reward(clean, clean * 0), mean_reward(poisoned, clean * 0)))


def test_padding_of_log_probabilities_has_no_effect() -> None:
    """INVALID_LOGPROB = 1.0 in the padding leaks wherever a mask is missing."""

    def ours(logp: Tensor, ref: Tensor) -> Tensor:
        rewards = losses.token_rewards(torch.tensor([1.0, 2.0]), logp, ref, MASK, 0.1)
        return losses.gae(rewards, torch.zeros(2, 3), MASK, gamma=1.0, lam=0.95)

    def unmasked(logp: Tensor, ref: Tensor) -> Tensor:
        return -0.1 * (logp - ref).mean(1)

    assert unmoved_by_padding(ours)
    assert not unmoved_by_padding(unmasked)


def ratios_begin_at_one(old: Sequence[Tensor], actor: LoraActor, batch: list[Rollout]) -> bool:
    experience, _ = experience_of(actor, batch, [1.0, 0.0], CONFIG)
    error = max(
        float((a - b).detach().abs().max()) for a, b in zip(old, experience.logps, strict=True)
    )
    return error < 1e-6


def test_old_log_probabilities_are_computed_as_the_new_ones(
    trainer: PPOTrainer, tiny_model: Path
) -> None:
    """Old ones came from generation: other kernels, other shapes, and in this test another
    temperature.
    """
    batch = rollouts(tiny_model, [3, 4, 257], [5, 6])
    experience, _ = experience_of(trainer.actor, batch, [1.0, 0.0], CONFIG)
    # computed again, as later micro-batches are
    taken = ratio_errors(trainer)
    trainer.learner.optimize(experience)
    assert taken[0] == 0
    trainer.learner.optimizer.zero_grad()
    again = fresh_actor(tiny_model, CONFIG, seed=1)
    assert ratios_begin_at_one(experience.logps, again, batch)
    sampler = load_model(str(tiny_model))
    again.copy_weights_to(sampler)
    sampled = [literal_logprobs(sampler, rollout, temperature=0.7) for rollout in batch]
    assert not ratios_begin_at_one(sampled, again, batch)
