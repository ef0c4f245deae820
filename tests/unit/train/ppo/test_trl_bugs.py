"""The mistakes of TRL 1.12's PPO, one by one: ours does not make them, and a re-creation of each
fails the same check.

Row 0 is a reply of three tokens, the last of which ends it; row 1 is one of two that was cut short.
End and pad are one token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from ppo_toys import experience_of, fresh, fresh_actor, with_settings
from torch import Tensor

from cai.modeling.loading import load_model
from cai.modeling.tokenization import load_renderer
from cai.records import Prompt, chat_of
from cai.train import losses
from cai.train.ppo.actor import LoraActor
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.reward_table import add_missing_eos_penalty, sum_rewards
from cai.train.ppo.rollout import Rollout, token_logprobs
from cai.train.ppo.trainer import PPOTrainer

MASK = torch.tensor([[True, True, True], [True, True, False]])
LOGP = torch.tensor([[-1.0, -2.0, -3.0], [-1.5, -0.5, 0.0]])
PROMPT = Prompt(chat=chat_of(("user", "hi"), ("assistant", "yes"), ("user", "go on")))
CONFIG = with_settings(
    PPOConfig(),
    num_updates=1,
    prompts_per_update=2,
    responses_per_prompt=2,
    temperature=1.0,
    lora_rank=4,
    num_minibatches=2,
    whiten_advantages=False,
)
ONE_MINIBATCH = with_settings(CONFIG, num_minibatches=1)


@pytest.fixture
def trainer(tiny_model: Path) -> PPOTrainer:
    return fresh(tiny_model, CONFIG)


def rollouts(tiny: Path, *replies: list[int]) -> list[Rollout]:
    renderer = load_renderer(tiny)
    ids = renderer.prompt_ids(PROMPT.chat)
    return [
        Rollout(PROMPT, ids, reply, renderer.text(reply), reply[-1] == renderer.eos_token_id)
        for reply in replies
    ]


def test_every_minibatch_is_an_optimiser_step(trainer: PPOTrainer, tiny_model: Path) -> None:
    """#5645: one step per epoch, however many minibatches were asked for."""
    steps: list[int] = []
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    made = rollouts(tiny_model, [3, 4, 257], [5, 6], [7, 257], [8, 9])
    parts = [[0, 1], [2, 3]]
    trainer.optimize(
        *experience_of(trainer.actor, made, [1.0, 0.0, 0.5, 0.2], CONFIG, minibatches=parts)
    )
    assert len(steps) == 2


def at_the_last_token(rewards: Callable[[Tensor], Tensor]) -> bool:
    found = rewards(torch.tensor([5.0, 7.0]))
    return bool(found[0, 2] == 5 and found[1, 1] == 7 and found.sum() == 12)


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
    """ppo_trainer.py:99: with pad == eos, ends of turns inside the prompt, and the reply's own end,
    counted as padding.
    """
    made = rollouts(tiny_model, [65, 257], [66, 67, 257, 68, 69])
    assert load_renderer(tiny_model).pad_token_id == 257 in made[0].prompt_ids
    experience, _ = experience_of(trainer.actor, made, [1.0, 0.0], CONFIG)
    plain = load_model(str(tiny_model))

    def alone(r: Rollout, *, masked: bool) -> Tensor:
        ids_1T = torch.tensor([r.prompt_ids + r.response_ids])
        seen_1T = ids_1T != 257 if masked else torch.ones_like(ids_1T)
        logits_TV = (
            plain(ids_1T, attention_mask=seen_1T.long()).logits[0, len(r.prompt_ids) - 1 : -1]
            / CONFIG.rollout.temperature
        )
        return (
            logits_TV.log_softmax(-1).gather(-1, torch.tensor(r.response_ids)[:, None]).squeeze(-1)
        )

    for rollout, logp_T in zip(made, experience.logps, strict=True):
        torch.testing.assert_close(logp_T, alone(rollout, masked=False), atol=1e-4, rtol=0)
        assert float((logp_T - alone(rollout, masked=True)).detach().abs().max()) > 1e-3


def test_stopping_is_told_by_the_stop_token_that_was_drawn(tiny_model: Path) -> None:
    """ppo_trainer.py:757: the missing-stop penalty looked for eos_token_id, whatever token was to
    end a reply.
    """
    made = rollouts(tiny_model, [3, 257], [257, 4])
    table: dict[str, list[float | None]] = {"r": [1.0, 1.0]}
    assert sum_rewards(add_missing_eos_penalty(table, made, 0.25))[1] == [1.0, 0.75]


