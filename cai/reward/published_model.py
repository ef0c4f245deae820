"""A published reward model: a sequence classifier of one label, with its own chat template.

Its raw scores have any scale: `normalize` fits one. Left out: classifiers without a chat template,
and models that need code of their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cai.errors import BackendError, StoreError, blame
from cai.modeling.batching import length_batches, right_pad
from cai.modeling.loading import fingerprint, window_of
from cai.modeling.model_files import resolve_model_path, training_weights
from cai.modeling.model_spec import REWARD_PREFIX, is_reward_spec, split_spec
from cai.modeling.out_of_memory import BatchLimit
from cai.modeling.precision import device, matmul_dtype
from cai.modeling.thoughts import split_thoughts
from cai.modeling.tokenization import Renderer, load_renderer
from cai.records import Chat, Message
from cai.reward.scale import gain_and_bias

PUBLISHED_FILE = "published.json"


class PublishedModel:
    """Scores replies as the model's authors do: the whole conversation in its own template.

    Args:
        model: a sequence classifier of one label.
        renderer: its tokenizer and chat template.
        fingerprint: distinguishes it from other models.
    """

    def __init__(self, model: Any, renderer: Renderer, fingerprint: str) -> None:
        self.model, self.renderer, self.fingerprint = model, renderer, fingerprint
        self.gain, self.bias = 1.0, 0.0
        self._limit = BatchLimit("reward model")

    def rows(self, chat: Chat, reply: str) -> list[int]:
        """Token ids of a chat with its reply, whose thought is left out."""
        text = split_thoughts(reply).text
        return self.renderer.conversation_ids((*chat, Message(role="assistant", content=text)))

    @torch.no_grad()
    def score(self, rows: Sequence[Sequence[int]], *, batch_size: int = 16) -> list[float]:
        """Rewards of token rows, in their order: `gain * raw score + bias`.

        A model that names no padding token takes one row at a time: it reads its score at the last
        token that is not padding.

        Raises:
            BackendError: a score is not a number.
        """
        pad_id = self.model.config.get_text_config().pad_token_id
        scores = [0.0] * len(rows)
        for indices in length_batches(rows, 1 if pad_id is None else batch_size):
            batch = [rows[i] for i in indices]
            for index, raw in zip(indices, self._limit.run(batch, len, self._raw), strict=True):
                scores[index] = self.gain * raw + self.bias
        if not all(map(math.isfinite, scores)):
            raise BackendError(f"reward model {self.fingerprint}: gave a score that is no number")
        return scores

    def _raw(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The model's own scores of one batch."""
        pad_id = self.model.config.get_text_config().pad_token_id or 0
        ids_BT, mask_BT = right_pad(rows, pad_id, self.model.device)
        logits_B1 = self.model(input_ids=ids_BT, attention_mask=mask_BT.long()).logits
        raw_B: list[float] = logits_B1[:, 0].float().tolist()
        return raw_B

    @property
    def window(self) -> int:
        """Tokens that the model takes; a longer row has no score."""
        return window_of(self.model.config.get_text_config())

    def score_within_window(self, rows: Sequence[Sequence[int]]) -> list[float | None]:
        """`score`, with None for a row that is longer than the model's window."""
        window = self.window
        scores = iter(self.score([row for row in rows if len(row) <= window]))
        return [next(scores) if len(row) <= window else None for row in rows]

    def normalize(self, scores: Sequence[float]) -> None:
        """Set gain and bias so that `scores` get mean 0 and variance 1, as those of a model that
        the run trains.

        Raises:
            StoreError: all scores are equal.
        """
        self.gain, self.bias = gain_and_bias(scores, self.gain, self.bias)

    def save(self, folder: Path, spec: str) -> None:
        """Which model it is, and its scale. The weights stay where they are."""
        settings = {
            "model": spec,
            "fingerprint": self.fingerprint,
            "gain": self.gain,
            "bias": self.bias,
        }
        text = json.dumps(settings, indent=2) + "\n"
        (folder / PUBLISHED_FILE).write_text(text, encoding="utf-8")


def load_published_model(name_or_path: str) -> PublishedModel:
    """A reward model from a folder or a hub id: safetensors only, and no code of its own.

    Raises:
        BackendError: it cannot be loaded, has more labels than one, or is no classifier; or its
            tokenizer has no chat template.
    """
    from transformers import AutoModelForSequenceClassification

    renderer = load_renderer(name_or_path)  # first: it is refused without a chat template
    with blame(BackendError, f"reward model {name_or_path}"):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name_or_path,
            dtype=matmul_dtype(),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise BackendError(
            f"reward model {name_or_path}: its weights lack {missing}: it is no sequence classifier"
        )
    if model.config.num_labels != 1:
        raise BackendError(
            f"reward model {name_or_path}: has {model.config.num_labels} labels: a reward model"
            " has one, its score"
        )
    model.to(device()).eval()
    return PublishedModel(model, renderer, fingerprint(name_or_path))


def published_fingerprint(spec: str) -> str:
    """That of `open_published_model`, without loading the model."""
    return fingerprint(_weights_of(spec))


def _weights_of(spec: str) -> str:
    if is_reward_spec(spec):
        return resolve_model_path(spec.removeprefix(REWARD_PREFIX))
    return training_weights(split_spec(spec)[0])


def open_published_model(spec: str) -> PublishedModel:
    """The reward model of a spec: `reward:FOLDER_OR_HUB_ID`, or `local:` for the same.

    Raises:
        UsageError: it names no weights.
        BackendError: see `load_published_model`.
    """
    return load_published_model(_weights_of(spec))


def load_saved_model(folder: Path) -> PublishedModel:
    """The model that a run's folder names, with its scale.

    Raises:
        StoreError: the file is torn, or the model is no longer the one that was scaled.
    """
    file = folder / PUBLISHED_FILE
    with blame(StoreError, str(file)):
        settings = json.loads(file.read_text(encoding="utf-8"))
        spec, recorded = str(settings["model"]), str(settings["fingerprint"])
        gain, bias = float(settings["gain"]), float(settings["bias"])
    model = open_published_model(spec)
    if model.fingerprint != recorded:
        raise StoreError(
            f"{file}: {spec} is another model now than the one that was scaled: delete"
            f" {folder.name} with its manifest, and run the stage reward again"
        )
    model.gain, model.bias = gain, bias
    return model
