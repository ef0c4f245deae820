"""A preference model: a causal model's trunk, a LoRA adapter, and one number read at the token that ends the reply.

Training and scoring share `rows` and `raw`, so a text has one score wherever it is asked for. The place is found from lengths,
never from the pad token's number, and a reply that was cut short is scored as if it ended there.
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
from cai.modeling.lora import (
    ADAPTER_FILE,
    adapter_tensors,
    add_adapter,
    hidden_states,
    set_adapter_tensors,
)
from cai.modeling.tokenization import Renderer
from cai.records import Chat

ADAPTER = "reward"
HEAD_FILE = "head.json"


class PreferenceModel(nn.Module):
    """Scores replies with the adapter `reward` of a shared base.

    Args:
        model: the base with its adapters. An adapter named `reward` is added when there is none.
        renderer: turns chats into tokens.
        rank, layers: of the adapter, when it is added here (see `cai.lm.adapters.lora`).
    """

    def __init__(
        self, model: PeftModel, renderer: Renderer, *, rank: int = 16, layers: int | None = None
    ) -> None:
        super().__init__()
        add_adapter(model, ADAPTER, rank, layers)
        self.shared = (
            model,
        )  # in a tuple: the base belongs to its owner and isn't a parameter of this module
        self.renderer = renderer
        width = int(model.config.hidden_size)
        self.head = nn.Linear(width, 1, device=model.device)
        nn.init.normal_(
            self.head.weight, std=(width + 1) ** -0.5
        )  # arXiv:1909.08593: the reward head's start
        nn.init.zeros_(self.head.bias)
        self.gain, self.bias = 1.0, 0.0

    def rows(self, chat: Chat, reply: str) -> list[int]:
        """Token ids of a chat and one whole reply."""
        return self.renderer.prompt_ids(chat) + self.renderer.reply_ids(reply)

    def raw(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """(B,) scores before normalisation, with gradients."""
        model = self.shared[0]
        ids_BT, mask_BT = right_pad(rows, self.renderer.pad_id, model.device)
        hidden_BTE = hidden_states(model, ADAPTER, ids_BT)
        last_B = mask_BT.sum(1) - 1
        score_B1: Tensor = self.head(hidden_BTE[torch.arange(len(rows)), last_B].float())
        return score_B1.squeeze(-1)

    @torch.no_grad()
    def score(self, rows: Sequence[Sequence[int]], *, batch: int = 16) -> list[float]:
        """Normalised rewards of token rows: mean 0 and variance 1 over the reference policy's replies."""
        found = [0.0] * len(rows)
        for places in length_batches(rows, batch):
            for place, value in zip(
                places, self.raw([rows[i] for i in places]).tolist(), strict=True
            ):
                found[place] = self.gain * value + self.bias
        return found

    def normalize(self, scores: Sequence[float]) -> None:
        """Choose gain and bias so that these scores, as `score` gave them, get mean 0 and variance 1 (arXiv:1909.08593, 2.1)."""
        values = torch.tensor(scores, dtype=torch.float64)
        spread, mean = float(values.std(unbiased=False)), float(values.mean())
        if spread == 0:
            raise StoreError(
                "the preference model gives every reply the same score: there is nothing to normalise"
            )
        self.gain, self.bias = self.gain / spread, (self.bias - mean) / spread

    def save(self, folder: Path) -> None:
        """Adapter and head as safetensors; gain and bias as JSON."""
        tensors = adapter_tensors(self.shared[0], ADAPTER) | {
            f"head.{k}": v for k, v in self.head.state_dict().items()
        }
        save_file({name: t.contiguous() for name, t in tensors.items()}, folder / ADAPTER_FILE)
        config = self.shared[0].peft_config[ADAPTER]
        layers = None if config.layers_to_transform is None else len(config.layers_to_transform)
        numbers = {"gain": self.gain, "bias": self.bias, "rank": int(config.r), "layers": layers}
        (folder / HEAD_FILE).write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, model: PeftModel, renderer: Renderer, folder: Path) -> PreferenceModel:
        """The saved adapter and head on a base that must be the one they were trained on."""
        with blame(StoreError, f"{folder}: preference model"):
            numbers = json.loads((folder / HEAD_FILE).read_text(encoding="utf-8"))
            tensors = load_file(folder / ADAPTER_FILE)
            self = cls(model, renderer, rank=int(numbers["rank"]), layers=numbers["layers"])
            set_adapter_tensors(
                model, ADAPTER, {k: v for k, v in tensors.items() if not k.startswith("head.")}
            )
            self.head.load_state_dict(
                {k.removeprefix("head."): v for k, v in tensors.items() if k.startswith("head.")}
            )
            self.gain, self.bias = float(numbers["gain"]), float(numbers["bias"])
        return self
