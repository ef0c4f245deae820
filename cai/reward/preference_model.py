"""A preference model: a causal model's backbone, a LoRA adapter or none, and a scalar head.

The head is applied to the hidden state of the token that ends the reply. Training and scoring share
`rows` and `unnormalized_scores`, so a text has the same score in both. The end token's index comes
from row lengths, never from the pad token's id. A truncated reply is scored as if it ended there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from cai.errors import StoreError, blame
from cai.modeling.batching import length_batches, right_pad
from cai.modeling.fast_paths import hidden_width
from cai.modeling.loading import load_frozen, window_of
from cai.modeling.lora import (
    ADAPTER_FILE,
    adapter_tensors,
    add_adapter,
    hidden_states,
    plain_hidden_states,
    set_adapter_tensors,
)
from cai.modeling.out_of_memory import BatchLimit
from cai.modeling.tokenization import Renderer, load_renderer
from cai.records import Chat
from cai.reward.scale import gain_and_bias

ADAPTER = "reward"
HEAD_FILE = "head.json"
MODEL_FOLDER = "model"
"""In the folder of a preference model whose every weight was trained."""
HEAD_PREFIX = "head."
"""Of the head's tensors in the adapter file."""


class PreferenceModel(nn.Module):
    """Scores replies with the adapter `reward` of a shared base, or with a model of its own.

    Args:
        model: the base with its adapters. An adapter named `reward` is added when there is none. Or
            a plain model, whose weights are the preference model's own.
        renderer: turns chats into tokens.
        rank, layers: of the adapter, when it is added here (see `cai.modeling.lora.lora_config`).
    """

    def __init__(
        self,
        model: PeftModel | PreTrainedModel,
        renderer: Renderer,
        *,
        rank: int = 16,
        layers: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(model, PeftModel):
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
        ids_BT, mask_BT = right_pad(rows, self.renderer.pad_token_id, self.shared[0].device)
        hidden_BTE = self.hidden_states(ids_BT)
        last_B = mask_BT.sum(1) - 1
        score_B1: Tensor = self.head(hidden_BTE[torch.arange(len(rows)), last_B].float())
        return score_B1.squeeze(-1)

    def hidden_states(self, ids_BT: Tensor) -> Tensor:
        """(B, T, E) states that the head reads, of right-padded rows."""
        model = self.shared[0]
        if isinstance(model, PeftModel):
            return hidden_states(model, ADAPTER, ids_BT)
        return plain_hidden_states(model, ids_BT)

    @property
    def plain_base(self) -> PreTrainedModel:
        """The model under the adapter, or the model itself."""
        model = self.shared[0]
        return model.get_base_model() if isinstance(model, PeftModel) else model

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

    def save(
        self,
        folder: Path,
        base: str | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Adapter and head as safetensors; gain and bias as JSON. A model of its own as a folder
        `model` beside the head.

        Args:
            base: spec of the model under the adapter; None: it is beside the folder, in a run.
            weights: of such a model, where they are spread over processes; None: as they are.
        """
        model = self.shared[0]
        adapted = isinstance(model, PeftModel)
        tensors = adapter_tensors(model, ADAPTER) if adapted else {}
        tensors |= {f"{HEAD_PREFIX}{name}": t for name, t in self.head.state_dict().items()}
        save_file({name: t.contiguous() for name, t in tensors.items()}, folder / ADAPTER_FILE)
        settings: dict[str, Any] = {"gain": self.gain, "bias": self.bias}
        if adapted:
            config = model.peft_config[ADAPTER]
            targets = config.layers_to_transform
            layers = None if targets is None else len(targets)
            settings |= {"rank": int(config.r), "layers": layers}
            settings |= {} if base is None else {"base": base}
        else:
            self.renderer.save(model, folder / MODEL_FOLDER, weights)
        text = json.dumps(settings, indent=2) + "\n"
        (folder / HEAD_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, model: PeftModel, renderer: Renderer, folder: Path) -> PreferenceModel:
        """The saved adapter and head on `model`, which must be the base they were trained on.

        Raises:
            StoreError: a file is missing or torn, or its tensors do not fit.
        """
        with blame(StoreError, f"{folder}: preference model"):
            settings, tensors = _read(folder)
            adapter = {k: v for k, v in tensors.items() if not k.startswith(HEAD_PREFIX)}
            self = cls(model, renderer, rank=int(settings["rank"]), layers=settings["layers"])
            set_adapter_tensors(model, ADAPTER, adapter)
            self._load_head(settings, tensors)
        return self

    @classmethod
    def load_full(cls, folder: Path) -> PreferenceModel:
        """A saved preference model with a model of its own, which is in the folder too.

        Raises:
            StoreError: a file is missing or torn, or its tensors do not fit.
            BackendError: the model cannot be loaded.
        """
        weights = str(folder / MODEL_FOLDER)
        model = load_frozen(weights).requires_grad_(False)
        with blame(StoreError, f"{folder}: preference model"):
            self = cls(model, load_renderer(weights))
            self._load_head(*_read(folder))
        return self

    def _load_head(self, settings: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        head = {
            name.removeprefix(HEAD_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(HEAD_PREFIX)
        }
        self.head.load_state_dict(head)
        self.gain = float(settings["gain"])
        self.bias = float(settings["bias"])


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    settings = json.loads((folder / HEAD_FILE).read_text(encoding="utf-8"))
    return settings, load_file(folder / ADAPTER_FILE)
