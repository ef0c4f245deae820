"""From hidden states to logits, as the model does that.

Most models' logits are their head's outputs. Some scale them (Cohere, Granite) or cap them
(Gemma 2): what a model does is taken from its own forward pass, run on the head's outputs alone.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from cai.modeling.fast_paths import backbone, fast_paths

LogitFunction = Callable[[Tensor], Tensor]


class _BackboneOutput:
    """Stands for what a backbone returns: no field of the output is read but the states."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: Any) -> Any:
        return self.last_hidden_state if index == 0 else ()

    def __getattr__(self, name: str) -> None:
        return None


def logit_head(model: PreTrainedModel) -> LogitFunction:
    """Hidden states -> logits, in the format of the weights."""
    head: Any = model.get_output_embeddings()
    if fast_paths(model).raw_logits:
        return head  # type: ignore[no-any-return]
    finish = forward_finish(model)
    return lambda hidden: finish(head(hidden))


def logit_head_fp32(model: PreTrainedModel) -> LogitFunction:
    """Hidden states -> logits in float32; bfloat16 would round log-odds to steps of 1/8 nat."""
    head: Any = model.get_output_embeddings()
    weight_VE = head.weight.float()
    bias_V = None if head.bias is None else head.bias.float()
    finish = logit_finish(model)
    return lambda hidden_NE: finish(
        # of a model on several GPUs, the head may be on another than the last block
        linear(hidden_NE.to(weight_VE.device).float(), weight_VE, bias_V)
    )


def logit_finish(model: PreTrainedModel) -> LogitFunction:
    """The head's outputs (..., V) -> the model's logits."""
    return (lambda raw: raw) if fast_paths(model).raw_logits else forward_finish(model)


def forward_finish(model: PreTrainedModel) -> LogitFunction:
    """`logit_finish` by the model's forward pass without what comes before its head.

    The model is not touched: copies without weights of their own stand for its parts.
    """

    def finish(raw: Tensor) -> Tensor:
        raw_1NV = raw.reshape(1, -1, raw.shape[-1])
        shell = copy.copy(model)
        head, base = model.get_output_embeddings(), backbone(model)
        hidden_1N1 = raw_1NV[..., :1].detach()
        shell._modules = {
            name: _stub(child, raw_1NV)
            if child is head
            else _stub(child, _BackboneOutput(hidden_1N1))
            if child is base
            else child
            for name, child in model._modules.items()
        }
        ids_1N = torch.zeros(1, raw_1NV.shape[1], dtype=torch.long, device=raw.device)
        output = type(model).forward(shell, input_ids=ids_1N, use_cache=False)
        logits: Tensor = output.logits
        return logits.reshape(raw.shape)

    return finish


def _stub(module: nn.Module, output: Any) -> nn.Module:
    """A copy without hooks that returns `output`; attributes stay readable."""
    stub = copy.copy(module)
    stub._forward_pre_hooks, stub._forward_hooks = OrderedDict(), OrderedDict()
    stub.forward = lambda *args, **kwargs: output
    return stub
