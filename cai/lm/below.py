"""The blocks under those that learn say the same about the same rows every time: they are computed once per batch of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def frozen_blocks(base: PreTrainedModel, layers: int | None) -> list[nn.Module]:
    """The model's blocks below its last `layers`; none when all of them learn."""
    count = int(base.config.num_hidden_layers)
    stacks = [m for m in base.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    return list(stacks[0])[: max(0, count - layers)] if stacks and layers is not None else []


@dataclass
class Below:
    """What `blocks`, the model's lowest, make of one batch of rows: read in the first pass, put in their place in later ones."""

    blocks: list[nn.Module]
    output: Any = None
    """Of the last of them. Whoever uses one object for other rows gets the first rows' output."""

    @contextlib.contextmanager
    def once(self) -> Iterator[None]:
        """Inside, a pass over the rows computes the blocks the first time only. The first pass must run without gradients."""
        if not self.blocks:
            yield
        elif self.output is None:
            hook = self.blocks[-1].register_forward_hook(self._keep)
            try:
                yield
            finally:
                hook.remove()
        else:
            for block in self.blocks:
                block.forward = lambda *_, **__: self.output
            try:
                yield
            finally:
                for block in self.blocks:
                    del block.forward

    def _keep(self, block: nn.Module, given: Any, output: Any) -> None:
        self.output = output
