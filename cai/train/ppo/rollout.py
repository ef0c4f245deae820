"""Rollouts: what the policy said, token by token, and what policy, reference and critic make of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from cai.modeling.batching import MIN_SHARED_TOKENS, length_batches, right_pad
from cai.modeling.batching import common_prefix as shared_tokens
from cai.modeling.frozen_cache import FrozenCache
from cai.modeling.generation import generate, prefill_prefix
from cai.modeling.precision import autocast
from cai.modeling.tokenization import Renderer
from cai.records import Chat, Prompt
from cai.seeds import derive
from cai.train.ppo.actor import KINDS, ForwardModel


@dataclass(frozen=True)
class Rollout:
    """One reply to one prompt."""

    prompt: Prompt
    prompt_ids: list[int]
    reply_ids: list[int]
    """As drawn: with the stop token when there is one."""
    text: str
    finished: bool


RewardTable = dict[str, list[float | None]]
"""Name of a part -> its value for each rollout. None: this part doesn't know; the rollout is left out, and counted."""
RewardFn = Callable[[Sequence[Rollout]], RewardTable | Awaitable[RewardTable]]
"""A plain function or a coroutine function: many rewards are asked of a server."""


def sample_rollouts(
    sampler: PreTrainedModel,
    renderer: Renderer,
    prompts: Sequence[tuple[Prompt, int]],
    *,
    replies: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    step: int,
    batch: int = 64,
) -> list[Rollout]:
    """`replies` draws for every prompt, addressed by (seed, step, prompt, draw).

    Args:
        prompts: each with how often it came before in this update (`counted`), so that no draw is made twice.
    """
    asked = [
        (prompt, ids, before * replies + k)
        for prompt, before in prompts
        for ids in [renderer.prompt_ids(prompt.chat)]
        for k in range(replies)
    ]
    found: list[Rollout | None] = [None] * len(asked)
    for places in length_batches([ids for _, ids, _ in asked], batch):
        rows = [asked[i][1] for i in places]
        shared = shared_tokens(rows)
        draws = generate(
            sampler,
            rows,
            max_tokens=[max_tokens] * len(rows),
            temperatures=[temperature] * len(rows),
            seeds=[derive(seed, "rollout", step, asked[i][0].id, asked[i][2]) for i in places],
            stop_ids=frozenset({renderer.stop_id}),
            pad=renderer.pad_id,
            prefix=prefill_prefix(sampler, rows[0][:shared]) if shared >= MIN_SHARED_TOKENS else None,
        )
        for i, draw in zip(places, draws, strict=True):
            prompt, ids, _ = asked[i]
            found[i] = Rollout(prompt, ids, draw.ids, renderer.text(draw.ids), draw.finished)
    return [r for r in found if r is not None]


def response_hidden(voice: ForwardModel, rollouts: Sequence[Rollout], pad: int, below: FrozenCache) -> Tensor:
    """(N, hidden): states from which each reply token was predicted, packed row after row; with gradients where they are on."""
    rows = [r.prompt_ids + r.reply_ids for r in rollouts]
    ids_BT, _ = right_pad(rows, pad, voice.device)
    with below.reuse():
        hidden_BTE = voice.hidden(ids_BT)
    pieces = [hidden_BTE[i, len(r.prompt_ids) - 1 : len(r.prompt_ids) + len(r.reply_ids) - 1] for i, r in enumerate(rollouts)]
    return torch.cat(pieces)


def token_logprobs(
    hidden_NE: Tensor, tokens_N: Tensor, head: Callable[[Tensor], Tensor], temperature: float, chunk: int = 128
) -> Tensor:
    """(N,) log-probability of each drawn token at the sampling temperature. The head runs on `chunk` tokens at a time.

    Logits are not kept for the way back but made again: a chunk of them is larger than all hidden states together.
    """

    def some(hidden_ME: Tensor, tokens_M: Tensor) -> Tensor:
        # in place: nobody else has the logits, and another tensor of their size takes longer to get than to fill
        return -cross_entropy(head(hidden_ME).float().div_(temperature), tokens_M, reduction="none")

    parts = []
    for start in range(0, len(tokens_N), chunk):
        piece = hidden_NE[start : start + chunk], tokens_N[start : start + chunk]
        parts.append(checkpoint(some, *piece, use_reentrant=False) if torch.is_grad_enabled() else some(*piece))
    return torch.cat(parts)


