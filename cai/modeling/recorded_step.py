"""A decoding step that a GPU records once and replays: torch's CUDA graphs.

A step of a small batch is hundreds of short kernels, and launching them one by one takes the host
longer than the GPU takes to run them. A recording is launched as one. What it reads and writes
keeps its shape and address, so free columns of the cache are read too, behind the mask.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache

from cai.modeling.kv_cache import reserve, set_length, writing_at

StepForward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Token ids (B, 1), positions (B, 1) and mask (B, 1, 1, C) -> hidden states (B, 1, E)."""


class RecordedStep:
    """Steps of one batch until its cache has no free column.

    On a CPU, where nothing is recorded, a call computes the same.

    Args:
        mask_BT: True where the cache holds a token of the row.
        position_B: of each row's next token.
    """

    def __init__(
        self, forward: StepForward, cache: Cache, mask_BT: Tensor, position_B: Tensor
    ) -> None:
        self.forward, self.cache = forward, cache
        self.length = mask_BT.shape[1]
        self.columns = reserve(cache)
        self.mask_BC = pad(mask_BT, (0, self.columns - self.length))
        self.position_B = position_B.clone()
        self.column_1 = torch.full((1,), self.length, device=mask_BT.device)
        self.ids_B = torch.zeros_like(position_B)
        self.graph = self._record() if mask_BT.device.type == "cuda" else None

    @property
    def is_full(self) -> bool:
        return self.length == self.columns

    def __call__(self, ids_B: Tensor) -> Tensor:
        """Append a token to each row; returns hidden states (B, E), which the next call changes."""
        self.ids_B.copy_(ids_B)
        self.length += 1
        if self.graph is None:
            return self._compute()
        self.graph.replay()
        return self.hidden_BE

    def finish(self) -> tuple[Tensor, Tensor]:
        """(mask_BT, position_B) with the tokens of all calls; the cache then holds them too."""
        set_length(self.cache, self.length)
        return self.mask_BC[:, : self.length], self.position_B

    def _compute(self) -> Tensor:
        self.mask_BC.index_fill_(1, self.column_1, True)
        with writing_at(self.cache, self.column_1):
            hidden_B1E = self.forward(
                self.ids_B[:, None], self.position_B[:, None], self.mask_BC[:, None, None, :]
            )
        self.position_B += 1
        self.column_1 += 1
        return hidden_B1E[:, 0]

    def _record(self) -> torch.cuda.CUDAGraph:
        changed = (self.mask_BC, self.position_B, self.column_1)
        before = [tensor.clone() for tensor in changed]
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(self.mask_BC.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._compute()  # what the libraries set up at first may not be recorded
            # other threads may go on using the GPU meanwhile
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.hidden_BE = self._compute()
            except Exception:
                with contextlib.suppress(RuntimeError):  # that it failed is said by the error
                    graph.capture_end()
                raise
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)
        return graph
