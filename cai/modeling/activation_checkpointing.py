"""Gradient checkpointing: a block's activations are computed again in the backward pass, not kept.

A step then takes about a third longer, and its memory grows with one block's activations instead of
those of all. Passes without gradients compute every block once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from cai.modeling.fast_paths import fast_paths, set_fast_paths
from cai.modeling.frozen_cache import blocks_of
from cai.modeling.gated_mlp import RecomputedGatedMLP


def checkpoint_blocks(model: PreTrainedModel, num_trainable_layers: int | None = None) -> None:
    """Checkpoint the model's last `num_trainable_layers` blocks (None: all), until it is dropped.

    The frozen blocks below them keep nothing anyway. transformers' own switch works in training
    mode only, in which a model may have dropout. Of several adapters the one that is active in the
    backward pass has to be that of the forward pass.
    """
    blocks = blocks_of(model)
    # a shared prefix passes its keys from one pass to the next, and repeated blocks would add to it
    set_fast_paths(model, replace(fast_paths(model), training_prefix=False))
    for block in blocks if num_trainable_layers is None else blocks[-num_trainable_layers:]:
        block.forward = partial(_recomputed, block.forward)
        for module in block.modules():
            if isinstance(module, RecomputedGatedMLP):
                module.block_is_recomputed = True


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():  # sampling: else every token would save the generators' states
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
