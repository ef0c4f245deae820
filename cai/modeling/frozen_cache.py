"""Activation caching of frozen layers: blocks below the trained ones run once per batch of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from cai.modeling.fast_paths import fast_paths


def blocks_of(base: PreTrainedModel) -> list[nn.Module]:
    """The transformer's blocks, lowest first; none where they are not a list in the model."""
    num_layers = int(base.config.get_text_config().num_hidden_layers)
    stacks = [
        module
        for module in base.base_model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]
    return list(stacks[0]) if stacks else []


def frozen_blocks(base: PreTrainedModel, num_trainable_layers: int | None) -> list[nn.Module]:
    """The blocks below the last `num_trainable_layers`; none when that is None (all trained), or
    where replayed outputs would change the model's numbers.
    """
    if num_trainable_layers is None or not fast_paths(base).frozen_blocks:
        return []
    blocks = blocks_of(base)
    return blocks[: max(0, len(blocks) - num_trainable_layers)]


@dataclass
class FrozenCache:
    """Outputs of the model's lowest `blocks` for one batch of rows: recorded once, then replayed.

    One object belongs to one batch: used with other rows, it would give them the first rows'
    outputs.
    """

    blocks: list[nn.Module]
    outputs: list[Any] = field(default_factory=list)
    """Outputs of the last block, one per call: rows with a shared prefix take two calls a pass."""

    @contextlib.contextmanager
    def reuse(self) -> Iterator[None]:
        """Inside, a pass over the rows computes the blocks only if none has before.

        The first pass must run without gradients.
        """
        if not self.blocks:
            yield
        elif self.outputs:
            with self._replayed_outputs():
                yield
        else:
            hook = self.blocks[-1].register_forward_hook(self._record)
            try:
                yield
            finally:
                hook.remove()

    @contextlib.contextmanager
    def _replayed_outputs(self) -> Iterator[None]:
        """Inside, each block's forward returns the recorded output of the call under way."""
        remaining = iter(self.outputs)
        current: list[Any] = [None]

        def next_output(*_: Any, **__: Any) -> Any:
            current[0] = next(remaining)
            return current[0]

        def same_output(*_: Any, **__: Any) -> Any:
            return current[0]

        for block in self.blocks:
            block.forward = next_output if block is self.blocks[0] else same_output
        try:
            yield
        finally:
            for block in self.blocks:
                del block.forward

    def _record(self, block: nn.Module, inputs: Any, output: Any) -> None:
        self.outputs.append(output)
