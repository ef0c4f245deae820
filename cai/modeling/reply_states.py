"""Hidden states of a reply, from any depth of a model: what linear probes read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from cai.modeling.batching import TokenIds
from cai.modeling.fast_paths import backbone
from cai.modeling.precision import autocast


@torch.no_grad()
def mean_states(
    model: PreTrainedModel, prompt: TokenIds, replies: Sequence[TokenIds], depth: float
) -> np.ndarray:
    """(reply, E), float64: the mean over a reply's tokens after a share `depth` of the blocks.

    One reply a pass: some models change their results with padding.
    """
    layer = max(1, round(depth * int(model.config.get_text_config().num_hidden_layers)))
    means = []
    for reply in replies:
        ids_1T = torch.tensor([[*prompt, *reply]], device=model.device)
        with autocast(model.device):
            output = backbone(model)(input_ids=ids_1T, output_hidden_states=True, use_cache=False)
        means.append(output.hidden_states[layer][0, len(prompt) :].double().mean(0).cpu().numpy())
    return np.stack(means)
