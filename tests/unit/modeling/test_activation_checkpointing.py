"""Activations computed again: equal gradients, and a second forward pass of blocks that
learn, which ends with the last activation that is needed.
"""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cai.modeling.activation_checkpointing import checkpoint_blocks
from cai.modeling.frozen_cache import blocks_of
from cai.modeling.loading import load_model
from cai.modeling.lora import plain_hidden_states


@pytest.mark.parametrize(("last", "recomputed"), [(None, [2, 2]), (1, [1, 2])])
def test_gradients_are_those_of_kept_activations(
    tiny_model: Path, last: int | None, recomputed: list[int]
) -> None:
    """Rows with a long common beginning, which are then no longer computed apart."""
    ids_BT = torch.arange(40).repeat(3, 1)
    ids_BT[:, -4:] += torch.arange(3)[:, None]
    gradients = []
    for checkpointed in (False, True):
        model = load_model(str(tiny_model))
        calls = [0, 0]
        if checkpointed:
            checkpoint_blocks(model, last)

        def count(block: int, calls: list[int] = calls) -> None:
            calls[block] += 1

        for number, block in enumerate(blocks_of(model)):
            block.input_layernorm.register_forward_pre_hook(
                lambda *_, n=number, count=count: count(n)
            )  # type: ignore[union-attr]
        plain_hidden_states(model, ids_BT).square().sum().backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad for p in model.base_model.parameters()])
    assert calls == recomputed
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-4, atol=1e-3)


def test_a_block_keeps_none_of_its_wide_states(tiny_model: Path) -> None:
    """Three rows of 40 tokens: those of the MLP are 64 wide. Two of each block's are kept without
    checkpoints; the MLP has hooks of its own, which go before those of a checkpoint.
    """
    ids_BT = torch.arange(120).view(3, 40)
    kept = []
    for checkpointed in (False, True):
        model = load_model(str(tiny_model))
        if checkpointed:
            checkpoint_blocks(model)
        hidden_BTE = plain_hidden_states(model, ids_BT)
        gc.collect()
        tensors = [t for t in gc.get_objects() if type(t) is Tensor and t.shape == (3, 40, 64)]
        kept.append(len({t.untyped_storage().data_ptr() for t in tensors}))
        assert hidden_BTE.requires_grad
        del hidden_BTE, tensors
    assert kept == [4, 0]
