"""The blocks under those that learn say the same about the same rows every time: they are computed once per batch of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def frozen_blocks(base: PreTrainedModel, layers: int | None) -> list[nn.Module]:
    """The model's blocks below its last `layers`; none when all of them learn."""
    count = int(base.config.num_hidden_layers)
    stacks = [m for m in base.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    return list(stacks[0])[: max(0, count - layers)] if stacks and layers is not None else []


@dataclass
class FrozenCache:
    """What `blocks`, the model's lowest, make of one batch of rows: read in the first pass, put in their place in later ones."""

    blocks: list[nn.Module]
    outputs: list[Any] = field(default_factory=list)
    """Of the last of them, each time it was passed: rows that share an opening take two passes. Whoever uses one object for other
    rows gets the first rows' outputs."""

    @contextlib.contextmanager
    def reuse(self) -> Iterator[None]:
        """Inside, a pass over the rows computes the blocks the first time only. The first pass must run without gradients."""
        if not self.blocks:
            yield
        elif not self.outputs:
            hook = self.blocks[-1].register_forward_hook(self._keep)
            try:
                yield
            finally:
                hook.remove()
        else:
            left, current = iter(self.outputs), [None]

            def begin(*_: Any, **__: Any) -> Any:
                current[0] = next(left)
                return current[0]

            for block in self.blocks:
                block.forward = begin if block is self.blocks[0] else lambda *_, **__: current[0]
            try:
                yield
            finally:
                for block in self.blocks:
                    del block.forward

    def _keep(self, block: nn.Module, given: Any, output: Any) -> None:
        self.outputs.append(output)
