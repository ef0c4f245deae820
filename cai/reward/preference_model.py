"""A preference model: a causal model's backbone, a LoRA adapter, and a scalar head.

The head is applied to the hidden state of the token that ends the reply. Training and scoring share
`rows` and `unnormalized_scores`, so a text has the same score in both. The end token's index comes
from row lengths, never from the pad token's id. A truncated reply is scored as if it ended there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cai.errors import StoreError, blame
from cai.modeling.batching import length_batches, right_pad
from cai.modeling.fast_paths import hidden_width
from cai.modeling.loading import window_of
from cai.modeling.lora import (
    ADAPTER_FILE,
    adapter_tensors,
    add_adapter,
    hidden_states,
    set_adapter_tensors,
)
from cai.modeling.out_of_memory import BatchLimit
from cai.modeling.tokenization import Renderer
from cai.records import Chat
from cai.reward.scale import gain_and_bias

ADAPTER = "reward"
HEAD_FILE = "head.json"
HEAD_PREFIX = "head."
"""Of the head's tensors in the adapter file."""


class PreferenceModel(nn.Module):
    """Scores replies with the adapter `reward` of a shared base.

    Args:
        model: the base with its adapters. An adapter named `reward` is added when there is none.
        renderer: turns chats into tokens.
        rank, layers: of the adapter, when it is added here (see `cai.modeling.lora.lora_config`).
    """

    def __init__(
        self, model: PeftModel, renderer: Renderer, *, rank: int = 16, layers: int | None = None
    ) -> None:
        super().__init__()
        add_adapter(model, ADAPTER, rank, layers)
        self.shared = (model,)  # in a tuple, so that the base is not a submodule of this module
        self.renderer = renderer
        width = hidden_width(model)
        self.head = nn.Linear(width, 1, device=model.device)
        nn.init.normal_(self.head.weight, std=(width + 1) ** -0.5)  # as in arXiv:1909.08593
        nn.init.zeros_(self.head.bias)
        self.gain = 1.0
        self.bias = 0.0
        self._limit = BatchLimit("preference model")

    def rows(self, chat: Chat, reply: str) -> list[int]:
        """Token ids of a chat and its complete reply, end token included."""
        return self.renderer.prompt_ids(chat) + self.renderer.response_ids(reply)

    def unnormalized_scores(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """(B,) scores before normalisation, with gradients."""
        model = self.shared[0]
        ids_BT, mask_BT = right_pad(rows, self.renderer.pad_token_id, model.device)
        hidden_BTE = hidden_states(model, ADAPTER, ids_BT)
        last_B = mask_BT.sum(1) - 1
        score_B1: Tensor = self.head(hidden_BTE[torch.arange(len(rows)), last_B].float())
        return score_B1.squeeze(-1)

    @torch.no_grad()
    def score(self, rows: Sequence[Sequence[int]], *, batch_size: int = 16) -> list[float]:
        """Normalised rewards of token rows, in the order of `rows`.

        After `normalize` they have mean 0 and variance 1 over the reference policy's replies.
        """
        scores = [0.0] * len(rows)
        for indices in length_batches(rows, batch_size):
            batch = self._limit.run([rows[i] for i in indices], len, self._score_batch)
            for index, value in zip(indices, batch, strict=True):
                scores[index] = self.gain * value + self.bias
        return scores

    def _score_batch(self, rows: Sequence[Sequence[int]]) -> list[float]:
        scores: list[float] = self.unnormalized_scores(rows).tolist()
        return scores

    @property
    def window(self) -> int:
        """Tokens that the model takes; a longer row has no score."""
        return window_of(self.shared[0].config)

    def score_within_window(self, rows: Sequence[Sequence[int]]) -> list[float | None]:
        """`score`, with None for a row that is longer than the model's window."""
        window = self.window
        scores = iter(self.score([row for row in rows if len(row) <= window]))
        return [next(scores) if len(row) <= window else None for row in rows]

    def normalize(self, scores: Sequence[float]) -> None:
        """Set gain and bias so that `scores` get mean 0 and variance 1 (arXiv:1909.08593, 2.1).

        Args:
            scores: as returned by `score` with the present gain and bias.

        Raises:
            StoreError: all scores are equal.
        """
        self.gain, self.bias = gain_and_bias(scores, self.gain, self.bias)

    def save(self, folder: Path, base: str | None = None) -> None:
        """Adapter and head as safetensors; gain and bias as JSON.

        Args:
            base: spec of the model under the adapter; None: it is beside the folder, in a run.
        """
        tensors = adapter_tensors(self.shared[0], ADAPTER)
        tensors |= {f"{HEAD_PREFIX}{name}": t for name, t in self.head.state_dict().items()}
        save_file({name: t.contiguous() for name, t in tensors.items()}, folder / ADAPTER_FILE)
        config = self.shared[0].peft_config[ADAPTER]
        targets = config.layers_to_transform
        layers = None if targets is None else len(targets)
        settings = {
            "gain": self.gain,
            "bias": self.bias,
            "rank": int(config.r),
            "layers": layers,
        } | ({} if base is None else {"base": base})
        text = json.dumps(settings, indent=2) + "\n"
        (folder / HEAD_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, model: PeftModel, renderer: Renderer, folder: Path) -> PreferenceModel:
        """The saved adapter and head on `model`, which must be the base they were trained on.

        Raises:
            StoreError: a file is missing or torn, or its tensors do not fit.
        """
        with blame(StoreError, f"{folder}: preference model"):
            settings = json.loads((folder / HEAD_FILE).read_text(encoding="utf-8"))
            tensors = load_file(folder / ADAPTER_FILE)
            head = {
                name.removeprefix(HEAD_PREFIX): tensor
                for name, tensor in tensors.items()
                if name.startswith(HEAD_PREFIX)
            }
            adapter = {k: v for k, v in tensors.items() if not k.startswith(HEAD_PREFIX)}
            self = cls(model, renderer, rank=int(settings["rank"]), layers=settings["layers"])
            set_adapter_tensors(model, ADAPTER, adapter)
            self.head.load_state_dict(head)
            self.gain = float(settings["gain"])
            self.bias = float(settings["bias"])
        return self
