"""Toys of the preference model's tests: an untrained model on the tiny Llama, and replies."""

from __future__ import annotations

from pathlib import Path

import torch

from cai.modeling.loading import load_model
from cai.modeling.lora import adapter_parameters, with_adapter
from cai.modeling.tokenization import load_renderer
from cai.records import chat_of
from cai.reward.preference_model import ADAPTER, PreferenceModel

HELLO = chat_of(("user", "hello"))
REPLIES = ["yes", "no, and here is why: " + "because " * 12, "", "a", "what do you mean by that?"]


def untrained_model(
    tiny: Path, seed: int = 0, layers: int | None = None, random_adapter: bool = True
) -> PreferenceModel:
    """A preference model; its adapter is random, or (as at the start of training) has no effect."""
    torch.manual_seed(seed)
    model = PreferenceModel(
        with_adapter(load_model(str(tiny)), ADAPTER, 4, layers), load_renderer(tiny)
    )
    if random_adapter:
        with torch.no_grad():
            for parameter in adapter_parameters(model.shared[0], ADAPTER):
                parameter.normal_(0, 0.1)
    return model