def test_metrics_are_means_over_tokens_and_not_over_padding(
    trainer: PPOTrainer, tiny_model: Path
) -> None:
    """ppo_trainer.py:857-867. `neg_logp` is minus the mean log-probability of five drawn tokens,
    not of six places.
    """
    made = rollouts(tiny_model, [3, 4, 257], [5, 6])
    experience, first_forward = experience_of(trainer.actor, made, [1.0, 0.0], CONFIG)
    metrics = trainer.optimize(experience, first_forward)
    drawn = torch.cat(experience.logps)
    assert len(drawn) == 5
    assert metrics["neg_logp"] == pytest.approx(float(-drawn.mean()), rel=1e-5)
    assert metrics["neg_logp"] != pytest.approx(float(-drawn.sum() / 6), rel=1e-3)


def test_whitening_is_over_the_whole_batch() -> None:
    """ppo_trainer.py:797 standardised each process's own; two processes are compared with one in
    test_actor.py.
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
    trainer = fresh(tiny_model, with_settings(CONFIG, max_grad_norm=1e-3))
    met: list[float] = []

    def norm(*_: object) -> None:
        met.append(
            float(
                torch.stack(
                    [
                        p.grad.norm()
                        for p in trainer.actor.trainable_parameters()
                        if p.grad is not None
                    ]
                ).norm()
            )
        )

    trainer.optimizer.register_step_pre_hook(norm)
    made = rollouts(tiny_model, [3, 4, 257], [5, 6])
    experience, first_forward = experience_of(trainer.actor, made, [9.0, -9.0], CONFIG)
    metrics = trainer.optimize(experience, first_forward)
    assert (metrics["grad_norm"] or 0.0) > 1e-3
    assert met == pytest.approx([1e-3], rel=1e-3)


def test_logits_are_made_a_chunk_at_a_time() -> None:
    """`output_scores=True` kept all B x T x V of them."""
    seen: list[int] = []
    head = torch.nn.Linear(8, 50)
    head.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    torch.manual_seed(0)
    hidden, tokens = torch.randn(1300, 8), torch.randint(50, (1300,))
    found = token_logprobs(hidden, tokens, head, 0.7)
    assert seen == [128] * 10 + [20]
    want = (head(hidden) / 0.7).log_softmax(-1)[torch.arange(1300), tokens]
    torch.testing.assert_close(found, want)


def unmoved_by_padding(mean_reward: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whatever stands in the padding of the log-probabilities, nothing changes."""
    clean, poisoned = (torch.where(MASK, LOGP, torch.tensor(fill)) for fill in (0.0, 1.0))
    return bool(torch.equal(mean_reward(clean, clean * 0), mean_reward(poisoned, clean * 0)))


def test_no_sentinel_stands_in_for_a_log_probability() -> None:
    """INVALID_LOGPROB = 1.0 in padding leaks wherever a mask is forgotten."""

    def ours(logp: Tensor, ref: Tensor) -> Tensor:
        rewards = losses.token_rewards(torch.tensor([1.0, 2.0]), logp, ref, MASK, 0.1)
        return losses.gae(rewards, torch.zeros(2, 3), MASK, gamma=1.0, lam=0.95)

    def forgotten(logp: Tensor, ref: Tensor) -> Tensor:
        return -0.1 * (logp - ref).mean(1)

    assert unmoved_by_padding(ours)
    assert not unmoved_by_padding(forgotten)


def ratios_begin_at_one(old: Sequence[Tensor], actor: LoraActor, made: list[Rollout]) -> bool:
    experience, _ = experience_of(actor, made, [1.0, 0.0], CONFIG)
    error = max(
        float((a - b).detach().abs().max()) for a, b in zip(old, experience.logps, strict=True)
    )
    return error < 1e-6


def test_old_log_probabilities_are_read_as_the_new_ones_will_be(
    trainer: PPOTrainer, tiny_model: Path
) -> None:
    """Old ones came from generation: other kernels, other shapes, and here another temperature."""
    made = rollouts(tiny_model, [3, 4, 257], [5, 6])
    experience, _ = experience_of(trainer.actor, made, [1.0, 0.0], CONFIG)
    # computed again, as later micro-batches are
    assert trainer.optimize(experience)["first_ratio_error"] == 0
    trainer.optimizer.zero_grad()
    again = fresh_actor(tiny_model, CONFIG, seed=1)
    assert ratios_begin_at_one(experience.logps, again, made)
    sampled, copied = [], load_model(str(tiny_model))
    again.copy_weights_to(copied)
    for rollout in made:
        logits = copied(torch.tensor([rollout.prompt_ids + rollout.response_ids])).logits[
            0, len(rollout.prompt_ids) - 1 : -1
        ]
        sampled.append(
            (logits / 0.7)
            .log_softmax(-1)
            .gather(-1, torch.tensor(rollout.response_ids)[:, None])
            .squeeze(-1)
        )
    assert not ratios_begin_at_one(sampled, again, made)
