"""How much a reply is about its prompt: what the prompt tells a reference model of the reply.

A reply that would suit any prompt ("You are not alone.") says nothing about the one it answers. The
log ratio of its probability after its prompt and after others is the pointwise mutual information
of prompt and reply, as in the diversity objective of arXiv:1510.03055.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy

from cai.errors import UsageError
from cai.modeling.batching import length_batches, right_pad
from cai.modeling.loading import fingerprint, load_model, window_of
from cai.modeling.lora import hidden_states, lm_head, with_adapter
from cai.modeling.model_files import training_weights
from cai.modeling.out_of_memory import BatchLimit
from cai.modeling.tokenization import Renderer, load_renderer
from cai.records import Chat, Prompt
from cai.reward.preference_model import ADAPTER
from cai.seeds import rng

Relevance = Callable[[Sequence[Prompt], Sequence[str]], list[float | None]]
"""(prompts, replies) -> nats a token, in ±`LIMIT`; None: prompt and reply do not fit the window."""

LIMIT = 1.0
"""Nats a token. A reply that repeats its prompt would earn without bound."""
OTHERS = 2
"""Other prompts that a reply is compared with."""


def relevance_scorer(
    model: PeftModel, renderer: Renderer, others: Sequence[Chat], batch_size: int = 16
) -> Relevance:
    """The relevance of replies under the base of `model`, without any adapter.

        clip(log p(reply | prompt) - mean over others of log p(reply | other), -1, 1)

    both as the mean over the reply's tokens, its end token among them. This takes
    1 + `OTHERS` forward passes a reply.

    Args:
        others: prompts to compare with, `OTHERS` + 1 or more: a reply is not compared with its own.
    """
    if len(others) <= OTHERS:
        raise ValueError(f"relevance needs {OTHERS + 1} prompts to compare with")

    def score(prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float | None]:
        chats = [[p.chat, *[c for c in others if c != p.chat][:OTHERS]] for p in prompts]
        rows = [
            (renderer.prompt_ids(chat), renderer.response_ids(reply))
            for compared, reply in zip(chats, replies, strict=True)
            for chat in compared
        ]
        means = _mean_logprobs(model, rows, renderer.pad_token_id, batch_size)
        step = 1 + OTHERS
        return [_clipped(means[i : i + step]) for i in range(0, len(means), step)]

    return score


def _clipped(logps: Sequence[float | None]) -> float | None:
    first, *others = logps
    known = [logp for logp in others if logp is not None]
    if first is None or not known:
        return None
    return max(-LIMIT, min(LIMIT, first - sum(known) / len(known)))


@torch.no_grad()
def _mean_logprobs(
    model: PeftModel, rows: Sequence[tuple[list[int], list[int]]], pad: int, batch_size: int
) -> list[float | None]:
    """Mean log-probability, nats a token, of each row's second part after its first."""
    head, window = lm_head(model), window_of(model.config)
    fitting = [i for i, (prompt, reply) in enumerate(rows) if len(prompt) + len(reply) <= window]
    ids = [rows[i][0] + rows[i][1] for i in fitting]
    means: list[float | None] = [None] * len(rows)
    limit = BatchLimit("relevance")

    def measure(indices: Sequence[int]) -> list[float]:
        ids_BT, _ = right_pad([ids[i] for i in indices], pad, model.device)
        hidden_BTE = hidden_states(model, None, ids_BT)
        measured = []
        for hidden_TE, i in zip(hidden_BTE, indices, strict=True):
            prompt, reply = rows[fitting[i]]
            # the token at position p is predicted from the state at p - 1
            states_TE = hidden_TE[len(prompt) - 1 : len(ids[i]) - 1]
            tokens_T = torch.tensor(reply, device=model.device)
            measured.append(-float(cross_entropy(head(states_TE).float(), tokens_T)))
        return measured

    for indices in length_batches(ids, batch_size):
        for i, mean in zip(
            indices, limit.run(indices, lambda i: len(ids[i]), measure), strict=True
        ):
            means[fitting[i]] = mean
    return means


def open_relevance(spec: str, prompts: Sequence[Prompt], seed: int) -> tuple[Relevance, str]:
    """(relevance under a local model, the model's fingerprint).

    Args:
        prompts: the others are drawn from them.

    Raises:
        UsageError: they are too few.
    """
    if len(prompts) <= OTHERS:
        raise UsageError(f"--reference: relevance needs {OTHERS + 1} benign prompts or more")
    weights = training_weights(spec)
    drawn = rng(seed, "relevance").sample(prompts, OTHERS + 1)
    model = with_adapter(load_model(weights), ADAPTER, 1, 1)  # the adapter is not used
    others = [prompt.chat for prompt in drawn]
    return relevance_scorer(model, load_renderer(weights), others), fingerprint(weights)
