"""KL divergence of a policy from its reference, on responses that the policy sampled.

For responses of the policy itself, at the temperature at which both are compared, the sum over
tokens of the exact KL between the two next-token distributions has the sequence's KL as its mean.
So has the sum of log-ratios of the sampled tokens, with more variance (arXiv:2504.10637). For
responses of another temperature neither has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cai.modeling.batch_limits import head_tokens
from cai.modeling.batching import length_batches, right_pad
from cai.modeling.fast_paths import backbone
from cai.modeling.loading import window_of
from cai.modeling.logits import logit_head
from cai.modeling.out_of_memory import BatchLimit
from cai.modeling.precision import autocast
from cai.modeling.tokenization import Renderer
from cai.records import KLReply, Prompt, Score
from cai.seeds import derive
from cai.statistics.estimates import estimate
from cai.train.losses import exact_kl
from cai.train.ppo.config import RolloutConfig
from cai.train.ppo.rollout import PAD, Rollout, RolloutRequest, sample_rollouts

METRIC = "kl.at."
"""Followed by the temperature: `kl.at.0.7`."""


def measure_kl(
    models: tuple[PreTrainedModel, PreTrainedModel],
    renderer: Renderer,
    prompts: Sequence[Prompt],
    config: RolloutConfig,
    seed: int,
) -> list[KLReply]:
    """One response of the policy to each prompt, sampled at `config.temperature`, with its KL.

    Args:
        models: (policy, reference).
        config: its temperature and `max_new_tokens` count.

    Returns:
        Rows in the order of `prompts`. A prompt that leaves no room in the window for a response
        has no response, and an unknown KL.
    """
    policy, reference = models
    room = window_of(policy.config) - config.max_new_tokens
    fitting = [p for p in prompts if len(renderer.prompt_ids(p.chat)) <= room]
    requests = [RolloutRequest(p, derive(seed, "kl", config.temperature, p.id)) for p in fitting]
    rollouts = sample_rollouts(policy, renderer, requests, config)
    kls = response_kls(policy, reference, rollouts, config.temperature)
    measured = {r.prompt.id: (r, kl) for r, kl in zip(rollouts, kls, strict=True)}
    return [
        _kl_reply(prompt.id, config.temperature, *measured.get(prompt.id, (None, None)))
        for prompt in prompts
    ]


def _kl_reply(
    source: str, temperature: float, rollout: Rollout | None, kl: float | None
) -> KLReply:
    return KLReply(
        source=source,
        temperature=temperature,
        response=rollout.text if rollout else "",
        finished=bool(rollout and rollout.finished),
        tokens=len(rollout.response_ids) if rollout else 0,
        kl=kl,
    )


@torch.no_grad()
def response_kls(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    rollouts: Sequence[Rollout],
    temperature: float,
    batch_size: int = 16,
) -> list[float]:
    """KL(policy, reference) of each response, nats: the sum over its tokens (the stop token is
    one) of the exact KL of the next-token distributions, both at `temperature`.
    """
    kls = [0.0] * len(rollouts)
    limit = BatchLimit("KL from the reference")

    def measure(batch: Sequence[Rollout]) -> list[float]:
        kl_N = token_kls(
            (_response_hidden(policy, batch), _response_hidden(reference, batch)),
            (policy, reference),
            temperature,
        )
        lengths = [len(rollout.response_ids) for rollout in batch]
        return [float(kl_T.sum()) for kl_T in torch.split(kl_N, lengths)]

    for indices in length_batches([rollout.ids for rollout in rollouts], batch_size):
        batch = [rollouts[i] for i in indices]
        measured = limit.run(batch, lambda rollout: len(rollout.ids), measure)
        for i, kl in zip(indices, measured, strict=True):
            kls[i] = kl
    return kls


def token_kls(
    hidden: tuple[Tensor, Tensor],
    models: tuple[PreTrainedModel, PreTrainedModel],
    temperature: float,
    chunk: int | None = None,
) -> Tensor:
    """(N,) exact KL at each token, nats, from the states (N, hidden) of policy and reference.

    The heads run on `chunk` tokens at a time: the logits of all would not fit memory.
    """
    heads = [logit_head(model) for model in models]
    parts = []
    chunk = chunk or head_tokens(hidden[0].device)
    for states in zip(*(torch.split(hidden_NE, chunk) for hidden_NE in hidden), strict=True):
        logits, ref_logits = (
            head(hidden_ME).float() / temperature
            for head, hidden_ME in zip(heads, states, strict=True)
        )
        parts.append(exact_kl(logits, ref_logits))
    return torch.cat(parts)


def _response_hidden(model: PreTrainedModel, rollouts: Sequence[Rollout]) -> Tensor:
    """(N, hidden): states from which each response token is predicted, packed row after row."""
    ids_BT, _ = right_pad([rollout.ids for rollout in rollouts], PAD, model.device)
    with autocast(model.device):
        hidden_BTE = backbone(model)(input_ids=ids_BT, use_cache=False).last_hidden_state
    spans = [(len(r.prompt_ids) - 1, len(r.ids) - 1) for r in rollouts]
    packed = torch.cat([hidden_BTE[i, start:stop] for i, (start, stop) in enumerate(spans)])
    return packed.to(model.dtype)


def kl_scores(rows: Iterable[KLReply]) -> list[Score]:
    """`kl.at.T` of the policy for each temperature, in order of appearance."""
    by_temperature: dict[float, list[KLReply]] = {}
    for row in rows:
        by_temperature.setdefault(row.temperature, []).append(row)
    return [
        estimate(
            f"{METRIC}{temperature:g}",
            "policy",
            [row.kl for row in replies],
            [row.source for row in replies],
            proportion=False,
        )
        for temperature, replies in by_temperature.items()
    ]
