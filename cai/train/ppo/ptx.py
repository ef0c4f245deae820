"""Gradients of fine-tuning text in PPO's own steps (PPO-ptx, arXiv:2203.02155 section 3.5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from cai.modeling.frozen_cache import FrozenCache
from cai.records import Prompt, chat_of
from cai.seeds import rng
from cai.train.distributed import micro_batches, shard
from cai.train.ppo.actor import Actor
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.rollout import Rollout, response_hidden, token_logprobs, tokens_of

Text = tuple[list[int], list[int]]
"""Tokens of a prompt and of the reply to it."""


@dataclass(frozen=True)
class Ptx:
    """Fine-tuning texts, from which each step draws its own by (seed, update, step)."""

    texts: Sequence[Text]
    config: PPOConfig
    seed: int

    def draw(self, step: int, number: int) -> list[Rollout]:
        if not self.config.ptx.coef or not self.texts:
            return []
        drawn = rng(self.seed, "ptx", step, number).sample(range(len(self.texts)), min(self.config.ptx.batch, len(self.texts)))
        return [Rollout(NO_PROMPT, *self.texts[i], text="", finished=True) for i in drawn]


NO_PROMPT = Prompt(chat=chat_of(("user", "-")))


def ptx_losses(actor: Actor, texts: list[Rollout], pad: int, config: PPOConfig) -> Iterator[Tensor]:
    """This process's parts of the mean log loss of the policy on the replies' tokens, nats: `config.rows` texts at a time."""
    lengths = [len(r.prompt_ids) + len(r.reply_ids) for r in texts]
    count, mine = sum(len(r.reply_ids) for r in texts), set(shard(range(len(texts))))
    for places in micro_batches(range(len(texts)), config.rows, lengths):
        own = [texts[i] for i in places]
        hidden_NE = response_hidden(actor.policy, own, pad, FrozenCache([]))
        logp_N = token_logprobs(hidden_NE, tokens_of(own, actor.policy.device), actor.policy.head, 1.0)
        yield -logp_N.mean() * (sum(len(texts[i].reply_ids) for i in places if i in mine) / count)