def response_logprobs(
    voice: ForwardModel, rollouts: Sequence[Rollout], below: FrozenCache, pad: int, temperature: float
) -> Tensor:
    """(N,) log-probability of each reply token, packed row after row; with gradients where they are on."""
    hidden_NE = response_hidden(voice, rollouts, pad, below)
    return token_logprobs(hidden_NE, tokens_of(rollouts, voice.device), voice.head, temperature)


def tokens_of(rollouts: Sequence[Rollout], device: torch.device) -> Tensor:
    """(N,) reply tokens, packed row after row."""
    return torch.tensor([token for r in rollouts for token in r.reply_ids], device=device)


def kinds_of(rollouts: Sequence[Rollout], device: torch.device) -> Tensor:
    """(N,) the kind of each reply token's prompt, as the critic counts them."""
    return torch.tensor([KINDS.index(r.prompt.kind) for r in rollouts for _ in r.reply_ids], device=device)


@torch.no_grad()
def batched_logprobs(
    voice: ForwardModel,
    rollouts: Sequence[Rollout],
    batches: Sequence[Sequence[int]],
    below: Sequence[FrozenCache],
    pad: int,
    temperature: float,
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Place of a rollout -> log-probabilities (T,) of its tokens, and the states (T, hidden) they were read from.

    `batches` (places of rollouts) are read as they are: the same rows in the same shape give the same numbers again later.
    `below` has one entry for each batch.
    """
    logps: dict[int, Tensor] = {}
    states: dict[int, Tensor] = {}
    for places, lower in zip(batches, below, strict=True):
        some = [rollouts[i] for i in places]
        hidden_NE = response_hidden(voice, some, pad, lower)
        logp_N = token_logprobs(hidden_NE, tokens_of(some, voice.device), voice.head, temperature)
        lengths = [len(r.reply_ids) for r in some]
        for i, logp_T, hidden_TE in zip(places, torch.split(logp_N, lengths), torch.split(hidden_NE, lengths), strict=True):
            logps[i], states[i] = logp_T, hidden_TE
    return logps, states


@torch.no_grad()
def critic_states(
    hidden: Callable[[Tensor], Tensor],
    voice: ForwardModel,
    rollouts: Sequence[Rollout],
    batches: Sequence[Sequence[int]],
    pad: int,
) -> dict[int, Tensor]:
    """Place of a rollout -> states (T, hidden) from which its tokens were predicted, as another reader has them."""
    found: dict[int, Tensor] = {}
    reader = replace(voice, hidden=hidden)
    for places in batches:
        some = [rollouts[i] for i in places]
        parts = torch.split(response_hidden(reader, some, pad, FrozenCache([])), [len(r.reply_ids) for r in some])
        found.update(zip(places, parts, strict=True))
    return found


def padded(rows: Sequence[Tensor]) -> Tensor:
    """(B, T), zeros after each row's end."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


@torch.no_grad()
def text_logprobs(
    model: PreTrainedModel, renderer: Renderer, said: Sequence[tuple[Chat, str, bool]], temperature: float, batch: int = 16
) -> list[float]:
    """Summed log-probability, nats, of each (chat, reply, finished) under a plain model; a drawn stop token counts.

    The reply's text is encoded anew: where the model had spelt it in other tokens, this is the number of the usual spelling.
    """
    prompts = [renderer.prompt_ids(chat) for chat, _, _ in said]
    replies = [renderer.reply_ids(text) if ended else renderer.text_ids(text) for _, text, ended in said]
    found = [0.0] * len(said)
    for places in length_batches([a + b for a, b in zip(prompts, replies, strict=True)], batch):
        ids_BT, _ = right_pad([prompts[i] + replies[i] for i in places], renderer.pad_id, model.device)
        with autocast(model.device):
            hidden_BTE = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state.to(model.dtype)
        for row, i in enumerate(places):
            start, tokens = len(prompts[i]), torch.tensor(replies[i], dtype=torch.long, device=model.device)
            hidden_TE = hidden_BTE[row, start - 1 : start + len(tokens) - 1]
            found[i] = (
                float(token_logprobs(hidden_TE, tokens, model.get_output_embeddings(), temperature).sum()) if len(tokens) else 0.0
            )
    return found
