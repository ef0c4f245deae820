"""Memory that runs out with too many rows: torch's errors, raised from the blocks of a Llama."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 8192 bytes. Error code 12 (Cannot allocate memory)"
)


def run_out_above(
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    error: Exception = GPU,
    where: Literal["forward", "backward"] = "forward",
) -> list[int]:
    """From here on a block fails with more than `rows` rows; returns the sizes that failed.

    In the backward pass it fails at its lowest block, when the others have their gradients.
    """
    failed: list[int] = []
    forward = LlamaDecoderLayer.forward

    def fail(size: int) -> None:
        failed.append(size)
        raise type(error)(str(error))

    def checked(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        size = len(hidden_states)
        if where == "forward" and size > rows:
            fail(size)
        output = forward(self, hidden_states, *args, **kwargs)
        tensor = output[0] if isinstance(output, tuple) else output
        is_lowest = self.self_attn.layer_idx == 0
        if where == "backward" and size > rows and is_lowest and tensor.requires_grad:
            tensor.register_hook(lambda gradient: fail(size))
        return output

    monkeypatch.setattr(LlamaDecoderLayer, "forward", checked)
    return failed
