"""Tiny decoders against transformers alone: texts, log-probabilities and LoRA's gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import get_peft_model
from plain_decoding import END, random_rows
from transformers import GenerationConfig

from cai.modeling import probe
from cai.modeling.batching import right_pad
from cai.modeling.decoding import shared_prefix
from cai.modeling.generation import generate, option_logprobs
from cai.modeling.lora import (
    adapter_parameters,
    adapter_tensors,
    hidden_states,
    lm_head,
    lora_config,
    set_adapter_tensors,
    with_adapter,
)
from cai.modeling.sampling import Generation

NEW_TOKENS = 6
SHARED = random_rows(20, seed=2)[0]
ROWS = random_rows(1, 25, 8, seed=1, head=SHARED)
"""Rows of 21 to 45 tokens, more and less than a window, that begin alike."""
OPTIONS = [[[5], [9, 4, 77]], [[250], [3, 3]], [[1, 2], [7]]]


def measured(model: Any) -> Any:
    """The model as `load_model` would return it."""
    probe.measure(model)
    return model


def generate_all(model: Any, rows: Sequence[list[int]], temperature: float) -> list[Generation]:
    return generate(
        model,
        rows,
        max_tokens=[NEW_TOKENS] * len(rows),
        temperatures=[temperature] * len(rows),
        seeds=list(range(len(rows))),
        stop_ids=frozenset({END}),
        pad=END,
        prefix=shared_prefix(model, rows),
        record_logprobs=True,
    )


@torch.no_grad()
def plain_greedy(plain: Any, row: list[int]) -> list[int]:
    """What `generate` of transformers gives for the row alone."""
    config = GenerationConfig(
        do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=END, eos_token_id=END
    )
    ids_1T = torch.tensor([row])
    plain.generation_config = GenerationConfig()
    output = plain.generate(
        ids_1T, attention_mask=torch.ones_like(ids_1T), generation_config=config
    )
    ids: list[int] = output[0, len(row) :].tolist()
    return ids


@torch.no_grad()
def plain_logps(plain: Any, row: list[int], reply: list[int]) -> torch.Tensor:
    """log P(token | what precedes it) of each token of `reply`, by one forward pass."""
    logits_TV = plain(torch.tensor([[*row, *reply]]), use_cache=False).logits[0, len(row) - 1 : -1]
    logps: torch.Tensor = logits_TV.log_softmax(-1).gather(-1, torch.tensor(reply)[:, None])[:, 0]
    return logps


def check_numbers(plain: Any, model: Any) -> None:
    """Greedy texts are equal, and log-probabilities of options and of draws to 1e-4 nats."""
    greedy = generate_all(model, ROWS, 0.0)
    assert [draw.ids for draw in greedy] == [plain_greedy(plain, row) for row in ROWS]
    scores = option_logprobs(model, ROWS, OPTIONS, pad=END, prefix=shared_prefix(model, ROWS))
    want = [
        [float(plain_logps(plain, row, option).sum()) for option in options]
        for row, options in zip(ROWS, OPTIONS, strict=True)
    ]
    torch.testing.assert_close(torch.tensor(scores), torch.tensor(want), atol=1e-4, rtol=0)
    for row, draw in zip(ROWS, generate_all(model, ROWS, 1.0), strict=True):
        want_T = plain_logps(plain, row, draw.ids)
        torch.testing.assert_close(torch.tensor(draw.logps), want_T, atol=1e-4, rtol=0)


def check_gradients(build: Callable[[], Any]) -> None:
    """Right-padded rows with a shared beginning, against each row alone through peft's layers."""
    base = measured(build())
    model = with_adapter(base, "policy", 4)
    config = lora_config(build(), 4)
    config._custom_modules = None
    plain = get_peft_model(build(), config, adapter_name="policy").eval()
    torch.manual_seed(1)
    for parameter in adapter_parameters(model, "policy"):
        torch.nn.init.normal_(parameter, 0, 0.1)
    set_adapter_tensors(plain, "policy", adapter_tensors(model, "policy"))
    ids_BT = right_pad(ROWS, END, base.device)[0]
    hidden_BTE = hidden_states(model, "policy", ids_BT)
    head = lm_head(model)
    loss = _next_token_loss([head(hidden_BTE[i, : len(row)]) for i, row in enumerate(ROWS)])
    plain_loss = _next_token_loss(
        [plain(input_ids=torch.tensor([row]), use_cache=False).logits[0] for row in ROWS]
    )
    torch.testing.assert_close(loss, plain_loss, atol=1e-5, rtol=0)
    gradients, plain_gradients = (
        torch.autograd.grad(value, adapter_parameters(m, "policy"), allow_unused=True)
        for value, m in ((loss, model), (plain_loss, plain))
    )
    pairs = list(zip(gradients, plain_gradients, strict=True))
    assert any(gradient is not None and gradient.abs().max() > 1e-3 for gradient in gradients)
    for gradient, plain_gradient in pairs:
        assert (gradient is None) == (plain_gradient is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, plain_gradient, atol=1e-5, rtol=1e-3)


def _next_token_loss(logits: list[torch.Tensor]) -> torch.Tensor:
    losses = [
        torch.nn.functional.cross_entropy(logits_TV[:-1], torch.tensor(row[1:]))
        for logits_TV, row in zip(logits, ROWS, strict=True)
    ]
    return torch.stack(losses).mean()
