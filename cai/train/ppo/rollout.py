"""Rollouts: sampled responses, and their log-probabilities under policy and reference."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from cai.modeling.batch_limits import batch_limits, head_tokens
from cai.modeling.batching import length_batches, right_pad
from cai.modeling.decoding import shared_prefix
from cai.modeling.frozen_cache import FrozenCache
from cai.modeling.generation import generate
from cai.modeling.out_of_memory import BatchLimit
from cai.modeling.sampling import Generation
from cai.modeling.tokenization import Renderer
from cai.records import Prompt
from cai.seeds import derive
from cai.train.ppo.actor import ForwardModel
from cai.train.ppo.config import RolloutConfig
from cai.train.ppo.critic import KINDS
from cai.train.ppo.prompt_sampler import with_repeat_index

PAD = 0
"""Any token will do: under causal attention, what follows a response does not change it."""
SAMPLING_BATCH = 64
"""Responses sampled together."""
SAMPLING = "sampling responses"


@dataclass(frozen=True)
class Rollout:
    """One sampled response to one prompt."""

    prompt: Prompt
    prompt_ids: list[int]
    response_ids: list[int]
    """As sampled: with the stop token, if there is one."""
    text: str
    """Without thoughts: no reward sees them."""
    finished: bool
    """Whether the model ended the response itself, and its thoughts."""
    sampler_logps: list[float] | None = None
    """Log-probability of each token as it was sampled, nats; None: not recorded."""

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + self.response_ids


RewardTable = dict[str, list[float | None]]
"""Name of a part of the reward -> its value for each rollout. None: unknown; the rollout is left
out, and counted.
"""
RewardFn = Callable[[Sequence[Rollout]], RewardTable | Awaitable[RewardTable]]
"""A plain function, or a coroutine function where rewards are requested from a server."""


@dataclass(frozen=True)
class RolloutRequest:
    """A response to be sampled."""

    prompt: Prompt
    seed: int


def rollout_requests(
    prompts: Sequence[Prompt], responses_per_prompt: int, seed: int, update: int
) -> list[RolloutRequest]:
    """Every response of an update, prompt by prompt. A prompt that occurs twice in an update gets
    other draws the second time.
    """
    return [
        RolloutRequest(
            prompt, derive(seed, "rollout", update, prompt.id, repeat * responses_per_prompt + k)
        )
        for prompt, repeat in with_repeat_index(prompts)
        for k in range(responses_per_prompt)
    ]


def sample_rollouts(
    model: PreTrainedModel,
    renderer: Renderer,
    requests: Sequence[RolloutRequest],
    config: RolloutConfig,
    limit: BatchLimit | None = None,
) -> list[Rollout]:
    """One response per request, in their order. Each draw follows from the request's own seed, not
    from its batch.

    Args:
        limit: of what memory has room for, as far as earlier calls know; None: unknown.
    """
    limit = limit or BatchLimit(SAMPLING)
    ids_of = {request.prompt.id: renderer.prompt_ids(request.prompt.chat) for request in requests}
    prompt_ids = [ids_of[request.prompt.id] for request in requests]
    rollouts: dict[int, Rollout] = {}

    def sample(indices: Sequence[int]) -> list[Rollout]:
        rows = [prompt_ids[i] for i in indices]
        generations = generate(
            model,
            rows,
            max_tokens=[config.max_new_tokens] * len(rows),
            temperatures=[config.temperature] * len(rows),
            seeds=[requests[i].seed for i in indices],
            stop_ids=renderer.stop_ids,
            pad=renderer.pad_token_id,
            prefix=shared_prefix(model, rows),
            record_logprobs=True,
        )
        return [
            _rollout(renderer, requests[i].prompt, ids, generation)
            for i, ids, generation in zip(indices, rows, generations, strict=True)
        ]

    rows = batch_limits(model).rows if model.device.type == "cuda" else SAMPLING_BATCH
    for indices in length_batches(prompt_ids, rows):
        sampled = limit.run(indices, lambda i: len(prompt_ids[i]) + config.max_new_tokens, sample)
        rollouts.update(zip(indices, sampled, strict=True))
    return [rollouts[i] for i in range(len(requests))]


def _rollout(
    renderer: Renderer, prompt: Prompt, prompt_ids: list[int], generation: Generation
) -> Rollout:
    reply = renderer.reply(generation.ids)
    return Rollout(
        prompt,
        prompt_ids,
        generation.ids,
        reply.text,
        generation.finished and reply.is_closed,
        generation.logps,
    )


def response_hidden(
    model: ForwardModel, rollouts: Sequence[Rollout], frozen: FrozenCache
) -> Tensor:
    """(N, hidden): states from which each response token is predicted, packed row after row; with
    gradients where enabled.

    Args:
        frozen: outputs of the layers that do not learn, computed at the first pass and reused at
            later ones.
    """
    ids_BT, _ = right_pad([rollout.ids for rollout in rollouts], PAD, model.device)
    with frozen.reuse():
        hidden_BTE = model.backbone(ids_BT)
    # the token at position p is predicted from the state at p - 1
    spans = [(len(r.prompt_ids) - 1, len(r.ids) - 1) for r in rollouts]
    return torch.cat([hidden_BTE[i, start:stop] for i, (start, stop) in enumerate(spans)])


def token_logprobs(
    hidden_NE: Tensor,
    tokens_N: Tensor,
    lm_head: Callable[[Tensor], Tensor],
    temperature: float,
    chunk: int | None = None,
) -> Tensor:
    """(N,) log-probability of each sampled token at the sampling temperature, nats.

    The head runs on `chunk` tokens at a time (None: as the device suits). Logits are not kept for
    the backward pass but computed again, for a chunk of them is larger than all hidden states
    together.
    """

    def chunk_logprobs(hidden_ME: Tensor, tokens_M: Tensor) -> Tensor:
        # in place: the logits have no other reader, and a second tensor of their size takes longer
        # to get than to fill
        return -cross_entropy(
            lm_head(hidden_ME).float().div_(temperature), tokens_M, reduction="none"
        )

    parts = []
    chunk = chunk or head_tokens(hidden_NE.device)
    for start in range(0, len(tokens_N), chunk):
        hidden_ME, tokens_M = hidden_NE[start : start + chunk], tokens_N[start : start + chunk]
        if torch.is_grad_enabled():
            parts.append(checkpoint(chunk_logprobs, hidden_ME, tokens_M, use_reentrant=False))
        else:
            parts.append(chunk_logprobs(hidden_ME, tokens_M))
    return torch.cat(parts)


def response_logprobs(
    model: ForwardModel, rollouts: Sequence[Rollout], frozen: FrozenCache, temperature: float
) -> Tensor:
    """(N,) log-probability of each response token, nats, packed row after row; with gradients where
    enabled.
    """
    hidden_NE = response_hidden(model, rollouts, frozen)
    return token_logprobs(
        hidden_NE, response_tokens(rollouts, model.device), model.lm_head, temperature
    )


def response_tokens(rollouts: Sequence[Rollout], device: torch.device) -> Tensor:
    """(N,) response tokens, packed row after row."""
    return torch.tensor(
        [token for rollout in rollouts for token in rollout.response_ids], device=device
    )


def token_kinds(rollouts: Sequence[Rollout], device: torch.device) -> Tensor:
    """(N,) index into KINDS of the prompt that each response token answers."""
    kinds = [KINDS.index(rollout.prompt.kind) for rollout in rollouts for _ in rollout.response_ids]
    return torch.tensor(kinds, device=device)


@torch.no_grad()
def batched_logprobs(
    model: ForwardModel,
    rollouts: Sequence[Rollout],
    batches: Sequence[tuple[Sequence[int], FrozenCache]],
    temperature: float,
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Index of a rollout -> log-probabilities (T,) of its response, and the states (T, hidden) that
    they were computed from.

    Args:
        batches: indices of rollouts with the cache of their frozen layers. They are run as they
            are: the same rows in the same shape give the same numbers again later.
    """
    logps: dict[int, Tensor] = {}
    states: dict[int, Tensor] = {}
    for indices, frozen in batches:
        batch = [rollouts[i] for i in indices]
        hidden_NE = response_hidden(model, batch, frozen)
        logp_N = token_logprobs(
            hidden_NE, response_tokens(batch, model.device), model.lm_head, temperature
        )
        lengths = [len(rollout.response_ids) for rollout in batch]
        logps.update(zip(indices, torch.split(logp_N, lengths), strict=True))
        states.update(zip(indices, torch.split(hidden_NE, lengths), strict=True))
    return logps, states


@torch.no_grad()
def critic_states(
    backbone: Callable[[Tensor], Tensor],
    model: ForwardModel,
    rollouts: Sequence[Rollout],
    batches: Sequence[Sequence[int]],
) -> dict[int, Tensor]:
    """Index of a rollout -> states (T, hidden) from which its tokens are predicted, under another
    backbone than `model`'s.
    """
    states: dict[int, Tensor] = {}
    reader = replace(model, backbone=backbone)
    for indices in batches:
        batch = [rollouts[i] for i in indices]
        hidden_NE = response_hidden(reader, batch, FrozenCache([]))
        states.update(
            zip(indices, torch.split(hidden_NE, [len(r.response_ids) for r in batch]), strict=True)
        )
    return states


def padded(rows: Sequence[Tensor]) -> Tensor:
    """(B, T), zeros after each row's end."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
